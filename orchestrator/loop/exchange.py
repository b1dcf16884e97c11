"""The ring of versions: committed snapshots of both groups as object refs, kept as long as a group,
a replay or an evaluation may need them.

The driver owns every ref and never reads the bytes. Pure bookkeeping: it starts nothing and waits
for nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from actors.corpus.ranges import merge_ranges
from actors.formats import mib
from actors.settings.run import GROUPS
from actors.wire import CheckpointHeader, Header, Range
from orchestrator.errors import StoreTooSmallError
from orchestrator.settings.retention import Retention

STORE_SHARE = 0.8  # of the object store, for snapshots; the rest is Ray's


@dataclass(frozen=True)
class Version:
    """A committed snapshot: headers by rank, all buckets as refs in their order, and the bucket
    with what the data layer said, where the memory needs no more.
    """

    group: str
    number: int
    headers: tuple[Header, ...]
    bucket_refs: tuple[Any, ...]
    said_refs: tuple[Any, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Bytes of all buckets of weights."""
        return sum(sum(h.sizes) for h in self.headers)

    @property
    def adopted_refs(self) -> tuple[Any, ...]:
        """What the peer adopts: what was said, where that is all it needs, or the weights."""
        return self.said_refs or self.bucket_refs


@dataclass(frozen=True)
class GroupCheckpoint:
    """A group's whole state after an interval: headers by rank, and all buckets as refs."""

    group: str
    interval: int
    headers: tuple[CheckpointHeader, ...]
    bucket_refs: tuple[Any, ...]

    @property
    def peer_version(self) -> int:
        """The peer's version that the group had adopted."""
        return self.headers[0].peer_version


@dataclass(frozen=True)
class Tally:
    """The coordinator's own state that a resume needs."""

    agreement_before: float | None = None  # of the memory with the last version but one
    max_lag: int = 0
    num_published: int = 0
    num_bytes: int = 0


@dataclass(frozen=True)
class PairCheckpoint:
    """Both groups' states after one interval."""

    interval: int
    groups: Mapping[str, GroupCheckpoint]
    tally: Tally


class Pairing:
    """Pairs the checkpoints of both groups after the same interval."""

    def __init__(self) -> None:
        self._saved: dict[str, dict[int, GroupCheckpoint]] = {group: {} for group in GROUPS}

    def add(self, checkpoint: GroupCheckpoint) -> dict[str, GroupCheckpoint] | None:
        """Adds one; returns both once both are there. Older ones without the other are dropped."""
        interval = checkpoint.interval
        self._saved[checkpoint.group][interval] = checkpoint
        if any(interval not in saved for saved in self._saved.values()):
            return None
        pair = {group: self._saved[group].pop(interval) for group in GROUPS}
        for saved in self._saved.values():
            for older in [i for i in saved if i < interval]:
                del saved[older]
        return pair


class RangeLog:
    """Ranges of the corpus that the data group trained on, by the version published then."""

    def __init__(self) -> None:
        self._ranges: dict[int, tuple[Range, ...]] = {}

    def add(self, version: Version) -> None:
        """A version was committed."""
        self._ranges[version.number] = version.headers[0].ranges

    def since(self, before: int, number: int) -> tuple[Range, ...]:
        """The ranges that it trained on between two of its versions; older ones are forgotten."""
        newer = [n for n in sorted(self._ranges) if before < n <= number]
        ranges = merge_ranges(r for n in newer for r in self._ranges[n])
        for old in [n for n in self._ranges if n <= number]:
            del self._ranges[old]
        return ranges


class Ring:
    """The newest versions of each group, and older ones that a replay would need.

    Args:
        kept: number of newest versions of each group that are always kept.
    """

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._versions: dict[str, dict[int, Version]] = {group: {} for group in GROUPS}
        self._lost: set[tuple[str, int]] = set()
        self.num_published = 0
        self.num_bytes = 0

    def commit(self, version: Version) -> None:
        """Adds a group's next version."""
        versions = self._versions[version.group]
        newest = max(versions, default=-1)
        assert version.number > newest, f"{version.group}: version {version.number} after {newest}"
        versions[version.number] = version
        self.num_published += 1
        self.num_bytes += version.num_bytes

    def let_go(self, group: str, needed: Collection[int]) -> None:
        """Drops a group's versions that are neither among the newest nor needed."""
        versions = self._versions[group]
        for number in sorted(versions)[: -self._kept]:
            if number not in needed:
                del versions[number]

    def replace(self, version: Version) -> None:
        """Replaces a version by another copy of it, if it is still kept."""
        self._lost.discard((version.group, version.number))
        if version.number in self._versions[version.group]:
            self._versions[version.group][version.number] = version

    def lose(self, group: str, number: int) -> None:
        """A version's bytes were lost with the node that held them."""
        if number in self._versions[group]:
            self._lost.add((group, number))

    def numbers(self, group: str) -> list[int]:
        """Versions of a group that are kept, ascending."""
        return sorted(self._versions[group])

    def is_lost(self, group: str, number: int) -> bool:
        """Whether a version's bytes were lost and have not been published again."""
        return (group, number) in self._lost

    def get(self, group: str, number: int) -> Version:
        """A version that is still kept. Raises: KeyError naming what is kept."""
        versions = self._versions[group]
        if number not in versions:
            raise KeyError(
                f"{group} version {number} is not in the ring, which holds {sorted(versions)}"
            )
        return versions[number]

    def newest(self, group: str) -> Version:
        """The group's newest committed version."""
        return self.get(group, max(self._versions[group], default=-1))


def check_fits(
    snapshot_bytes: Mapping[str, int],
    checkpoint_bytes: Mapping[str, int],
    retention: Retention,
    store_bytes: float,
) -> None:
    """Refuses a run whose exchange does not fit the object store.

    Args:
        snapshot_bytes: of one version, by group.
        checkpoint_bytes: of one checkpoint, by group.
        retention: how many of them are kept.
        store_bytes: of the whole cluster's object store.

    Raises:
        StoreTooSmallError: needed and available bytes, and which settings to change.
    """
    saved = sum(checkpoint_bytes.values())
    needed = retention.needed_bytes(snapshot_bytes.values(), checkpoint_bytes.values())
    if needed > STORE_SHARE * store_bytes:
        sizes = ", ".join(f"{group} {mib(size)}" for group, size in sorted(snapshot_bytes.items()))
        raise StoreTooSmallError(
            f"the object store is too small: {retention.exchanged} versions of each group "
            f"({sizes}) and the part of a checkpoint ({mib(saved)}) that is on its way to storage "
            f"need {mib(needed, 0)}, "
            f"{STORE_SHARE:.0%} of the store are {mib(STORE_SHARE * store_bytes, 0)}; "
            "raise ray.object_store_mib (embedded) or the nodes' object store, lower "
            "exchange.staleness, or train less of the data layer (data.layer.train)"
        )
