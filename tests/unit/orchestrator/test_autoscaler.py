from __future__ import annotations

from ray.core.generated.autoscaler_pb2 import AutoscalingState

from orchestrator.autoscaler import ScalerState, read_report


def test_an_empty_report_is_that_of_no_autoscaler() -> None:
    assert read_report(AutoscalingState()) is None


def test_nodes_that_are_asked_for_and_nodes_that_come_up_are_both_starting() -> None:
    report = AutoscalingState(autoscaler_state_version=1)
    report.pending_instance_requests.add(ray_node_type_name="data", count=2)
    report.pending_instances.add(ray_node_type_name="data")
    report.pending_instances.add(ray_node_type_name="memory")
    assert read_report(report) == ScalerState({"data": 3, "memory": 1}, frozenset())


def test_what_the_node_types_can_never_hold_is_refused_by_its_id() -> None:
    report = AutoscalingState(autoscaler_state_version=7)
    report.infeasible_gang_resource_requests.add(details="0a1b:PACK|PENDING")
    assert read_report(report) == ScalerState({}, frozenset({"0a1b"}))
