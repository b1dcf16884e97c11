"""A node goes away with a group on it: the group comes back on what is left; or the run stops in
time where it was told before.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster as Nodes
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from actors.settings.run import DATA, MEMORY
from actors.wire import Order
from orchestrator.errors import InterruptedRunError
from orchestrator.loop.exchange import Version
from orchestrator.nodes.placement import Seats
from orchestrator.processes.ray_cluster import RayCluster
from orchestrator.run import train
from orchestrator.settings.config import Config, load_config
from tests.chaos.injector import Faults, fail_at

pytestmark = [pytest.mark.long, pytest.mark.ray]  # clusters of their own: they lose nodes

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
WRITTEN_S = 60.0  # for a checkpoint to be on storage
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

    class NotifiedCluster(RayCluster):
        def submit(self, group: str, order: Order, peer: Version) -> None:
            super().submit(group, order, peer)
            if order.interval == 2 and not told:
                told.append(self._groups[DATA].locations[0].node_id)
                threading.Thread(target=drain, args=(nodes.address, told[0])).start()

    many = (*SETTINGS, "intervals=80", "checkpoints.every=100", f"name=drained-{next(numbers)}")
    config = load_config(str(workplace / "tiny.yaml"), many)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.processes.ray_runtime.RayCluster", NotifiedCluster)
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


class Loss:
    """A node that goes away with a group on it, right before or after an order is given.

    Args:
        nodes: of the cluster.
        group: whose node.
        order: group and interval of the order.
        before: goes before the order is given, and not right after.
    """

    def __init__(self, nodes: Nodes, group: str, order: tuple[str, int], before: bool) -> None:
        self.happened = False
        self._nodes, self._group, self._order, self._before = nodes, group, order, before

    def train(self, config: Config, saved: int) -> dict[str, Any]:
        """The summary of a run in which it happens, once the pair of that interval is written."""
        manifest = Path(config.run_url) / "checkpoints" / f"{saved:06d}" / "manifest.json"
        loss = self

        class LosingCluster(RayCluster):
            def submit(self, group: str, order: Order, peer: Version) -> None:
                is_now = (group, order.interval) == loss._order and not loss.happened
                if is_now and loss._before:
                    loss._happen(self._groups[loss._group].locations[0].node_id, manifest)
                super().submit(group, order, peer)
                if is_now and not loss._before:
                    loss._happen(self._groups[loss._group].locations[0].node_id, manifest)

        placement = placed(self._nodes)
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("orchestrator.processes.ray_runtime.RayCluster", LosingCluster)
                summary = train(config, seats=Seats(placement)).summary
        finally:
            remove_placement_group(placement)
        assert self.happened
        return summary

    def _happen(self, node_id: str, manifest: Path) -> None:
        deadline = time.monotonic() + WRITTEN_S
        while not manifest.exists():  # by the checkpoint writer's thread
            assert time.monotonic() < deadline, f"{manifest} was not written"
            time.sleep(0.01)
        (node,) = [node for node in self._nodes.worker_nodes if node.node_id == node_id]
        self._nodes.remove_node(node, allow_graceful=False)
        self.happened = True


def a_config(workplace: Path, *more: str) -> Config:
    """A run of six intervals whose snapshots lie on their groups' nodes."""
    settings = [*SETTINGS, *LARGE, *more, f"name=node-{next(numbers)}"]
    return load_config(str(workplace / "tiny.yaml"), settings)


def ends_as_undisturbed(summary: dict[str, Any], workplace: Path, *more: str) -> None:
    """A disturbed run ended as one in which nothing was lost."""
    undisturbed = train(a_config(workplace, *more)).summary
    assert summary["digest"] == undisturbed["digest"]
    assert summary["reflects_final"] == undisturbed["reflects_final"]


@pytest.mark.parametrize("name", [DATA, MEMORY])
def test_a_group_whose_node_is_lost_comes_back_on_the_spare_one(
    workplace: Path, nodes: Nodes, name: str
) -> None:
    for _ in range(3):
        nodes.add_node(num_cpus=1)
    loss = Loss(nodes, name, (name, 5), before=False)
    summary = loss.train(a_config(workplace, "checkpoints.every=3"), saved=3)
    assert name in {row["group"] for row in summary["restarts"]}
    assert summary["data"]["steps"] == 18
    ends_as_undisturbed(summary, workplace)


@pytest.mark.parametrize("intervals", [6, 7], ids=["with-a-checkpoint", "without"])
def test_a_node_that_is_lost_after_the_data_groups_last_interval_costs_no_bit(
    workplace: Path, nodes: Nodes, intervals: int
) -> None:
    """The data group has nothing left to do, and its last snapshot is needed."""
    for _ in range(3):
        nodes.add_node(num_cpus=1)
    loss = Loss(nodes, DATA, (MEMORY, intervals + 1), before=True)
    summary = loss.train(a_config(workplace, f"intervals={intervals}"), saved=6)
    causes = [row["cause"] for row in summary["restarts"] if row["group"] == DATA]
    needed = f"data: version {intervals}, which interval {intervals + 1} of the memory group needs"
    assert any(cause.startswith(needed) for cause in causes)
    ends_as_undisturbed(summary, workplace, f"intervals={intervals}")


def test_a_first_new_start_that_fails_after_a_lost_node_costs_no_bit(
    workplace: Path, nodes: Nodes, tmp_path: Path
) -> None:
    """The next start publishes again what was lost: by itself where Ray has noticed by then that
    the node is gone, or because somebody misses it.
    """
    for _ in range(3):
        nodes.add_node(num_cpus=1)
    loss = Loss(nodes, DATA, (DATA, 5), before=False)
    starts = (1, 2)  # the first may not come so far, where its place is still on the lost node
    faults = Faults(tmp_path / "faults", *(fail_at(DATA, 0, i, "start-up") for i in starts))
    with faults.injected():
        summary = loss.train(a_config(workplace, "checkpoints.every=3"), saved=3)
    assert 1 in faults.fired()
    assert sum(row["group"] == DATA for row in summary["restarts"]) >= 2
    ends_as_undisturbed(summary, workplace)
