"""The phase that a group is in, as one value, and the pure functions that lead to the next one.

    Starting ---> Idle <---> Training ---> Finished
                  |  |          ^
                  |  +-> WaitingForSnapshot      its input was lost with the node that held it
                  +----> Resizing ---> Idle      between two intervals
    a failure in any phase but Starting ---> Restarting ---> Replaying or WaitingForSnapshot, once
    for each interval since the checkpoint ---> Training, Idle or Finished: where it was

An idle group waits for its peer's next version, so for a phase of its peer; a finished one waits
for nothing. Every other phase waits for one thing and has a deadline, see `deadlines`. A transition
that is not in the picture is an AssertionError.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, assert_never

from orchestrator.loop.recovery import Entry


@dataclass(frozen=True)
class Replay:
    """What a restarted group has still to replay.

    Attributes:
        entries: intervals after the one that it was sent, in order.
        failed_at, ready_at: when its failure was noticed, and when its new processes were ready.
    """

    entries: tuple[Entry, ...]
    failed_at: float
    ready_at: float


@dataclass(frozen=True)
class _Phase:
    """What all phases have.

    Attributes:
        since: monotonic seconds; when the wait began.
    """

    since: float


@dataclass(frozen=True)
class Starting(_Phase):
    """Its processes are started for the first time; its first version is not published yet."""

    label: ClassVar[str] = "starting"


@dataclass(frozen=True)
class Idle(_Phase):
    """Ready for its next interval, which may have to wait for the peer's version."""

    label: ClassVar[str] = "idle"


@dataclass(frozen=True)
class Training(_Phase):
    """An interval is in flight for the first time, or again where it was when the group failed."""

    entry: Entry
    label: ClassVar[str] = "training"


@dataclass(frozen=True)
class WaitingForSnapshot(_Phase):
    """The version that its next interval adopts was lost, and has to be published again.

    `since` is also set anew when the peer has replayed an interval on its way to that version.
    """

    entry: Entry
    replay: Replay | None
    label: ClassVar[str] = "waiting for a snapshot"


@dataclass(frozen=True)
class Restarting(_Phase):
    """Its processes have failed and new ones are made.

    Attributes:
        last_sent: the interval that was in flight when they failed.
        in_resize: they failed during a resize; the new ones have the new size.
    """

    last_sent: Entry | None
    in_resize: bool
    label: ClassVar[str] = "restarting"


@dataclass(frozen=True)
class Replaying(_Phase):
    """An interval that was committed before is done again."""

    entry: Entry
    replay: Replay
    label: ClassVar[str] = "replaying"


@dataclass(frozen=True)
class Resizing(_Phase):
    """Paused after a checkpoint: its processes form a group of another size."""

    label: ClassVar[str] = "resizing"


@dataclass(frozen=True)
class Finished(_Phase):
    """It has nothing left to do; its versions may still be needed."""

    label: ClassVar[str] = "finished"


GroupPhase = (
    Starting | Idle | Training | WaitingForSnapshot | Restarting | Replaying | Resizing | Finished
)


def _assert_in(phase: GroupPhase, event: str, *allowed: type[_Phase]) -> None:
    assert isinstance(phase, allowed), f"{event} while the group is {phase.label}"


def _rest(is_done: bool, now: float) -> Idle | Finished:
    return Finished(now) if is_done else Idle(now)


def on_first_version(phase: GroupPhase, is_done: bool, now: float) -> Idle | Finished:
    """The version that the group begins with is there.

    Args:
        phase: of the group.
        is_done: a resumed group may have nothing left to do.
        now: monotonic seconds.
    """
    _assert_in(phase, "a first version", Starting)
    return _rest(is_done, now)


def on_submit(
    phase: GroupPhase, entry: Entry, replay: Replay | None, now: float
) -> Training | Replaying:
    """The group was sent an interval.

    Args:
        phase: of the group.
        entry: the interval.
        replay: what is to be replayed after it; None where this interval was not committed before.
        now: monotonic seconds.
    """
    _assert_in(phase, "an order", Idle, WaitingForSnapshot, Restarting, Replaying)
    return Training(now, entry) if replay is None else Replaying(now, entry, replay)


def on_input_lost(
    phase: GroupPhase, entry: Entry, replay: Replay | None, now: float
) -> WaitingForSnapshot:
    """The interval that the group was to be sent adopts a version that was lost; as `on_submit`."""
    _assert_in(phase, "a lost input", Idle, WaitingForSnapshot, Restarting, Replaying)
    return WaitingForSnapshot(now, entry, replay)


def on_peer_replayed(phase: GroupPhase, now: float) -> GroupPhase:
    """The peer has replayed an interval: a wait for one of its versions begins anew."""
    return replace(phase, since=now) if isinstance(phase, WaitingForSnapshot) else phase


def on_commit(phase: GroupPhase, is_done: bool, now: float) -> Idle | Finished:
    """The interval in flight came back for the first time."""
    _assert_in(phase, "a commit", Training)
    return _rest(is_done, now)


def on_failure(phase: GroupPhase, now: float) -> Restarting:
    """The group's processes are given up, or new ones could not be made."""
    assert not isinstance(phase, Starting), "a failure while the group is starting"
    in_resize = isinstance(phase, Resizing) or (isinstance(phase, Restarting) and phase.in_resize)
    return Restarting(now, last_sent(phase), in_resize)


def on_recovered(phase: GroupPhase, is_done: bool, now: float) -> Idle | Finished:
    """The group has replayed everything, and nothing was in flight when it failed."""
    _assert_in(phase, "the end of a replay", Restarting, Replaying)
    return _rest(is_done, now)


def on_pause_for_resize(phase: GroupPhase, now: float) -> Resizing:
    """The group is paused to be given another size; no interval will be replayed."""
    _assert_in(phase, "a resize", Idle)
    return Resizing(now)


def on_resized(phase: GroupPhase, now: float) -> Idle:
    """The group has its new size."""
    _assert_in(phase, "the end of a resize", Resizing)
    return Idle(now)


def last_sent(phase: GroupPhase) -> Entry | None:
    """The interval in flight; of a group that is restarted the one that was."""
    match phase:
        case Training() | Replaying():
            return phase.entry
        case Restarting():
            return phase.last_sent
        case Starting() | Idle() | WaitingForSnapshot() | Resizing() | Finished():
            return None
        case _:
            assert_never(phase)


def is_busy(phase: GroupPhase) -> bool:
    """Whether the group can't be sent another interval now."""
    return not isinstance(phase, Idle | Finished)


def will_publish(phase: GroupPhase, number: int) -> bool:
    """Whether the group is on its way to publish a version that was lost again.

    True while it is restarted: what its replay will publish is known when it is ready.
    """
    match phase:
        case Starting() | Restarting() | Resizing():
            return True
        case Idle() | Finished():
            return False
        case Training():
            ahead: tuple[Entry, ...] = (phase.entry,)
        case WaitingForSnapshot() | Replaying():
            ahead = (phase.entry, *(phase.replay.entries if phase.replay is not None else ()))
        case _:
            assert_never(phase)
    return any(entry.order.interval == number for entry in ahead)
