"""How long a group may stay in the phase that it is in. Pure; every phase that waits has a limit.

its first processes    `deadlines.start_s`
its interval           `deadlines.first_interval_s`, then a multiple of the median
a lost snapshot        `deadlines.snapshot_s`
new processes          `restart_limit_s`, of the waits of a restart or a resize
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import assert_never

from orchestrator.loop.phases import (
    Finished,
    GroupPhase,
    Idle,
    Replaying,
    Resizing,
    Restarting,
    Starting,
    Training,
    WaitingForSnapshot,
)
from orchestrator.settings.config import DeadlineSpec

RESTART_WAITS = 5  # of `start_s` each: processes, layers, layers again, a snapshot, one to spare
OTHER_WAITS_S = 1800.0  # of a restart: for old processes to end, bytes to be fetched, storage


@dataclass
class Pace:
    """How long a group's intervals take.

    Attributes:
        lengths_s: of its intervals at its present size.
        is_warm: its processes have finished an interval, so have compiled and filled their caches.
    """

    lengths_s: list[float] = field(default_factory=list)
    is_warm: bool = False

    def add(self, length_s: float) -> None:
        """An interval was committed."""
        self.lengths_s.append(length_s)
        self.is_warm = True

    def limit_s(self, deadlines: DeadlineSpec) -> float:
        """How long an interval may take."""
        if not self.lengths_s:
            return deadlines.first_interval_s
        factor, floor_s = deadlines.interval_factor, deadlines.interval_floor_s
        usual_s = max(floor_s, factor * statistics.median(self.lengths_s))
        return usual_s if self.is_warm else max(usual_s, deadlines.first_interval_s)


def deadline_s(phase: GroupPhase, pace: Pace, deadlines: DeadlineSpec) -> float | None:
    """How long a group may stay in a phase; None for those that wait for nothing of its own."""
    match phase:
        case Starting():
            return deadlines.start_s
        case Training() | Replaying():
            return pace.limit_s(deadlines)
        case WaitingForSnapshot():
            return deadlines.snapshot_s
        case Restarting() | Resizing():
            return restart_limit_s(deadlines)
        case Idle() | Finished():
            return None
        case _:
            assert_never(phase)


def restart_limit_s(deadlines: DeadlineSpec) -> float:
    """How long a restart or a resize may take that keeps the deadline of each of its waits."""
    return RESTART_WAITS * deadlines.start_s + OTHER_WAITS_S
