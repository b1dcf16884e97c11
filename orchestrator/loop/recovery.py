"""What a group must replay when it failed, and whether it may be restarted. Pure.

A group that failed goes back to its newest checkpoint, one incarnation later, and is sent the same
orders with the same versions of its peer. So the coordinator keeps a journal of each group's
intervals since that checkpoint, and a list of its failures.
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

# Causes that a replay would only meet again.
LASTING = (ConfigError, CheckpointError, DivergedError, UnwiredMemoryError)

Sums = tuple[tuple[int, ...], ...]  # checksums of a version's buckets, by rank


@dataclass(frozen=True)
class Entry:
    """An interval that a group was asked for since its newest checkpoint.

    Attributes:
        order: as it was first sent.
        peer_version: the version that it adopts.
        waited_s: how long the group had waited before it was first sent.
        sums: checksums of the version that it published; none while it is in flight.
    """

    order: Order
    peer_version: int
    waited_s: float = 0.0
    sums: Sums = ()

    def is_same_as(self, version: Version | None) -> bool:
        """Whether a replay of this interval published the bytes of the first time."""
        return sums_of(version) == self.sums


@dataclass
class Journal:
    """A group's intervals since its newest checkpoint.

    Attributes:
        checkpoint: where a replay begins; None: at the run's beginning.
        done: intervals committed since then, in order.
        in_flight: submitted and not committed.
    """

    checkpoint: GroupCheckpoint | None = None
    done: list[Entry] = field(default_factory=list)
    in_flight: Entry | None = None

    def submit(self, order: Order, peer_version: int, waited_s: float = 0.0) -> Entry:
        """The group is asked for its next interval; returns it as it is kept."""
        self.in_flight = Entry(order, peer_version, waited_s)
        return self.in_flight

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
        return {entry.peer_version for entry in self.to_replay()}

    @property
    def start(self) -> int:
        """The interval after which a replay begins, and the number of the version before it."""
        return self.checkpoint.interval if self.checkpoint is not None else 0

    def to_replay(self) -> list[Entry]:
        """What a new incarnation is sent, in order; the last one is what was in flight."""
        return [*self.done, self.in_flight] if self.in_flight else list(self.done)


@dataclass(frozen=True)
class Failure:
    """One failure of a group, as the report tells it.

    Attributes:
        group, rank, interval: which rank failed, and in which interval.
        cause: what happened.
        incarnation: the one that ended.
        replayed: number of intervals to replay, the one in flight among them.
    """

    group: str
    rank: int
    interval: int
    cause: str
    incarnation: int
    replayed: int


def sums_of(version: Version | None) -> Sums:
    """The checksums by which two copies of a version are compared."""
    headers = version.headers if version else ()
    return tuple((*header.checksums, *header.said_checksums) for header in headers)


def refuse_restart(
    cause: BaseException, earlier: Sequence[Failure], max_failures: int, then: str
) -> None:
    """Raises where a group that failed may not be restarted.

    Args:
        cause: of the failure.
        earlier: failures of the group before this one.
        max_failures: as in Ray's `FailureConfig`: restarts at most, -1 for any number.
        then: how a person resumes the run.

    Raises:
        TandemError: the cause itself where a replay would only meet it again or nothing is
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
    """Raises where a lost version is older than the checkpoint from which its group would replay.

    Args:
        group, number: of the version.
        journal: the group's.
        then: how a person resumes the run.

    Raises:
        GroupFailedError: naming the version and the checkpoint.
    """
    if journal.checkpoint is not None and number < journal.checkpoint.interval:
        raise GroupFailedError(
            f"{group}: version {number} was lost with its node, and the group's newest checkpoint "
            f"is that of interval {journal.checkpoint.interval}; {then}"
        )
