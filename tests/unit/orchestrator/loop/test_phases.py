"""Every phase of a group: what may follow it, and how long it may last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import pytest

from actors.wire import Order
from orchestrator.loop import phases
from orchestrator.loop.deadlines import Pace, deadline_s, restart_limit_s
from orchestrator.loop.phases import (
    Finished,
    GroupPhase,
    Idle,
    Replay,
    Replaying,
    Resizing,
    Restarting,
    Starting,
    Training,
    WaitingForSnapshot,
)
from orchestrator.loop.recovery import Entry
from orchestrator.settings.config import DeadlineSpec


def entry(interval: int) -> Entry:
    return Entry(Order("run", 0, interval, 1), interval - 1)


REPLAY = Replay((entry(4), entry(5)), failed_at=1.0, ready_at=2.0)
ALL: dict[type, GroupPhase] = {
    Starting: Starting(0.0),
    Idle: Idle(0.0),
    Training: Training(0.0, entry(3)),
    WaitingForSnapshot: WaitingForSnapshot(0.0, entry(3), REPLAY),
    Restarting: Restarting(0.0, entry(3), in_resize=False),
    Replaying: Replaying(0.0, entry(3), REPLAY),
    Resizing: Resizing(0.0),
    Finished: Finished(0.0),
}
AT_REST = (Idle, Finished)  # an idle group waits for its peer's phase, a finished one for nothing
EVENTS: dict[str, tuple[Callable[[GroupPhase], GroupPhase], dict[type, type]]] = {
    # What leads from one phase to another; from any phase that is not named it is illegal.
    "first version": (
        lambda phase: phases.on_first_version(phase, False, 1.0),
        {Starting: Idle},
    ),
    "order": (
        lambda phase: phases.on_submit(phase, entry(3), None, 1.0),
        dict.fromkeys((Idle, WaitingForSnapshot, Restarting, Replaying), Training),
    ),
    "order of a replay": (
        lambda phase: phases.on_submit(phase, entry(3), REPLAY, 1.0),
        dict.fromkeys((Idle, WaitingForSnapshot, Restarting, Replaying), Replaying),
    ),
    "lost input": (
        lambda phase: phases.on_input_lost(phase, entry(3), None, 1.0),
        dict.fromkeys((Idle, WaitingForSnapshot, Restarting, Replaying), WaitingForSnapshot),
    ),
    "commit": (lambda phase: phases.on_commit(phase, False, 1.0), {Training: Idle}),
    "last commit": (lambda phase: phases.on_commit(phase, True, 1.0), {Training: Finished}),
    "failure": (
        lambda phase: phases.on_failure(phase, 1.0),
        dict.fromkeys((kind for kind in ALL if kind is not Starting), Restarting),
    ),
    "end of a replay": (
        lambda phase: phases.on_recovered(phase, False, 1.0),
        dict.fromkeys((Restarting, Replaying), Idle),
    ),
    "end of the replay of a group that was done": (
        lambda phase: phases.on_recovered(phase, True, 1.0),
        dict.fromkeys((Restarting, Replaying), Finished),
    ),
    "pause for a resize": (lambda phase: phases.on_pause_for_resize(phase, 1.0), {Idle: Resizing}),
    "end of a resize": (lambda phase: phases.on_resized(phase, 1.0), {Resizing: Idle}),
}  # fmt: skip


def test_every_phase_is_looked_at_here() -> None:
    assert set(get_args(GroupPhase)) == set(ALL)
    assert len({phase.label for phase in ALL.values()}) == len(ALL)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_phase_that_waits_has_a_deadline(kind: type) -> None:
    limit_s = deadline_s(ALL[kind], Pace(), DeadlineSpec())
    if kind in AT_REST:
        assert limit_s is None
    else:
        assert limit_s is not None
        assert 0 < limit_s < float("inf")


def test_each_phase_has_the_deadline_of_what_it_waits_for() -> None:
    deadlines = DeadlineSpec(first_interval_s=7, snapshot_s=11, start_s=13)
    found = {kind: deadline_s(phase, Pace(), deadlines) for kind, phase in ALL.items()}
    assert found[Training] == found[Replaying] == 7
    assert found[WaitingForSnapshot] == 11
    assert found[Starting] == 13
    assert found[Restarting] == found[Resizing] == restart_limit_s(deadlines)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("event", EVENTS)
def test_an_event_leads_to_its_phase_or_is_illegal(event: str, kind: type) -> None:
    follow, legal = EVENTS[event]
    if kind in legal:
        found = follow(ALL[kind])
        assert type(found) is legal[kind]
        assert found.since == 1.0
    else:
        with pytest.raises(AssertionError, match=f"while the group is {ALL[kind].label}"):
            follow(ALL[kind])


def test_only_a_group_at_rest_takes_an_order() -> None:
    assert [kind for kind, phase in ALL.items() if not phases.is_busy(phase)] == [Idle, Finished]


def test_a_failure_keeps_what_was_in_flight_until_new_processes_are_ready() -> None:
    first = phases.on_failure(ALL[Training], 1.0)
    second = phases.on_failure(first, 2.0)
    assert (first.last_sent, second.last_sent) == (entry(3), entry(3))
    assert phases.on_failure(ALL[Idle], 1.0).last_sent is None


def test_a_group_that_fails_in_a_resize_is_still_in_it_when_it_fails_again() -> None:
    first = phases.on_failure(ALL[Resizing], 1.0)
    assert first.in_resize
    assert phases.on_failure(first, 2.0).in_resize
    assert not phases.on_failure(ALL[Training], 1.0).in_resize


def test_only_a_wait_for_a_snapshot_begins_anew_when_the_peer_has_replayed_an_interval() -> None:
    for kind, phase in ALL.items():
        found = phases.on_peer_replayed(phase, 9.0)
        assert found == (replace(phase, since=9.0) if kind is WaitingForSnapshot else phase)


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        (Idle, []),
        (Finished, []),
        (Training, [3]),
        (Replaying, [3, 4, 5]),
        (WaitingForSnapshot, [3, 4, 5]),
        (Restarting, [2, 3, 4, 5, 6]),
        (Resizing, [2, 3, 4, 5, 6]),
    ],
)
def test_a_group_will_publish_what_it_has_still_to_do(kind: type, numbers: list[int]) -> None:
    phase = ALL[kind]
    assert [number for number in range(2, 7) if phases.will_publish(phase, number)] == numbers
