"""A group dies, the run does not: bit-identical to the undisturbed run, and its peer untouched."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from actors.spec import DATA, MEMORY, peer_of
from orchestrator.config import load_config
from orchestrator.run import train
from tests.chaos.injector import POINTS, Fault, Faults, fail_at
from tests.integration.tiny import actor_processes

pytestmark = pytest.mark.usefixtures("shared_ray")
LONG = pytest.mark.long

SETTINGS = ("intervals=5", "checkpoints.every=2", "evaluation.every=0")
INTERVAL = 4  # of a fault: its checkpoint is that of interval 2, or of 4 itself
WORKERS = {1: (), 2: ("num_workers: 2, cpus: 0.5",), 3: ("num_workers: 3, cpus: 0.3",)}
numbers = itertools.count()

Undisturbed = Callable[..., dict[str, Any]]


def run(workplace: Path, *overrides: str) -> dict[str, Any]:
    name = f"name=chaos-{next(numbers)}"
    config = load_config(str(workplace / "tiny.yaml"), [*SETTINGS, name, *overrides])
    return train(config).summary


@pytest.fixture(scope="module")
def undisturbed(workplace: Path) -> Undisturbed:
    """The summary of a run without faults, by its overrides; each is run once."""
    known: dict[tuple[str, ...], dict[str, Any]] = {}

    def summary(*overrides: str) -> dict[str, Any]:
        if overrides not in known:
            known[overrides] = run(workplace, *overrides)
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
    (DATA, 1, 3, "checkpointing"),
}
CELLS = [
    *((DATA, 0, 1), (DATA, 1, 2), (MEMORY, 0, 1), (MEMORY, 1, 2), (DATA, 1, 3)),
]
MATRIX = [
    pytest.param(
        *cell,
        point,
        marks=() if (*cell, point) in CORE else LONG,
        id=f"{cell[0]}-{cell[1]}-of-{cell[2]}-{point}",
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
