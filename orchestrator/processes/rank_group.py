"""One trainer group on Ray: its actors, the interval in flight, its heartbeats.

Which group failed follows from whose call it was, never from the exception's type; within a group a
rank that died is named before those that only lost their partner. Blocks only in the waits of a
start, for which `launch` passes a function.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError

from actors.snapshots.buckets import num_buckets, num_shares, stream_parts
from actors.wire import Heartbeat, Location, Order, RankDescription, Report, TandemError
from orchestrator.errors import GroupFailedError, LostObjectError, as_group_error
from orchestrator.loop.events import Committed, Event, Failed
from orchestrator.loop.exchange import GroupCheckpoint, Version

GATHER_S = 0.005  # for the other ranks' reports, once one is there: a look per rank is quadratic
HEADERS_S = 10.0  # for the headers of a snapshot
REST_S = 2.0  # for the other ranks' errors, once one is there: the first cause may not come first

Waiting = Mapping[ObjectRef, tuple[str, int]]  # by ref, group and rank
AwaitAll = Callable[[Waiting, str], dict[ObjectRef, Any]]


@dataclass(frozen=True)
class _Shares:
    """How a snapshot or a checkpoint is returned: the first ranks return equally many buckets."""

    num_ranks: int = 0
    num_buckets: int = 0
    num_said: int = 0  # buckets that rank 0 returns besides, after its own

    @classmethod
    def of(cls, total_bytes: int, num_ranks: int, least: int = 1) -> _Shares:
        """How so many bytes are returned, in `least` buckets at least."""
        return cls(num_shares(total_bytes, num_ranks), num_buckets(total_bytes, num_ranks, least))

    def of_rank(self, rank: int) -> int:
        """Buckets that a rank returns."""
        said = 0 if rank else self.num_said
        return said + (self.num_buckets if rank < self.num_ranks else 0)


@dataclass(frozen=True)
class _Returned:
    """Refs of a snapshot or of a checkpoint in flight: headers by rank, all buckets, and the one
    with what was said.
    """

    header_refs: list[ObjectRef]
    bucket_refs: tuple[ObjectRef, ...]
    said_refs: tuple[ObjectRef, ...] = ()

    def headers(self) -> tuple[Any, ...]:
        """The headers, which are there when the reports are. Raises: RayError where they were
        lost.
        """
        refs = self.header_refs
        return tuple(ray.get(refs, timeout=HEADERS_S)) if refs else ()


def _returned(
    rows: Sequence[Sequence[ObjectRef]], first: int, shares: _Shares
) -> tuple[tuple[ObjectRef, ...], tuple[ObjectRef, ...]]:
    """Refs of a snapshot's buckets, and of the one with what was said, among what the ranks return
    from the `first` on.
    """
    stop = first + shares.num_buckets
    buckets = tuple(ref for row in rows for ref in row[first:stop])
    return buckets, tuple(rows[0][stop : stop + shares.num_said]) if rows else ()


@dataclass
class _Call:
    """One interval in flight.

    Attributes:
        interval: its number.
        pending: refs of the reports that have not come, with their ranks.
        snapshot, saved: what else is returned; no refs where it was not asked for.
        reports, errors: what has come, by rank.
    """

    interval: int
    pending: dict[ObjectRef, int]
    snapshot: _Returned
    saved: _Returned
    reports: dict[int, Report] = field(default_factory=dict)
    errors: dict[int, Exception] = field(default_factory=dict)

    def take(self) -> None:
        """Takes the reports that are there, and those that come a moment later."""
        refs = list(self.pending)
        ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        if 0 < len(ready) < len(refs):
            ready, _ = ray.wait(refs, num_returns=len(refs), timeout=GATHER_S)
        for ref in ready:
            rank = self.pending.pop(ref)
            try:
                self.reports[rank] = ray.get(ref)
            except Exception as err:  # whatever the remote code raised; it becomes an event
                self.errors[rank] = err


@dataclass
class RankGroup:
    """One group's actors, the interval in flight and the heartbeats.

    Args:
        name: of the group.
        actors: one per rank.
        heartbeat_s: age of a heartbeat that counts as dead.
    """

    name: str
    actors: list[ActorHandle]
    heartbeat_s: float
    locations: list[Location] = field(default_factory=list)
    descriptions: list[RankDescription] = field(default_factory=list)
    first_version: Version | None = None
    beats: dict[int, Heartbeat | None] = field(default_factory=dict)  # by rank, the last one
    _call: _Call | None = None
    _failing_since: float | None = None
    _adopted: int = -1
    _beat_refs: dict[ObjectRef, int] = field(default_factory=dict)
    _beat_at: dict[int, float] = field(default_factory=dict)  # rank -> when the last one came back

    def call_all(self, method: str, *args: Any) -> dict[ObjectRef, tuple[str, int]]:
        """Calls a method on every rank; the refs by group and rank."""
        return {
            getattr(actor, method).remote(*args): (self.name, rank)
            for rank, actor in enumerate(self.actors)
        }

    def meet(self, await_all: AwaitAll, compare: bool = True) -> None:
        """Lets the ranks join a process group, over a new store in rank 0's process; `compare`
        their weights where no checkpoint follows that makes them the same.
        """
        if len(self.actors) == 1:
            return
        opening = {self.actors[0].open_rendezvous.remote(): (self.name, 0)}
        ((host, port),) = await_all(opening, "did not open its rendezvous").values()
        await_all(self.call_all("join", host, port, compare), "did not meet its group")

    def restore(self, saved: GroupCheckpoint, await_all: AwaitAll) -> None:
        """Restores a checkpoint on every rank."""
        restoring = self.call_all("restore", saved.headers, *saved.bucket_refs)
        await_all(restoring, "was not restored")

    def publish_first(self, number: int, exact: bool, await_all: AwaitAll) -> None:
        """Publishes the layer as it is, as the version that the peer begins with."""
        shares = self._snapshot(exact)
        refs = [
            actor.publish.options(num_returns=1 + shares.of_rank(rank)).remote(exact)
            for rank, actor in enumerate(self.actors[: shares.num_ranks])
        ]
        waiting = {row[0]: (self.name, rank) for rank, row in enumerate(refs)}
        headers = await_all(waiting, f"did not publish version {number}")
        ordered = tuple(headers[row[0]] for row in refs)
        returned = _returned(refs, 1, shares)
        self.first_version = Version(self.name, number, ordered, *returned)

    def submit(self, order: Order, peer: Version) -> None:
        """Starts the next interval on a committed version of the peer."""
        assert self._call is None, f"{self.name}: interval {order.interval} while another runs"
        snapshot = self._snapshot(order.exact) if order.publish else _Shares()
        saved = self._checkpoint() if order.checkpoint else _Shares()
        # A version that the ranks have adopted already is not sent again.
        bucket_refs = peer.adopted_refs if peer.number != self._adopted else ()
        self._adopted = peer.number
        refs = [
            actor.interval.options(
                num_returns=3 + snapshot.of_rank(rank) + saved.of_rank(rank)
            ).remote(order, peer.headers, *bucket_refs)
            for rank, actor in enumerate(self.actors)
        ]
        pending = {row[0]: rank for rank, row in enumerate(refs)}
        published, kept = refs[: snapshot.num_ranks], refs[: saved.num_ranks]
        self._call = _Call(
            order.interval,
            pending,
            _Returned([row[1] for row in published], *_returned(published, 3, snapshot)),
            _Returned(
                [row[2] for row in kept],
                tuple(
                    ref
                    for rank, row in enumerate(kept)
                    for ref in row[3 + snapshot.of_rank(rank) :]
                ),
            ),
        )

    def _checkpoint(self) -> _Shares:
        size = self.descriptions[0].checkpoint_bytes
        return _Shares.of(size, len(self.actors), stream_parts(size))

    def _snapshot(self, exact: bool) -> _Shares:
        rank_0 = self.descriptions[0]
        num_bytes = rank_0.snapshot_bytes if exact else rank_0.wire_bytes
        shares = _Shares.of(num_bytes, len(self.actors))
        return replace(shares, num_said=bool(rank_0.said_bytes))

    @property
    def report_refs(self) -> list[ObjectRef]:
        """Refs of the reports that the interval in flight still lacks."""
        return list(self._call.pending) if self._call else []

    def collect(self) -> list[Event]:
        """What became of the interval in flight; waits a moment for ranks that are nearly done."""
        if (call := self._call) is None:
            return []
        call.take()
        if errors := call.errors:
            now = time.monotonic()
            self._failing_since = self._failing_since or now
            died = any(_kind(err) == 0 for err in errors.values())
            if call.pending and not died and now - self._failing_since < REST_S:
                return []
            rank = min(errors, key=lambda r: (_kind(errors[r]), r))
            cause = as_group_error(self.name, rank, errors[rank], f"in interval {call.interval}")
            missing = isinstance(cause, LostObjectError)
            return [Failed(self.name, rank, cause, missing_input=missing)]
        if call.pending:
            return []
        number, version, checkpoint = call.interval, None, None
        try:
            headers, saved = call.snapshot.headers(), call.saved.headers()
        except RayError as err:  # they were lost with the node, right after the reports
            cause = as_group_error(self.name, 0, err, f"after interval {number}")
            return [Failed(self.name, 0, cause)]
        if headers:
            refs = call.snapshot.bucket_refs, call.snapshot.said_refs
            version = Version(self.name, number, headers, *refs)
        if saved:
            checkpoint = GroupCheckpoint(self.name, number, saved, call.saved.bucket_refs)
        self._call = None
        ordered = tuple(call.reports[rank] for rank in range(len(self.actors)))
        return [Committed(self.name, call.interval, ordered, version, checkpoint)]

    def late_beats(self) -> list[Failed]:
        """Asks every rank for a heartbeat, and names those that are dead or whose last one is too
        old.
        """
        now = time.monotonic()
        failed = []
        if self._beat_refs:
            refs = list(self._beat_refs)
            ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
            for ref in ready:
                rank = self._beat_refs.pop(ref)
                try:
                    self.beats[rank] = ray.get(ref)
                    self._beat_at[rank] = now
                except RayError as err:  # the process died or can't be reached
                    cause = as_group_error(self.name, rank, err, "between two intervals")
                    failed.append(Failed(self.name, rank, cause))
        asked = set(self._beat_refs.values())
        for rank, actor in enumerate(self.actors):
            self._beat_at.setdefault(rank, now)
            if rank not in asked:
                self._beat_refs[actor.beat.remote()] = rank
        return failed or [
            Failed(self.name, rank, self._late(rank, now - at))
            for rank, at in self._beat_at.items()
            if now - at > self.heartbeat_s
        ]

    def _late(self, rank: int, age_s: float) -> GroupFailedError:
        return GroupFailedError(
            f"{self.name} rank {rank}: no heartbeat for {age_s:.0f} s in interval "
            f"{self._call.interval if self._call else 0}, on version {self._adopted} of its peer "
            f"(deadline {self.heartbeat_s:g} s); its process hangs or its node is gone; raise "
            "deadlines.heartbeat_s if the machine is overloaded"
        )


def _kind(err: Exception) -> int:
    """Which errors of a group's ranks are likelier the cause of the others: 0 before 1 before 2."""
    if isinstance(err, RayActorError):
        return 0
    cause = getattr(err, "cause", None)
    return 1 if isinstance(cause, TandemError) else 2
