"""What a group must do again when it died, and whether it may: decisions without effects.

A group that died goes back to its newest checkpoint, one incarnation later, and is given the same
orders again with the same versions of its peer. So the coordinator keeps a journal of what each
group did since that checkpoint, and a count of its failures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from actors.wire import (
    CheckpointError,
    ConfigError,
    DivergedError,
    Order,
    StorageError,
    UnwiredMemoryError,
)
from orchestrator.errors import GroupFailedError
from orchestrator.loop.exchange import GroupCheckpoint, Version

# What a replay would only run into again.
LASTING = (ConfigError, CheckpointError, DivergedError, UnwiredMemoryError)

Sums = tuple[tuple[int, ...], ...]  # checksums of a version's buckets, by rank


@dataclass(frozen=True)
class Entry:
    """An interval that a group was asked for since its newest checkpoint."""

    order: Order
    peer_version: int
    sums: Sums = ()  # of the version that it published; none while it is in flight


@dataclass
class Journal:
    """What a group did since its newest checkpoint.

    Attributes:
        checkpoint: where a replay begins; None: at the run's beginning.
        done: committed since then, in order.
        in_flight: submitted and not committed.
    """

    checkpoint: GroupCheckpoint | None = None
    done: list[Entry] = field(default_factory=list)
    in_flight: Entry | None = None

    def submit(self, order: Order, peer_version: int) -> None:
        """The group was asked for its next interval."""
        self.in_flight = Entry(order, peer_version)

    def commit(self, version: Version | None, checkpoint: GroupCheckpoint | None) -> None:
        """The interval in flight came back; with a checkpoint the journal begins anew."""
        assert self.in_flight is not None, "nothing was in flight"
        if checkpoint is not None:
            self.checkpoint, self.done = checkpoint, []
        else:
            self.done.append(replace(self.in_flight, sums=sums_of(version)))
        self.in_flight = None

    @property
    def adopted(self) -> set[int]:
        """Versions of the peer that a replay would adopt."""
        return {entry.peer_version for entry in self.again()}

    @property
    def start(self) -> int:
        """The interval after which a replay begins, and the number of the version before it."""
        return self.checkpoint.interval if self.checkpoint is not None else 0

    def again(self) -> list[Entry]:
        """What a new incarnation is given, in order; the last one is what was in flight."""
        return [*self.done, self.in_flight] if self.in_flight else list(self.done)


@dataclass(frozen=True)
class Failure:
    """One failure of a group, as the report tells it.

    Attributes:
        group, rank, interval: who, and in which interval.
        cause: what happened.
        incarnation: the one that ended.
        replayed: intervals that are done again, the one in flight among them.
    """

    group: str
    rank: int
    interval: int
    cause: str
    incarnation: int
    replayed: int


@dataclass
class Recovery:
    """One group's fate: its journal, its failures, and how far a replay has come.

    Attributes:
        journal: what the group did since its newest checkpoint.
        incarnation: of its processes.
        failures: so far.
        restarting: its processes are being replaced.
        sent: what it was last asked for.
        failed_at, stood_at: when its failure was noticed, and when its new processes stood.
    """

    journal: Journal = field(default_factory=Journal)
    incarnation: int = 0
    failures: list[Failure] = field(default_factory=list)
    restarting: bool = False
    sent: Entry | None = None
    waiting: Entry | None = None  # to be sent when its input is there again
    failed_at: float = 0.0
    stood_at: float = 0.0
    _again: list[Entry] = field(default_factory=list)

    def fail(self, failure: Failure, now: float) -> None:
        """The group's processes are given up."""
        self.failures.append(failure)
        self.incarnation += 1
        self.restarting, self.failed_at, self.waiting = True, now, None
        self._again = self.journal.again()

    def give_way(self, now: float) -> None:
        """The group's processes are regrouped after a checkpoint: nothing is done again."""
        self.restarting, self.failed_at, self._again = True, now, []

    def stand(self, now: float) -> None:
        """New processes have taken their place."""
        self.restarting, self.stood_at = False, now

    def next_again(self) -> Entry | None:
        """What the group must do next to come back to where it was; None: it is there."""
        return self._again.pop(0) if self._again else None

    @property
    def ahead(self) -> list[Entry]:
        """What the group has still to do again, without what it was sent last."""
        return [self.waiting, *self._again] if self.waiting is not None else list(self._again)

    @property
    def is_at_work(self) -> bool:
        """Whether its processes stand and have what they need."""
        return not self.restarting and self.waiting is None

    def differs(self, version: Version | None) -> bool:
        """Whether what was just replayed ended in other bytes than the first time."""
        assert self.sent is not None, "nothing was replayed"
        return sums_of(version) != self.sent.sums


def sums_of(version: Version | None) -> Sums:
    """The checksums by which two copies of a version are compared."""
    return tuple(header.checksums for header in version.headers) if version else ()


def refuse_restart(
    cause: BaseException, earlier: Sequence[Failure], max_failures: int, then: str
) -> None:
    """Raises where a group that failed may not be restarted.

    Args:
        cause: of the failure.
        earlier: failures of the group before this one.
        max_failures: as in Ray's `FailureConfig`: restarts at most, -1 for any number.
        then: how the run goes on by hand.

    Raises:
        TandemError: the cause itself where a replay would only run into it again or nothing is
            restarted; else the first cause, and how many followed.
    """
    if isinstance(cause, LASTING) or max_failures == 0:
        raise cause
    if 0 < max_failures <= len(earlier):
        first = earlier[0]
        kind = StorageError if isinstance(cause, StorageError) else GroupFailedError
        raise kind(
            f"{cause}; this was failure {len(earlier) + 1} of the {first.group} group, and "
            f"recovery.max_failures is {max_failures}; the first one, in interval "
            f"{first.interval}: {first.cause}; {then}"
        ) from cause


def refuse_if_gone(group: str, number: int, journal: Journal, then: str) -> None:
    """Raises where a version that was lost is older than what its group will publish again.

    Args:
        group, number: of the version.
        journal: the group's.
        then: how the run goes on by hand.

    Raises:
        GroupFailedError: naming the version and the checkpoint.
    """
    if journal.checkpoint is not None and number < journal.checkpoint.interval:
        raise GroupFailedError(
            f"{group}: version {number} was lost with its node, and the group's newest checkpoint "
            f"is that of interval {journal.checkpoint.interval}; {then}"
        )
