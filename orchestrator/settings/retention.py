"""How many versions and checkpoints of a run the object store holds at a time. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from actors.settings.run import ExchangeSpec

IN_FLIGHT_VERSIONS = 2  # being published, and held by a running evaluation
IN_FLIGHT_CHECKPOINTS = 2  # just returned, and being written


@dataclass(frozen=True)
class Retention:
    """How many versions and checkpoints of each group the object store holds at a time.

    Attributes:
        newest: versions that are always kept: the newest, and as many as the slower group may be
            behind.
        replayed: most older versions, which a restarted group would adopt again.
        checkpoints: most checkpoints: one kept, one just returned, one being written.
    """

    newest: int
    replayed: int
    checkpoints: int

    @classmethod
    def of(cls, exchange: ExchangeSpec, checkpoint_every: int, recovers: bool = True) -> Retention:
        """From the settings; where groups are not restarted, no old versions are needed."""
        newest = exchange.staleness + 1
        if not checkpoint_every:
            return cls(newest, 0, 0)
        if not recovers:
            return cls(newest, 0, IN_FLIGHT_CHECKPOINTS)
        lockstep = exchange.mode == "lockstep"
        adopted = checkpoint_every // (exchange.publish_every if lockstep else 1)
        return cls(newest, max(0, adopted - 1), 1 + IN_FLIGHT_CHECKPOINTS)

    def needed_bytes(self, snapshots: Iterable[int], checkpoints: Iterable[int]) -> int:
        """Most bytes of the object store that a run's versions and checkpoints take."""
        return self.versions * sum(snapshots) + self.checkpoints * sum(checkpoints)

    @property
    def versions(self) -> int:
        """Most versions of each group."""
        return self.newest + self.replayed + IN_FLIGHT_VERSIONS
