"""Runs on a cluster that starts from nothing: the node types of cluster.yaml, made small, on Ray's
fake provider. Nodes come when a run asks for them, take the group that they are labelled for, and
go after it.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import yaml
from ray._private.authentication_test_utils import reset_auth_token_state

from actors.settings.run import DATA, GROUPS, MEMORY
from actors.wire import Order
from jobs.check.check import grows
from jobs.check.resources import available_resources
from orchestrator.console import Console
from orchestrator.errors import PlacementError
from orchestrator.loop.exchange import Version
from orchestrator.processes.ray_cluster import RayCluster
from orchestrator.run import train
from orchestrator.settings.config import Config, load_config
from tests.integration.scaling_cluster import ScalingCluster, labels_of_living_nodes

pytestmark = [
    pytest.mark.long,
    pytest.mark.ray,
]  # a cluster of its own, which grows

ROOT = Path(__file__).resolve().parents[2]
GOES_S = 60.0  # for idle nodes to be taken away
LABELS = [f"{group}.workers.node_labels.tandem-group={group}" for group in GROUPS]


@pytest.fixture(scope="module")
def scaling(own_tmp: Path) -> Iterator[ScalingCluster]:
    """A head alone, with the worker types of cluster.yaml at one CPU each; it asks for a token, as
    all clusters of docs/cluster do.
    """
    if ray.is_initialized():
        ray.shutdown()
    token = own_tmp / "token"
    token.write_text("made-up-for-this-test")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        reset_auth_token_state()
        yield from started_cluster()
    reset_auth_token_state()


def started_cluster() -> Iterator[ScalingCluster]:
    file = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    types = {name: file["available_node_types"][name] for name in GROUPS}
    small = {"resources": {"CPU": 1, "object_store_memory": 100_000_000}, "node_config": {}}
    cluster = ScalingCluster({n: {**t, **small} for n, t in types.items()}, file["max_workers"])
    cluster.start()
    yield cluster
    cluster.shutdown()


@pytest.fixture
def connected(scaling: ScalingCluster) -> Iterator[ScalingCluster]:
    ray.init(address=scaling.address, log_to_driver=False, logging_level="CRITICAL")
    yield scaling
    ray.shutdown()


def config_of(workplace: Path, name: str, *overrides: str) -> Config:
    return load_config(str(workplace / "tiny.yaml"), [*LABELS, f"name={name}", *overrides])


def wait_until_only_the_head_is_left() -> None:
    deadline = time.monotonic() + GOES_S
    while (left := labels_of_living_nodes()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []


def test_nodes_come_for_a_run_hold_the_group_of_their_label_and_go_after_it(
    workplace: Path, connected: ScalingCluster
) -> None:
    assert labels_of_living_nodes() == []
    seats: dict[str, set[str]] = {}

    class WatchedCluster(RayCluster):
        def submit(self, group: str, order: Order, peer: Version) -> None:
            super().submit(group, order, peer)
            label = {node["NodeID"]: node["Labels"].get("tandem-group") for node in ray.nodes()}
            where = {label[place.node_id] or "" for place in self._groups[group].locations}
            seats.setdefault(group, set()).update(where)

    text = io.StringIO()
    two = "memory.workers.num_workers=2"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.processes.ray_runtime.RayCluster", WatchedCluster)
        result = train(config_of(workplace, "scaled", two), Console(file=text, width=300))
    assert result.summary["data"]["steps"] == 9
    assert seats == {DATA: {DATA}, MEMORY: {MEMORY}}
    said = text.getvalue()
    assert (
        "waiting for data 1 x (CPU 1) on nodes with tandem-group=data, "
        "memory 2 x (CPU 1) on nodes with tandem-group=memory" in said
    )
    assert "; starting: " in said
    wait_until_only_the_head_is_left()


def test_a_label_that_no_node_type_has_is_refused_with_those_that_they_have(
    workplace: Path, connected: ScalingCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = tmp_path / "ray_bootstrap_config.yaml"  # as `ray up` leaves it on the head
    known.write_text((connected.folder / "cluster.json").read_text())
    monkeypatch.setenv("HOME", str(tmp_path))
    config = config_of(workplace, "mislabelled", "data.workers.node_labels.tandem-group=dta")
    began = time.monotonic()
    with pytest.raises(PlacementError) as refused:
        train(config)
    assert time.monotonic() - began < config.deadlines.start_s / 4
    message = str(refused.value)
    assert "data 1 x (CPU 1) on nodes with tandem-group=dta" in message
    assert "data: no node has the labels tandem-group=dta" in message
    assert "memory: " not in message
    assert "tandem-group=data (4 node(s))" in message
    assert "tandem-group=memory (2 node(s))" in message
    assert labels_of_living_nodes() == []
    assert not Path(config.run_url).exists()


def test_more_than_a_node_types_maximum_is_refused_also_where_the_types_are_not_known(
    workplace: Path, connected: ScalingCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = config_of(workplace, "too-large", "memory.workers.num_workers=3")  # at most 2
    with pytest.raises(PlacementError, match=r"memory 3 x \(CPU 1\).*that are there now"):
        train(config)
    assert labels_of_living_nodes() == []


def test_check_warns_that_the_cluster_would_have_to_grow(
    workplace: Path, scaling: ScalingCluster
) -> None:
    config = config_of(workplace, "checked", f"ray.address={scaling.address}")
    (warning,) = grows(config, available_resources(config))
    assert "no node has the labels tandem-group=data" in warning
    assert "the cluster has an autoscaler" in warning
