"""A group dies, the run does not: bit-identical to the undisturbed run, and its peer untouched."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from actors.settings.run import DATA, MEMORY, peer_of
from actors.wire import SnapshotError
from orchestrator.errors import GroupFailedError
from orchestrator.run import train
from orchestrator.settings.config import load_config
from tests.chaos.injector import POINTS, Fault, Faults, fail_at
from tests.integration.tiny import actor_processes, run_in_process

pytestmark = pytest.mark.usefixtures("shared_ray")
LONG = pytest.mark.long

SETTINGS = ("intervals=5", "checkpoints.every=2", "evaluation.every=0")
INTERVAL = 4  # of a fault: its checkpoint is that of interval 2, or of 4 itself
WORKERS = {1: (), 2: ("num_workers: 2, cpus: 0.5",), 3: ("num_workers: 3, cpus: 0.3",)}
numbers = itertools.count()

Undisturbed = Callable[..., dict[str, Any]]


def run(workplace: Path, *overrides: str, in_process: bool = False) -> dict[str, Any]:
    name = f"name=chaos-{next(numbers)}"
    config = load_config(str(workplace / "tiny.yaml"), [*SETTINGS, name, *overrides])
    return (run_in_process if in_process else train)(config).summary


@pytest.fixture(scope="module")
def undisturbed(workplace: Path) -> Undisturbed:
    """The summary of a run without faults, by its overrides; each is run once, in this process
    where one worker and lockstep allow it: its bits are those of Ray.
    """
    known: dict[tuple[str, ...], dict[str, Any]] = {}

    def summary(*overrides: str) -> dict[str, Any]:
        if overrides not in known:
            on_ray = any("num_workers" in one or "async" in one for one in overrides)
            known[overrides] = run(workplace, *overrides, in_process=not on_ray)
        return known[overrides]

    return summary


def disturbed(
    workplace: Path, folder: Path, *overrides: str, faults: tuple[Fault, ...]
) -> tuple[dict[str, Any], Faults]:
    injected = Faults(folder / f"faults-{next(numbers)}", *faults)
    with injected.injected():
        summary = run(workplace, *overrides)
    assert injected.fired() == [fault.times for fault in faults], "a fault did not fire"
    assert actor_processes(psutil.Process()) == []
    return summary, injected


def workers(group: str, num: int) -> tuple[str, ...]:
    return tuple(f"{group}.workers={{{values}}}" for values in WORKERS[num])


def untouched(injected: Faults, group: str) -> None:
    """None of the group's intervals was run twice, and its processes stayed the same."""
    rows = injected.began(group)
    begun = [(rank, interval) for rank, interval, _ in rows]
    assert len(set(begun)) == len(begun)
    ranks = {rank for rank, _, _ in rows}
    assert len({pid for _, _, pid in rows}) == len(ranks)


CORE = {
    (DATA, 0, 1, "in a step"),
    (MEMORY, 0, 1, "while publishing"),
}
CELLS = ((DATA, 0, 1), (DATA, 1, 2), (MEMORY, 0, 1), (MEMORY, 1, 2), (DATA, 1, 3))
MATRIX = [
    pytest.param(
        *cell,
        point,
        marks=() if (*cell, point) in CORE else LONG,
        id=f"{cell[0]} {cell[1]} of {cell[2]} {point}",
    )
    for cell in CELLS
    for point in POINTS
]


@pytest.mark.parametrize(("group", "rank", "num_ranks", "point"), MATRIX)
def test_a_killed_rank_costs_no_bit_and_leaves_the_other_group_alone(
    workplace: Path,
    tmp_path: Path,
    undisturbed: Undisturbed,
    group: str,
    rank: int,
    num_ranks: int,
    point: str,
) -> None:
    more = workers(group, num_ranks)
    if point == "start-up":  # of the incarnation that follows a death in a step
        first = fail_at(group, rank, INTERVAL, "in a step")
        faults = (first, fail_at(group, rank, 1, point))
    else:
        faults = (fail_at(group, rank, INTERVAL, point),)
    summary, injected = disturbed(workplace, tmp_path, *more, faults=faults)
    assert summary["digest"] == undisturbed(*more)["digest"]
    assert [row["group"] for row in summary["restarts"]] == [group] * len(faults)
    untouched(injected, peer_of(group))


@LONG
def test_both_groups_killed_at_once_cost_no_bit(
    workplace: Path, tmp_path: Path, undisturbed: Undisturbed
) -> None:
    faults = tuple(fail_at(group, 0, INTERVAL, "in a step") for group in (DATA, MEMORY))
    summary, _ = disturbed(workplace, tmp_path, faults=faults)
    assert summary["digest"] == undisturbed()["digest"]
    assert sorted(row["group"] for row in summary["restarts"]) == [DATA, MEMORY]


@LONG
def test_a_rank_killed_three_times_running_and_in_its_recovery_costs_no_bit(
    workplace: Path, tmp_path: Path, undisturbed: Undisturbed
) -> None:
    faults = (
        fail_at(MEMORY, 0, INTERVAL, "in a step", times=3),
        fail_at(MEMORY, 0, 2, "restoring"),
    )
    summary, injected = disturbed(workplace, tmp_path, "recovery.max_failures=4", faults=faults)
    assert summary["digest"] == undisturbed()["digest"]
    assert [row["incarnation"] for row in summary["restarts"]] == [0, 1, 2, 3]
    untouched(injected, DATA)


@LONG
def test_a_rank_that_dies_too_often_ends_the_run_which_goes_on_by_hand(
    workplace: Path, tmp_path: Path, undisturbed: Undisturbed
) -> None:
    name = f"chaos-{next(numbers)}"
    injected = Faults(tmp_path / "faults", fail_at(DATA, 0, INTERVAL, "in a step", times=2))
    config = load_config(
        str(workplace / "tiny.yaml"), [*SETTINGS, f"name={name}", "recovery.max_failures=1"]
    )
    with injected.injected(), pytest.raises(GroupFailedError) as raised:
        train(config)
    message = str(raised.value)
    assert "failure 2 of the data group, and recovery.max_failures is 1" in message
    assert f"go on with: tandem resume {config.run_url}" in message
    assert actor_processes(psutil.Process()) == []
    again = train(load_config(f"{config.run_url}/config.yaml"), resume=True)
    assert again.summary["digest"] == undisturbed()["digest"]


@pytest.mark.parametrize(
    ("num_ranks", "point"), [(1, "in a step"), pytest.param(2, "in a step", marks=LONG)]
)
def test_a_rank_that_hangs_is_found_by_its_heartbeat_and_costs_no_bit(
    workplace: Path, tmp_path: Path, undisturbed: Undisturbed, num_ranks: int, point: str
) -> None:
    """With two ranks the other one waits for it in a collective."""
    more = workers(DATA, num_ranks)
    fault = fail_at(DATA, num_ranks - 1, INTERVAL, point, kind="SIGSTOP")
    deadline = "deadlines.heartbeat_s=10"
    summary, injected = disturbed(workplace, tmp_path, *more, deadline, faults=(fault,))
    assert summary["digest"] == undisturbed(*more)["digest"]
    (row,) = summary["restarts"]
    assert row["cause"].startswith(f"data rank {num_ranks - 1}: no heartbeat for 1")
    assert "in interval 4, on version 3 of its peer" in row["cause"]
    untouched(injected, MEMORY)


@LONG
def test_a_collective_that_hangs_is_found_by_its_interval_and_costs_no_bit(
    workplace: Path, tmp_path: Path, undisturbed: Undisturbed
) -> None:
    """The process lives and answers; it only never comes to its partner."""
    more = workers(MEMORY, 2)
    fault = fail_at(MEMORY, 1, INTERVAL, "in a step", kind="hang")
    deadlines = ("deadlines.interval_floor_s=12", "deadlines.interval_factor=2")
    summary, injected = disturbed(workplace, tmp_path, *more, *deadlines, faults=(fault,))
    assert summary["digest"] == undisturbed(*more)["digest"]
    (row,) = summary["restarts"]
    assert "memory: interval 4 did not end after 1" in row["cause"]
    untouched(injected, DATA)


def test_one_altered_byte_of_a_snapshot_is_found_and_costs_no_bit(
    workplace: Path, tmp_path: Path, undisturbed: Undisturbed
) -> None:
    fault = fail_at(MEMORY, 0, INTERVAL, "adopting", kind="alter")
    summary, injected = disturbed(workplace, tmp_path, faults=(fault,))
    assert summary["digest"] == undisturbed()["digest"]
    (row,) = summary["restarts"]
    assert "snapshot data v3: bucket" in row["cause"]
    untouched(injected, DATA)


@LONG
def test_a_snapshot_that_is_altered_twice_ends_the_run_with_its_name(
    workplace: Path, tmp_path: Path
) -> None:
    injected = Faults(
        tmp_path / "faults", fail_at(MEMORY, 0, INTERVAL, "adopting", kind="alter", times=2)
    )
    with injected.injected(), pytest.raises(SnapshotError, match="snapshot data v3: bucket"):
        run(workplace)
    assert injected.fired() == [2]
    assert actor_processes(psutil.Process()) == []


@LONG
def test_one_altered_byte_of_a_checkpoint_is_found_and_costs_no_bit(
    workplace: Path, tmp_path: Path, undisturbed: Undisturbed
) -> None:
    faults = (
        fail_at(DATA, 0, INTERVAL, "in a step"),
        fail_at(DATA, 0, 2, "restoring", kind="alter"),
    )
    summary, injected = disturbed(workplace, tmp_path, faults=faults)
    assert summary["digest"] == undisturbed()["digest"]
    assert len(summary["restarts"]) == 1  # the second copy was sound
    untouched(injected, MEMORY)


@LONG
def test_with_a_warm_spare_it_is_the_spare_that_goes_on(
    workplace: Path, tmp_path: Path, undisturbed: Undisturbed
) -> None:
    fault = fail_at(DATA, 0, INTERVAL, "in a step")
    spares = ("recovery.warm_spares=true", "intervals=40", "checkpoints.every=20")
    late = fail_at(DATA, 0, 35, "in a step")
    summary, injected = disturbed(workplace, tmp_path, *spares, faults=(fault, late))
    assert summary["digest"] == undisturbed("intervals=40")["digest"]
    untouched(injected, MEMORY)


@LONG
def test_in_async_the_other_group_trains_on_while_its_peer_is_down(
    workplace: Path, tmp_path: Path
) -> None:
    asynchronous = ("exchange={mode: async, staleness: 8}", "intervals=12")
    fault = fail_at(DATA, 0, INTERVAL, "in a step")
    summary, injected = disturbed(workplace, tmp_path, *asynchronous, faults=(fault,))
    pids = {pid for _, interval, pid in injected.began(DATA) if interval == INTERVAL}
    assert len(pids) == 2
    memory = [interval for _, interval, _ in injected.began(MEMORY)]
    assert memory == sorted(set(memory))
    assert summary["memory"]["steps"] >= 36
    assert summary["exchange"]["max_lag"] <= 8
