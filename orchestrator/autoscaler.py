"""What the cluster's autoscaler says: whether there is one, which nodes it is starting, and what it
can never give. The one place that knows Ray's autoscaler; `placement` and `check` ask it.

Ray has no public way to this yet. The second version of its autoscaler (that of `ray up` and of
KubeRay) reports to the cluster's control service, and that report is read here. Where there is
none, or Ray has changed it, the answer is None, and a run is refused what the cluster has not now.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

REPLY_S = 10  # for the control service to answer


@dataclass(frozen=True)
class ScalerState:
    """The autoscaler's last report.

    Attributes:
        starting: nodes that are on their way, by the name of their type.
        refused: placement groups, by hex id, that its node types can't hold beside what runs now.
    """

    starting: Mapping[str, int]
    refused: frozenset[str]


def scaler_state() -> ScalerState | None:
    """The autoscaler's last report; None where no autoscaler reports."""
    try:
        from ray._raylet import GcsClient  # type: ignore[attr-defined]
        from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

        client = GcsClient(address=ray.get_runtime_context().gcs_address)
        reply = GetClusterStatusReply.FromString(client.get_cluster_status(timeout_s=REPLY_S))
        return read_report(reply.autoscaling_state)
    except (ImportError, AttributeError, RayError):  # another Ray, or no answer now
        return None


def read_report(report: Any) -> ScalerState | None:
    """An `AutoscalingState` of Ray's; None where it is the empty one of no autoscaler."""
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
