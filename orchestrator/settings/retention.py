"""How many versions and checkpoints of a run are kept at a time, and how much of that has to lie in
the object store. Pure.

What groups exchange has to be in memory. What only a replay would need does not: Ray moves it to
the nodes' disks when the store is full, and back when a replay adopts it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from actors.settings.run import ExchangeSpec
from actors.snapshots.buckets import BUCKET_BYTES, stream_parts

IN_FLIGHT_VERSIONS = 2  # being published, and held by a running evaluation
IN_FLIGHT_CHECKPOINTS = 2  # just returned, and being written
STREAMED_PARTS = 2  # of a checkpoint, in memory at a time: one that comes, one that is written


@dataclass(frozen=True)
class Retention:
    """How many versions and checkpoints of each group are kept at a time.

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
        """Most bytes that have to lie in the object store: versions that are exchanged, and the
        part of a checkpoint that is on its way to storage.
        """
        parts = (min(BUCKET_BYTES, -(-size // stream_parts(size))) for size in checkpoints)
        streamed = STREAMED_PARTS * sum(parts)
        return self.exchanged * sum(snapshots) + (streamed if self.checkpoints else 0)

    def kept_bytes(self, snapshots: Iterable[int], checkpoints: Iterable[int]) -> int:
        """Most bytes of all that is kept, in the object store or, where that is full, on disk."""
        return self.versions * sum(snapshots) + self.checkpoints * sum(checkpoints)

    @property
    def exchanged(self) -> int:
        """Most versions of each group that are published, adopted or evaluated."""
        return self.newest + IN_FLIGHT_VERSIONS

    @property
    def versions(self) -> int:
        """Most versions of each group."""
        return self.exchanged + self.replayed
