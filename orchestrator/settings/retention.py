"""How much of a run the object store holds at a time. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from actors.settings.run import ExchangeSpec

IN_FLIGHT_VERSIONS = 2  # being published, and held by a running evaluation


IN_FLIGHT_CHECKPOINTS = 2  # just returned, and being written


@dataclass(frozen=True)
class Retention:
    """How much of a run the object store holds at a time.

    Attributes:
        newest: versions of each group that are always kept: the newest, and as many as the slower
            group may be behind.
        replayed: older ones at most, which a group that died would adopt again.
        checkpoints: of each group: kept, just returned, and being written.
    """

    newest: int
    replayed: int
    checkpoints: int

    @classmethod
    def of(cls, exchange: ExchangeSpec, checkpoint_every: int, recovers: bool = True) -> Retention:
        """What the settings make of it; a group that is not restarted needs no old versions."""
        newest = exchange.staleness + 1
        if not checkpoint_every:
            return cls(newest, 0, 0)
        if not recovers:
            return cls(newest, 0, IN_FLIGHT_CHECKPOINTS)
        lockstep = exchange.mode == "lockstep"
        adopted = checkpoint_every // (exchange.publish_every if lockstep else 1)
        return cls(newest, max(0, adopted - 1), 1 + IN_FLIGHT_CHECKPOINTS)

    def needed_bytes(self, snapshots: Iterable[int], checkpoints: Iterable[int]) -> int:
        """Bytes of the object store that a run's versions and checkpoints take at most."""
        return self.versions * sum(snapshots) + self.checkpoints * sum(checkpoints)

    @property
    def versions(self) -> int:
        """Versions of each group at most."""
        return self.newest + self.replayed + IN_FLIGHT_VERSIONS
