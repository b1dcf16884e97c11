"""Nodes of a Ray cluster as placement sees them: what each has in all, and its labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import ray

RAYS_OWN_ID = "ray.io/node-id"  # a label that every node has and no other shares
HEAD_MARK = "node:__internal_head__"  # a resource that only the head has


@dataclass(frozen=True)
class Node:
    """What one node has in all, and its labels."""

    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_head(self) -> bool:
        """Whether it is the cluster's head."""
        return HEAD_MARK in self.resources


def cluster_nodes() -> list[Node]:
    """The nodes that are there now."""
    return [
        Node(dict(node["Resources"]), dict(node.get("Labels") or {}))
        for node in ray.nodes()
        if node["Alive"]
    ]


def total(nodes: Iterable[Node]) -> dict[str, float]:
    """The resources of all of them together."""
    found: dict[str, float] = {}
    for node in nodes:
        for name, amount in node.resources.items():
            found[name] = found.get(name, 0.0) + amount
    return found


def labels_seen(nodes: Iterable[Node]) -> str:
    """The labels that there are, and how often."""
    found = Counter(
        f"{key}={value}"
        for node in nodes
        for key, value in node.labels.items()
        if key != RAYS_OWN_ID
    )
    return ", ".join(f"{label} ({n} node(s))" for label, n in sorted(found.items())) or "none"
