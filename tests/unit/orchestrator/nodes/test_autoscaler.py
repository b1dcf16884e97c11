from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import yaml
from ray.core.generated.autoscaler_pb2 import AutoscalingState, GetClusterStatusReply
from ray.exceptions import RpcError

from orchestrator.nodes.autoscaler import ScalerState, parse_report, scaler_state, startable
from orchestrator.nodes.nodes import Node

ROOT = Path(__file__).resolve().parents[4]


def test_an_empty_report_is_that_of_no_autoscaler() -> None:
    assert parse_report(AutoscalingState()) is None


def test_nodes_that_are_asked_for_and_nodes_that_come_up_are_both_starting() -> None:
    report = AutoscalingState(autoscaler_state_version=1)
    report.pending_instance_requests.add(ray_node_type_name="data", count=2)
    report.pending_instances.add(ray_node_type_name="data")
    report.pending_instances.add(ray_node_type_name="memory")
    assert parse_report(report) == ScalerState({"data": 3, "memory": 1}, frozenset())


def test_what_the_node_types_can_never_hold_is_refused_by_its_id() -> None:
    report = AutoscalingState(autoscaler_state_version=7)
    report.infeasible_gang_resource_requests.add(details="0a1b:PACK|PENDING")
    assert parse_report(report) == ScalerState({}, frozenset({"0a1b"}))


def test_the_startable_nodes_are_the_workers_at_their_maximum() -> None:
    file = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    nodes = startable(file)
    data = Node({"CPU": 48, "GPU": 4}, {"tandem-group": "data"})
    memory = Node({"CPU": 8, "GPU": 1}, {"tandem-group": "memory"})
    assert nodes == [data] * 4 + [memory] * 2
    assert startable({**file, "max_workers": 1}) == [data, memory]


def test_node_types_without_resources_say_nothing_of_what_could_be_started() -> None:
    types = {"local.cluster.node": {"resources": {}, "max_workers": 3}}
    assert startable({"available_node_types": types, "max_workers": 3}) == []
    assert startable({}) == []


def report_of(monkeypatch: pytest.MonkeyPatch, client: Any) -> ScalerState | None:
    """The state where Ray's client of the control service is another."""
    context = SimpleNamespace(gcs_address="here:1")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr("ray._raylet.GcsClient", client, raising=False)
    return scaler_state()


def test_what_the_control_service_holds_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    reply = GetClusterStatusReply(autoscaling_state=AutoscalingState(autoscaler_state_version=3))

    class Client:
        def __init__(self, address: str) -> None:
            assert address == "here:1"

        def get_cluster_status(self, timeout_s: float) -> bytes:
            return reply.SerializeToString()

    assert report_of(monkeypatch, Client) == ScalerState({}, frozenset())


def test_a_control_service_that_does_not_answer_counts_as_no_autoscaler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Silent:
        def __init__(self, address: str) -> None:
            pass

        def get_cluster_status(self, timeout_s: float) -> bytes:
            raise RpcError("away")

    assert report_of(monkeypatch, Silent) is None


def test_a_ray_that_has_no_such_report_counts_as_no_autoscaler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Other:
        def __init__(self, address: str) -> None:
            pass

    assert report_of(monkeypatch, Other) is None
