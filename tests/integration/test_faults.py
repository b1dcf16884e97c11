"""Faults, scripted by group and interval, and asserted to have fired."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.util.placement_group import PlacementGroup, remove_placement_group

from actors.settings.run import DATA, MEMORY
from actors.wire import Order
from orchestrator.errors import GroupFailedError, InterruptedRunError
from orchestrator.loop.exchange import Version
from orchestrator.nodes.placement import reserve
from orchestrator.processes.ray_cluster import RayCluster
from orchestrator.run import train
from orchestrator.settings.config import Config, load_config
from tests.integration.tiny import actor_processes

pytestmark = pytest.mark.usefixtures("shared_ray")


class Fault:
    """Sends a signal to one rank of a group as soon as an interval was submitted to it."""

    def __init__(self, group: str, interval: int, signum: signal.Signals, rank: int = 0) -> None:
        self.at, self.rank = (group, interval), rank
        self.signum = signum
        self.fired_at_pid: int | None = None

    def cluster(self) -> Callable[..., RayCluster]:
        fault = self

        class FaultyCluster(RayCluster):
            def submit(self, group: str, order: Order, peer: Version) -> None:
                super().submit(group, order, peer)
                if (group, order.interval) == fault.at:
                    pid = self._groups[group].locations[fault.rank].pid
                    os.kill(pid, fault.signum)
                    fault.fired_at_pid = pid

        return FaultyCluster


def run_into(fault: Fault, workplace: Path, *overrides: str) -> tuple[str, dict[str, Any]]:
    """The error's message and the summary of a run into which the fault was built."""
    settings = [*overrides, "recovery.max_failures=0"]
    config = load_config(str(workplace / "tiny.yaml"), settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.processes.ray_runtime.RayCluster", fault.cluster())
        with pytest.raises(GroupFailedError) as raised:
            train(config)
    assert fault.fired_at_pid is not None
    summary = json.loads((Path(config.run_url) / "summary.json").read_text())
    return str(raised.value), summary


def what_is_left() -> Sequence[object]:
    table = ray.util.placement_group_table().values()
    groups = [row["placement_group_id"] for row in table if row["state"] != "REMOVED"]
    return [*actor_processes(psutil.Process()), *groups]


@pytest.mark.long  # below, one of two ranks is killed
def test_a_rank_that_is_killed_ends_the_run_by_name_and_leaves_nothing(workplace: Path) -> None:
    fault = Fault(DATA, 2, signal.SIGKILL)
    message, summary = run_into(fault, workplace, "name=killed")
    assert message.startswith("data rank 0 failed in interval 2: ActorDiedError")
    assert (summary["status"], summary["cause"]) == ("failed", message)
    assert what_is_left() == []


def test_of_a_group_whose_rank_is_killed_that_rank_is_named_and_not_its_partner(
    workplace: Path,
) -> None:
    fault = Fault(DATA, 2, signal.SIGKILL, rank=1)
    workers = "data.workers={num_workers: 2, cpus: 0.5}"
    message, summary = run_into(fault, workplace, "name=partner", workers)
    assert message.startswith("data rank 1 failed in interval 2: ActorDiedError")
    assert (summary["status"], summary["cause"]) == ("failed", message)
    assert what_is_left() == []


@pytest.mark.long  # chaos/test_replay.py has another rank that hangs, and is replaced
def test_a_rank_that_hangs_ends_the_run_by_its_heartbeat_and_leaves_nothing(
    workplace: Path,
) -> None:
    fault = Fault(MEMORY, 2, signal.SIGSTOP)
    message, summary = run_into(fault, workplace, "name=hung", "deadlines.heartbeat_s=10")
    assert message.startswith("memory rank 0: no heartbeat for 1")
    assert "in interval 2" in message
    assert (summary["status"], summary["cause"]) == ("failed", message)
    assert what_is_left() == []


def test_ctrl_c_while_waiting_for_resources_ends_the_run_at_once(workplace: Path) -> None:
    config = load_config(str(workplace / "tiny.yaml"), ["name=queued", "deadlines.start_s=10"])
    holder = load_config(str(workplace / "tiny.yaml"), ["name=holder"])
    held_by_others = reserve(holder, lambda: None)

    def reserve_when_interrupted(
        config: Config, stop_requested: Callable[[], str | None], told: Callable[[str], None]
    ) -> PlacementGroup:
        signal.raise_signal(signal.SIGINT)
        return reserve(config, stop_requested, told)

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("orchestrator.processes.ray_runtime.reserve", reserve_when_interrupted)
            with pytest.raises(InterruptedRunError, match="SIGINT"):
                train(config)
    finally:
        remove_placement_group(held_by_others)
    assert what_is_left() == []
