"""Nodes of a Ray cluster as placement sees them: each one's total resources and its labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import ray

NODE_ID_LABEL = "ray.io/node-id"  # Ray sets it on every node, with the node's own id
HEAD_MARK = "node:__internal_head__"  # a resource that only the head has


@dataclass(frozen=True)
class Node:
    """One node's total resources and its labels."""

    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_head(self) -> bool:
        """Whether it is the cluster's head."""
        return HEAD_MARK in self.resources


def cluster_nodes() -> list[Node]:
    """The nodes that are alive now."""
    return [
        Node(dict(node["Resources"]), dict(node.get("Labels") or {}))
        for node in ray.nodes()
        if node["Alive"]
    ]


def total(nodes: Iterable[Node]) -> dict[str, float]:
    """The resources of all nodes together."""
    found: dict[str, float] = {}
    for node in nodes:
        for name, amount in node.resources.items():
            found[name] = found.get(name, 0.0) + amount
    return found


def labels_seen(nodes: Iterable[Node]) -> str:
    """The labels of the nodes, with the number of nodes that have each."""
    found = Counter(
        f"{key}={value}"
        for node in nodes
        for key, value in node.labels.items()
        if key != NODE_ID_LABEL
    )
    return ", ".join(f"{label} ({n} node(s))" for label, n in sorted(found.items())) or "none"
