"""Which blocks make a chunk: epochs of one source, shares of several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pytest

from actors.corpus.chunk_plan import BlockId, ChunkPlanner
from actors.sources.documents import Document, Indices


class Numbered:
    """A source of blocks without content."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks

    def order(self, rng: np.random.Generator) -> Indices:
        return rng.permutation(self.num_blocks)

    def span(self, index: int) -> int:
        return index

    def block(self, index: int) -> list[Document]:
        return []

    def blocks(self, indices: Sequence[int]) -> list[list[Document]]:
        return [[] for _ in indices]

    def heldout(self, num_blocks: int | None = None) -> Iterator[Document]:
        return iter(())


def planner(sizes: Sequence[int], shares: Sequence[float], chunk_blocks: int = 8) -> ChunkPlanner:
    return ChunkPlanner([Numbered(size) for size in sizes], 5, chunk_blocks, shares)


def block_ids(of: ChunkPlanner, stop: int, stream: str = "data") -> list[BlockId]:
    return [block_id for index in range(stop) for block_id in of.chunk(stream, index).block_ids]


def test_an_epoch_of_one_source_is_every_block_once() -> None:
    one = planner([21], [1.0])
    assert one.chunks_per_epoch == 3
    assert sorted(p.block for p in block_ids(one, 3)) == list(range(21))


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.9, 0.1), (0.997, 0.003), (1 / 3, 2 / 3)])
def test_sources_have_their_shares_of_the_blocks(shares: tuple[float, float]) -> None:
    chunks = 4000
    counts = Counter(p.source for p in block_ids(planner([50, 30], shares), chunks))
    for source, share in enumerate(shares):
        assert counts[source] == pytest.approx(share * 8 * chunks, abs=2)


def test_the_shares_hold_in_every_stretch_of_chunks() -> None:
    mixed = planner([50, 30], [0.8, 0.2])
    for start in range(0, 400, 37):
        stretch = [mixed.chunk("data", i).block_ids for i in range(start, start + 20)]
        counts = Counter(p.source for chunk in stretch for p in chunk)
        assert abs(counts[1] - 0.2 * 8 * 20) <= 1


def test_each_source_has_epochs_of_its_own() -> None:
    drawn = [p.block for p in block_ids(planner([50, 7], [0.5, 0.5]), 40) if p.source == 1]
    epochs = [drawn[at : at + 7] for at in range(0, len(drawn) - 6, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert any(one != other for one, other in pairwise(epochs))


def test_a_whole_epoch_of_several_sources_holds_every_block() -> None:
    mixed = planner([50, 7, 20], [0.6, 0.3, 0.1])
    every = set(block_ids(mixed, mixed.chunks_per_epoch))
    assert every == {BlockId(s, b) for s, n in enumerate((50, 7, 20)) for b in range(n)}


@pytest.mark.parametrize("sizes", [(21,), (21, 13)])
def test_a_chunk_is_the_same_whatever_was_drawn_before(sizes: tuple[int, ...]) -> None:
    shares = [1 / len(sizes)] * len(sizes)
    one, other = planner(sizes, shares), planner(sizes, shares)
    block_ids(other, 30, "memory")
    chunk, again = one.chunk("data", 9), other.chunk("data", 9)
    assert chunk.block_ids == again.block_ids
    assert chunk.rng.integers(1 << 60) == again.rng.integers(1 << 60)


@pytest.mark.parametrize("sizes", [(21,), (21, 13)])
def test_streams_are_drawn_apart(sizes: tuple[int, ...]) -> None:
    mixed = planner(sizes, [1 / len(sizes)] * len(sizes))
    assert block_ids(mixed, 5) != block_ids(mixed, 5, "memory")
