"""What the coordinator knows of one group: its phase, its counts, its journal, its failures."""

from __future__ import annotations

from dataclasses import dataclass, field

from actors.wire import LiveLesson, Told
from orchestrator.loop.deadlines import Pace
from orchestrator.loop.phases import GroupPhase, Starting, is_busy
from orchestrator.loop.recovery import Failure, Journal
from orchestrator.loop.schedule import GroupProgress


@dataclass
class GroupState:
    """One group as the coordinator sees it.

    Attributes:
        phase: what it is doing or waiting for.
        committed: its last committed interval.
        published: its newest committed version.
        adopted: the peer's version that the interval in flight, or else the last one, adopts.
        committed_at: when its last interval was committed first; None before.
        journal: its intervals since its newest checkpoint.
        failures: so far.
        pace: how long its intervals take.
        told: what its newest version was told; the memory group's alone.
        lessons: what its newest version is taught while the run goes on.
    """

    phase: GroupPhase = field(default_factory=lambda: Starting(0.0))
    committed: int = 0
    published: int = 0
    adopted: int = 0
    committed_at: float | None = None
    journal: Journal = field(default_factory=Journal)
    failures: list[Failure] = field(default_factory=list)
    pace: Pace = field(default_factory=Pace)
    told: tuple[Told, ...] = ()
    lessons: tuple[LiveLesson, ...] = ()

    @property
    def incarnation(self) -> int:
        """Of its processes: each failure is followed by new ones."""
        return len(self.failures)

    @property
    def progress(self) -> GroupProgress:
        """What the schedule asks for."""
        return GroupProgress(self.committed, is_busy(self.phase), self.published, self.adopted)
