"""What the coordinator knows of one group. Called by `coordinator` and `commands`."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from orchestrator.config import DeadlineSpec
from orchestrator.recovery import Recovery
from orchestrator.schedule import Progress


@dataclass
class GroupState:
    """One group's progress, its fate, and its pace."""

    progress: Progress = field(default_factory=Progress)
    recovery: Recovery = field(default_factory=Recovery)
    submitted_at: float = 0.0
    waited_s: float = 0.0  # before the interval in flight
    idle_since: float | None = None  # monotonic time at which the last interval was committed
    lengths_s: list[float] = field(default_factory=list)  # of intervals, at the group's size

    def deadline_s(self, deadlines: DeadlineSpec) -> float:
        """How long the interval in flight may take."""
        if not self.lengths_s:
            return deadlines.first_interval_s
        factor, floor_s = deadlines.interval_factor, deadlines.interval_floor_s
        return max(floor_s, factor * statistics.median(self.lengths_s))
