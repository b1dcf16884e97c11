"""What the coordinator knows of one group, and what the group waits for. Decisions without effects.

A group is idle, or waits for exactly one thing, and each has a deadline:

    new processes      `restart_limit_s`, of the waits of a restart or a resize
    a lost snapshot    `deadlines.snapshot_s`, see `restarts`
    its interval       `deadlines.first_interval_s`, then a multiple of the median

An idle group waits for its peer's next version, so for one of the three of its peer.
Called by `coordinator`, `restarts` and `commands`.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from orchestrator.loop.recovery import Recovery
from orchestrator.loop.schedule import Progress
from orchestrator.settings.config import DeadlineSpec

RESTART_WAITS = 5  # of `start_s` each: processes, layers, layers again, a snapshot, one to spare
OTHER_WAITS_S = 1800.0  # of a restart: for old processes to end, bytes to be fetched, storage


@dataclass
class GroupState:
    """One group's progress, its fate, and its pace.

    Attributes:
        progress, recovery: where it is, and what it must do again.
        submitted_at: when it was sent its last order.
        waited_s: before the interval in flight.
        idle_since: monotonic time at which the last interval was committed.
        lengths_s: of intervals, at the group's size.
        is_warm: its processes have finished an interval, so have compiled and filled their caches.
    """

    progress: Progress = field(default_factory=Progress)
    recovery: Recovery = field(default_factory=Recovery)
    submitted_at: float = 0.0
    waited_s: float = 0.0
    idle_since: float | None = None
    lengths_s: list[float] = field(default_factory=list)
    is_warm: bool = False

    def deadline_s(self, deadlines: DeadlineSpec) -> float:
        """How long the interval in flight may take."""
        if not self.lengths_s:
            return deadlines.first_interval_s
        factor, floor_s = deadlines.interval_factor, deadlines.interval_floor_s
        usual_s = max(floor_s, factor * statistics.median(self.lengths_s))
        return usual_s if self.is_warm else max(usual_s, deadlines.first_interval_s)

    @property
    def is_at_work(self) -> bool:
        """Whether an interval is in flight in its processes."""
        return self.progress.running and self.recovery.is_at_work

    def brings_back(self, number: int) -> bool:
        """Whether the group is on its way to publish a version again that was lost.

        True while it is restarted: what its replay will publish is seen when it is ready.
        """
        recovery = self.recovery
        if recovery.restarting:
            return True
        ahead = recovery.ahead
        if self.is_at_work and recovery.sent is not None:
            ahead = [recovery.sent, *ahead]
        return any(entry.order.interval == number for entry in ahead)


def restart_limit_s(deadlines: DeadlineSpec) -> float:
    """How long a restart or a resize may take that keeps the deadline of each of its waits."""
    return RESTART_WAITS * deadlines.start_s + OTHER_WAITS_S
