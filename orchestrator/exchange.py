"""The ring of versions: committed snapshots of both groups as object refs, kept as long as someone
may need them.

The driver owns every ref and never looks inside. Pure bookkeeping: it starts nothing and waits for
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from actors.spec import DATA, GROUPS
from actors.wire import Header
from orchestrator.errors import StoreTooSmallError

KEPT_VERSIONS = 2  # the newest, and the one that the slower group still adopts
IN_FLIGHT_VERSIONS = 2  # being published, and held by a running evaluation
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


class Ring:
    """The newest versions of each group."""

    def __init__(self, kept: int = KEPT_VERSIONS) -> None:
        self._kept = kept
        self._versions: dict[str, dict[int, Version]] = {group: {} for group in GROUPS}
        self.num_published = 0
        self.num_bytes = 0

    def commit(self, version: Version) -> None:
        """Adds a group's next version; the oldest beyond the ring's size are let go."""
        versions = self._versions[version.group]
        expected = max(versions, default=-1) + 1
        assert version.number == expected, (
            f"{version.group}: version {version.number} after {expected - 1}"
        )
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


def check_fits(snapshot_bytes: Mapping[str, int], store_bytes: float) -> None:
    """Refuses a run whose kept versions would not fit the object store.

    Raises:
        StoreTooSmallError: needed and available, and what to turn.
    """
    copies = KEPT_VERSIONS + IN_FLIGHT_VERSIONS
    needed = copies * sum(snapshot_bytes.values())
    if needed > STORE_SHARE * store_bytes:
        sizes = ", ".join(
            f"{group} {size / 2**20:,.1f} MiB" for group, size in sorted(snapshot_bytes.items())
        )
        raise StoreTooSmallError(
            f"the object store is too small: {copies} versions of each group ({sizes}) need "
            f"{needed / 2**20:,.0f} MiB, "
            f"{STORE_SHARE:.0%} of the store are {STORE_SHARE * store_bytes / 2**20:,.0f} MiB; "
            "raise ray.object_store_mib (embedded) or the nodes' object store, or make the layers "
            "smaller"
        )


def lag(interval: int, adopted: int, last_data_interval: int, group: str) -> int:
    """Versions by which an interval's adopted snapshot is behind the interval itself; 1 in
    lockstep.

    In its catch-up the memory goes on adopting the data group's last version, which is as new as it
    gets.
    """
    newest = min(interval, last_data_interval + 1) if group != DATA else interval
    return newest - adopted
