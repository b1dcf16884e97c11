"""A node goes away with a group on it: the group comes back on what is left; or the run stops in
time where it was told before.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster as Nodes
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from actors.spec import DATA, MEMORY
from actors.wire import Order
from orchestrator.cluster import Cluster
from orchestrator.config import load_config
from orchestrator.errors import InterruptedRunError
from orchestrator.exchange import Version
from orchestrator.placement import Seats
from orchestrator.run import train
from tests.chaos.injector import Faults, fail_at

pytestmark = pytest.mark.long

SETTINGS = ("intervals=6", "checkpoints.every=2", "evaluation.every=0")
# Snapshots of both groups are above what Ray sends inline, so that they are lost with their node.
LARGE = (
    "memory.layer.slots_side=64",
    "memory.layer.dim=64",
    "data.layer.fields.hidden_size=96",
    "data.layer.fields.intermediate_size=192",
)
QUICK_TO_NOTICE = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 4,
}
numbers = itertools.count()


@pytest.fixture
def nodes(own_tmp: Path) -> Iterator[Nodes]:
    """A head without room for ranks and the driver on it; nodes are added by the tests."""
    if ray.is_initialized():
        ray.shutdown()
    cluster = Nodes(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "_system_config": QUICK_TO_NOTICE},
    )
    ray.init(address=cluster.address, log_to_driver=False, logging_level="CRITICAL")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def placed(nodes: Nodes) -> PlacementGroup:
    """Both groups' bundles on a node each."""
    group = placement_group([{"CPU": 1}, {"CPU": 1}], strategy="SPREAD")
    assert group.wait(60)
    return group


def test_the_notice_that_a_node_goes_leaves_a_checkpoint_and_the_run_goes_on_to_the_bit(
    workplace: Path, nodes: Nodes
) -> None:
    for _ in range(3):
        nodes.add_node(num_cpus=1)
    told: list[str] = []

    class NotifiedCluster(Cluster):
        def submit(self, group: str, order: Order, peer: Version) -> None:
            super().submit(group, order, peer)
            if order.interval == 2 and not told:
                told.append(self._groups[DATA].locations[0].node_id)
                threading.Thread(target=drain, args=(nodes.address, told[0])).start()

    many = (*SETTINGS, "intervals=80", "checkpoints.every=100", f"name=drained-{next(numbers)}")
    config = load_config(str(workplace / "tiny.yaml"), many)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.run.Cluster", NotifiedCluster)
        with pytest.raises(InterruptedRunError, match=r"stopped because node .* is taken away in"):
            train(config)
    (saved,) = (Path(config.run_url) / "checkpoints").iterdir()
    assert (saved / "manifest.json").exists()
    resumed = train(config, resume=True).summary
    plain = load_config(str(workplace / "tiny.yaml"), [*many, f"name=drained-{next(numbers)}"])
    assert resumed["digest"] == train(plain).summary["digest"]


def drain(address: str, node_id: str) -> None:
    """Tells Ray that a node will be taken away in a minute, as a cloud's notice would."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", address]
    command += ["--node-id", node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", "spot", "--deadline-remaining-seconds", "60"]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.parametrize("name", [DATA, MEMORY])
def test_a_group_whose_node_is_lost_comes_back_on_the_spare_one(
    workplace: Path, nodes: Nodes, name: str
) -> None:
    for _ in range(3):
        nodes.add_node(num_cpus=1)
    by_id = {node.node_id: node for node in nodes.worker_nodes}
    lost: list[str] = []

    class LosingCluster(Cluster):
        def submit(self, group: str, order: Order, peer: Version) -> None:
            super().submit(group, order, peer)
            if (group, order.interval) == (name, 4) and not lost:
                where = self._groups[group].locations[0].node_id
                lost.append(where)
                nodes.remove_node(by_id[where], allow_graceful=False)

    config = load_config(
        str(workplace / "tiny.yaml"), [*SETTINGS, *LARGE, f"name=node-{next(numbers)}"]
    )
    placement = placed(nodes)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("orchestrator.run.Cluster", LosingCluster)
            summary = train(config, seats=Seats(placement)).summary
    finally:
        remove_placement_group(placement)
    assert lost
    assert name in {row["group"] for row in summary["restarts"]}
    assert summary["data"]["steps"] == 18
    ends_as_undisturbed(summary, workplace)


def ends_as_undisturbed(summary: dict[str, Any], workplace: Path, *more: str) -> None:
    """A disturbed run ended as one in which nothing was lost."""
    settings = [*SETTINGS, *LARGE, *more, f"name=node-{next(numbers)}"]
    undisturbed = train(load_config(str(workplace / "tiny.yaml"), settings)).summary
    assert summary["digest"] == undisturbed["digest"]
    assert summary["reflects_final"] == undisturbed["reflects_final"]


@pytest.mark.parametrize("intervals", [6, 7], ids=["with-a-checkpoint", "without"])
def test_a_node_that_is_lost_after_the_data_groups_last_interval_costs_no_bit(
    workplace: Path, nodes: Nodes, intervals: int
) -> None:
    """The data group has nothing left to do, and its last snapshot is needed."""
    for _ in range(3):
        nodes.add_node(num_cpus=1)
    by_id = {node.node_id: node for node in nodes.worker_nodes}
    lost: list[str] = []

    class LosingCluster(Cluster):
        def submit(self, group: str, order: Order, peer: Version) -> None:
            if (group, order.interval) == (MEMORY, intervals + 1) and not lost:
                lost.append(self._groups[DATA].locations[0].node_id)
                nodes.remove_node(by_id[lost[0]], allow_graceful=False)
            super().submit(group, order, peer)

    more = [*SETTINGS, *LARGE, f"intervals={intervals}", f"name=late-{next(numbers)}"]
    config = load_config(str(workplace / "tiny.yaml"), more)
    placement = placed(nodes)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("orchestrator.run.Cluster", LosingCluster)
            summary = train(config, seats=Seats(placement)).summary
    finally:
        remove_placement_group(placement)
    assert lost
    causes = [row["cause"] for row in summary["restarts"] if row["group"] == DATA]
    assert any(f"data: version {intervals}, which interval {intervals + 1} of" in c for c in causes)
    ends_as_undisturbed(summary, workplace, f"intervals={intervals}")


def test_a_second_start_after_a_lost_node_still_knows_that_it_was_lost(
    workplace: Path, nodes: Nodes, tmp_path: Path
) -> None:
    for _ in range(3):
        nodes.add_node(num_cpus=1)
    by_id = {node.node_id: node for node in nodes.worker_nodes}
    lost: list[str] = []

    class LosingCluster(Cluster):
        def submit(self, group: str, order: Order, peer: Version) -> None:
            super().submit(group, order, peer)
            if (group, order.interval) == (DATA, 4) and not lost:
                lost.append(self._groups[DATA].locations[0].node_id)
                nodes.remove_node(by_id[lost[0]], allow_graceful=False)

    faults = Faults(tmp_path / "faults", fail_at(DATA, 0, 1, "start-up"))
    settings = [*SETTINGS, *LARGE, f"name=twice-{next(numbers)}"]
    config = load_config(str(workplace / "tiny.yaml"), settings)
    placement = placed(nodes)
    try:
        with faults.injected(), pytest.MonkeyPatch.context() as patch:
            patch.setattr("orchestrator.run.Cluster", LosingCluster)
            summary = train(config, seats=Seats(placement)).summary
    finally:
        remove_placement_group(placement)
    assert lost
    assert faults.fired() == [1]
    causes = [row["cause"] for row in summary["restarts"] if row["group"] == DATA]
    assert len(causes) == 2  # nobody had to ask for what the second start published by itself
    ends_as_undisturbed(summary, workplace)
