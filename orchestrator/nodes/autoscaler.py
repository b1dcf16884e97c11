"""The report of the cluster's autoscaler: whether there is one, which nodes it is starting, what it
can never provide, and which nodes it could start. No other module knows the report's format.

Ray has no public API for this yet. The second version of its autoscaler (that of `ray up` and of
KubeRay) reports to the cluster's control service, and that report is read here. Where there is
none, or Ray has changed it, the answer is None, and a run is refused what the cluster does not have
now. The report does not contain the node types: they are read from the file that `ray up` keeps on
the head, and where they are known a message names what they lack.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import yaml

from orchestrator.nodes.nodes import NODE_ID_LABEL, Node, cluster_nodes
from orchestrator.nodes.private_ray import autoscaling_state

LAUNCHER_FILE = (
    "~/ray_bootstrap_config.yaml"  # where `ray up` puts the cluster's config, on its head
)


@dataclass(frozen=True)
class ScalerState:
    """The autoscaler's last report.

    Attributes:
        starting: number of nodes that are being started, by node type.
        refused: placement groups, by hex id, for which its node types have no room beside what runs
            now.
    """

    starting: Mapping[str, int]
    refused: frozenset[str]


def scaler_state() -> ScalerState | None:
    """The autoscaler's last report; None where no autoscaler reports."""
    report = autoscaling_state()
    try:
        return parse_report(report) if report is not None else None
    except AttributeError:  # another Ray's report
        return None


def parse_report(report: Any) -> ScalerState | None:
    """The state that Ray's `AutoscalingState` message describes; None where no autoscaler wrote
    it.
    """
    if not report.autoscaler_state_version:
        return None
    starting: Counter[str] = Counter()
    for request in report.pending_instance_requests:
        starting[request.ray_node_type_name] += request.count
    for instance in report.pending_instances:
        starting[instance.ray_node_type_name] += 1
    # A gang's details are the placement group's id, strategy and state: "ID:PACK|PENDING".
    refused = {gang.details.partition(":")[0] for gang in report.infeasible_gang_resource_requests}
    return ScalerState(dict(starting), frozenset(refused))


def possible_nodes() -> list[Node]:
    """The head, and every node that the autoscaler could start. Empty where that is not known: this
    process is not on the head of a cluster that `ray up` made, or its node types name no resources.
    """
    here = ray.get_runtime_context().get_node_id()
    head = [node for node in cluster_nodes() if node.is_head]
    if not any(node.labels.get(NODE_ID_LABEL) == here for node in head):
        return []
    try:
        text = Path(LAUNCHER_FILE).expanduser().read_text(encoding="utf-8")
    except OSError:
        return []
    return [*head, *nodes] if (nodes := startable(yaml.safe_load(text))) else []


def startable(config: Mapping[str, Any]) -> list[Node]:
    """The worker nodes of a cluster's config at each type's `max_workers`. Empty where a type does
    not name its resources, as on machines of one's own.
    """
    types = dict(config.get("available_node_types") or {})
    types.pop(config.get("head_node_type"), None)
    if not all(node_type.get("resources") for node_type in types.values()):
        return []
    most = config.get("max_workers", 0)
    return [
        Node(dict(node_type["resources"]), dict(node_type.get("labels") or {}))
        for node_type in types.values()
        for _ in range(min(most, node_type.get("max_workers", most)))
    ]
