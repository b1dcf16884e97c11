from __future__ import annotations

from dataclasses import replace

import pytest

from actors.settings.run import DATA, MEMORY
from benchmarks.recovery import Kills, checkpoint_frac, restarts
from benchmarks.soak import median_of
from orchestrator.loop.exchange import GroupCheckpoint
from tests.unit.orchestrator.scripted import committed


def row(group: str, interval: int, start: float, **changes: float) -> tuple[float, object]:
    """An interval from `start` on that took 8 s, its first step 1 s, committed 0.5 s later."""
    times = {"started_at": start, "first_step_at": start + 1.0} | changes
    return start + 8.5, committed(group, interval, **times)


def test_a_restart_lasts_from_the_kill_to_the_groups_next_step() -> None:
    kills = Kills({})
    kills.killed = [(DATA, 25.0)]
    kills.events = [row(DATA, 1, 0.0), row(DATA, 2, 10.0), row(DATA, 2, 33.0)]  # type: ignore[list-item]
    before = [row(MEMORY, i, 10.0 * i) for i in (0, 1)]
    down = row(MEMORY, 3, 25.5, step_s=9.0)
    kills.events += [*before, (down[0], replace_wall(down[1]))]  # type: ignore[list-item]
    seconds, slowdowns = restarts(kills)
    assert seconds == [34.0 - 25.0]
    assert slowdowns == [9.0 / 6.0]


def replace_wall(event: object) -> object:
    """The same interval, over before the killed group was back."""
    reports = event.reports  # type: ignore[attr-defined]
    return replace(event, reports=(replace(reports[0], wall_s=5.0),))  # type: ignore[type-var]


def test_checkpoints_cost_their_copy_and_what_the_commit_takes_longer() -> None:
    kills = Kills({})
    for group in (DATA, MEMORY):
        for interval in range(4):
            at, event = row(group, interval, 10.0 * interval)
            costs = {"checkpoint": 0.0}
            if interval == 2:
                at, costs = at + 0.25, {"checkpoint": 0.5}
                checkpoint = GroupCheckpoint(group, interval, (), ())
                event = replace(event, checkpoint=checkpoint)  # type: ignore[type-var]
            report = replace(event.reports[0], costs_s=costs)  # type: ignore[attr-defined]
            kills.events.append((at, replace(event, reports=(report,))))  # type: ignore[arg-type,type-var]
    assert checkpoint_frac(kills) == pytest.approx(0.75 / 38.5)


def test_a_restart_that_was_killed_in_its_turn_has_no_seconds() -> None:
    rows = [{"restart_s": 3.0}, {}, {"restart_s": 5.0, "replay_s": 2.0}]
    assert median_of(rows, "restart_s") == 4.0
    assert median_of(rows, "replay_s") == 2.0
    assert median_of([{}], "replay_s") is None
