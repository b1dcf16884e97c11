"""Which blocks make up a chunk of a stream: of one source by epochs, of several by weights.

A pure function of seed, stream and chunk number, so that a chunk number is a position in a stream.
Reads nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from actors.sources.documents import Indices, Source

CACHED_ORDERS = 8
PARTS = 1 << 20  # of a block; rates are whole numbers of parts, so that no rounding adds up


class BlockId(NamedTuple):
    """A training block: number of its source, number in it."""

    source: int
    block: int


def rng_of(seed: int, stream: str, *more: int) -> np.random.Generator:
    """A random generator that depends on exactly these values."""
    return np.random.default_rng([seed, *stream.encode(), *more])


@dataclass(frozen=True)
class ChunkPlan:
    """Blocks whose documents are shuffled together, and the generator that shuffles them."""

    block_ids: list[BlockId]
    rng: np.random.Generator


class ChunkPlanner:
    """Plans the chunks of every stream.

    With one source, its shuffled blocks are taken chunk by chunk, each once per epoch. With
    several, each source contributes its rate of blocks to every chunk, on average, and begins its
    own next epoch when all its blocks were used.

    Args:
        sources: at least one.
        seed: of the shuffles.
        chunk_blocks: blocks of a chunk.
        shares: each source's share of the blocks; they add up to 1.
    """

    def __init__(
        self, sources: Sequence[Source], seed: int, chunk_blocks: int, shares: Sequence[float]
    ) -> None:
        self._sources = sources
        self._seed = seed
        self._chunk_blocks = chunk_blocks
        self._rates = [max(1, round(share * chunk_blocks * PARTS)) for share in shares]
        self._orders: OrderedDict[tuple[str, int, int], Indices] = OrderedDict()

    @property
    def chunks_per_epoch(self) -> int:
        """Chunks after which every training block of every source was used."""
        if len(self._sources) == 1:
            return -(-self._sources[0].num_blocks // self._chunk_blocks)
        needed = zip(self._sources, self._rates, strict=True)
        return max(-(-source.num_blocks * PARTS // rate) for source, rate in needed)

    def chunk(self, stream: str, index: int) -> ChunkPlan:
        """The plan of chunk `index` of the named stream."""
        if len(self._sources) == 1:
            epoch, within = divmod(index, self.chunks_per_epoch)
            start = within * self._chunk_blocks
            order = self._order(stream, 0, epoch)[start : start + self._chunk_blocks]
            block_ids = [BlockId(0, int(block)) for block in order]
            return ChunkPlan(block_ids, rng_of(self._seed, stream, epoch, within))
        block_ids = []
        for number, (source, rate) in enumerate(zip(self._sources, self._rates, strict=True)):
            for at in range(index * rate // PARTS, (index + 1) * rate // PARTS):
                epoch, within = divmod(at, source.num_blocks)
                block_ids.append(BlockId(number, int(self._order(stream, number, epoch)[within])))
        return ChunkPlan(block_ids, rng_of(self._seed, stream, 0, index))

    def _order(self, stream: str, source: int, epoch: int) -> Indices:
        key = (stream, source, epoch)
        if key not in self._orders:
            name = stream if len(self._sources) == 1 else f"{stream}/{source}"
            self._orders[key] = self._sources[source].order(rng_of(self._seed, name, epoch))
            while len(self._orders) > max(CACHED_ORDERS, 2 * len(self._sources)):
                self._orders.popitem(last=False)
        self._orders.move_to_end(key)
        return self._orders[key]
