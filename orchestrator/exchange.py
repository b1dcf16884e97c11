"""The ring of versions: committed snapshots of both groups as object refs, kept as long as someone
may need them.

The driver owns every ref and never looks inside. Pure bookkeeping: it starts nothing and waits for
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from actors.spec import GROUPS
from actors.wire import CheckpointHeader, Header
from orchestrator.errors import StoreTooSmallError

IN_FLIGHT_VERSIONS = 2  # being published, and held by a running evaluation
IN_FLIGHT_CHECKPOINTS = 2  # just returned, and being written
STORE_SHARE = 0.8  # of the object store, for snapshots; the rest is Ray's


@dataclass(frozen=True)
class Version:
    """A committed snapshot: headers by rank, and all buckets as refs in their order."""

    group: str
    number: int
    headers: tuple[Header, ...]
    bucket_refs: tuple[Any, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of all buckets."""
        return sum(sum(h.sizes) for h in self.headers)


@dataclass(frozen=True)
class GroupCheckpoint:
    """A group's whole state after an interval: headers by rank, and all parts as refs."""

    group: str
    interval: int
    headers: tuple[CheckpointHeader, ...]
    bucket_refs: tuple[Any, ...]

    @property
    def peer_version(self) -> int:
        """The version that the group had adopted."""
        return self.headers[0].peer_version


@dataclass(frozen=True)
class Tally:
    """What the coordinator itself must remember over a resume."""

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


class Ring:
    """The newest versions of each group.

    Args:
        kept: versions of each group; see `kept_versions`.
    """

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._versions: dict[str, dict[int, Version]] = {group: {} for group in GROUPS}
        self.num_published = 0
        self.num_bytes = 0

    def commit(self, version: Version) -> None:
        """Adds a group's next version; the oldest beyond the ring's size are let go."""
        versions = self._versions[version.group]
        newest = max(versions, default=-1)
        assert version.number > newest, f"{version.group}: version {version.number} after {newest}"
        versions[version.number] = version
        for number in sorted(versions)[: -self._kept]:
            del versions[number]
        self.num_published += 1
        self.num_bytes += version.num_bytes

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


def kept_versions(staleness: int) -> int:
    """Versions that the ring keeps: the newest, and as many as the slower group may be behind."""
    return staleness + 1


def needed_bytes(snapshots: Iterable[int], checkpoints: Iterable[int], staleness: int) -> int:
    """Bytes of the object store that a run's versions and checkpoints take at most."""
    copies = kept_versions(staleness) + IN_FLIGHT_VERSIONS
    return copies * sum(snapshots) + IN_FLIGHT_CHECKPOINTS * sum(checkpoints)


def check_fits(
    snapshot_bytes: Mapping[str, int],
    checkpoint_bytes: Mapping[str, int],
    staleness: int,
    store_bytes: float,
) -> None:
    """Refuses a run whose kept versions and checkpoints would not fit the object store.

    Args:
        snapshot_bytes: of one version, by group.
        checkpoint_bytes: of one checkpoint, by group; empty where none are made.
        staleness: `exchange.staleness`.
        store_bytes: of the whole cluster's object store.

    Raises:
        StoreTooSmallError: needed and available, and what to turn.
    """
    copies, saved = kept_versions(staleness) + IN_FLIGHT_VERSIONS, sum(checkpoint_bytes.values())
    needed = needed_bytes(snapshot_bytes.values(), checkpoint_bytes.values(), staleness)
    if needed > STORE_SHARE * store_bytes:
        sizes = ", ".join(
            f"{group} {size / 2**20:,.1f} MiB" for group, size in sorted(snapshot_bytes.items())
        )
        raise StoreTooSmallError(
            f"the object store is too small: {copies} versions of each group ({sizes}) and "
            f"{IN_FLIGHT_CHECKPOINTS} checkpoints ({saved / 2**20:,.1f} MiB) need "
            f"{needed / 2**20:,.0f} MiB, "
            f"{STORE_SHARE:.0%} of the store are {STORE_SHARE * store_bytes / 2**20:,.0f} MiB; "
            "raise ray.object_store_mib (embedded) or the nodes' object store, or make the layers "
            "smaller"
        )
