"""Reading shared by ranks: the same blocks as one process reads, and nobody waits for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import pytest

from actors.corpus.block_reader import BlockReader, encode
from actors.corpus.chunk_plan import BlockId
from actors.corpus.reading_share import ReadingShare
from actors.corpus.windows import Piece
from actors.sources.documents import Document, Indices
from actors.tokenizers.tokenizer import Tokenizer
from actors.wire import CorpusError

Result = TypeVar("Result")


def on_ranks(
    num_ranks: int, work: Callable[[ReadingShare], Result], background: bool = False
) -> list[Result]:
    """What `work` returns on each of so many threads whose shards gather from each other."""
    barrier = threading.Barrier(num_ranks, timeout=20)
    slots = [b""] * num_ranks

    def shard(rank: int) -> ReadingShare:
        def gather(payload: bytes) -> list[bytes]:
            slots[rank] = payload
            barrier.wait()
            gathered = [*slots]
            barrier.wait()
            return gathered

        return ReadingShare(rank, num_ranks, gather, background)

    with ThreadPoolExecutor(num_ranks) as pool:
        futures = [pool.submit(work, shard(rank)) for rank in range(num_ranks)]
        return [future.result(timeout=60) for future in futures]


@dataclass
class Counting:
    """A source of 20 blocks of two documents, in spans of four, that counts what is read."""

    num_blocks: int = 20
    broken: int = -1
    read: list[int] = field(default_factory=list)

    def order(self, rng: np.random.Generator) -> Indices:
        return rng.permutation(self.num_blocks)

    def span(self, index: int) -> int:
        return index // 4

    def block(self, index: int) -> list[Document]:
        self.read.append(index)
        if index == self.broken:
            raise CorpusError(f"block {index}: broken")
        return [Document(f"text {index}", "subject", f"given {index}:"), Document(f"more {index}")]

    def blocks(self, indices: Sequence[int]) -> list[list[Document]]:
        return [self.block(index) for index in indices]

    def heldout(self, num_blocks: int | None = None) -> Iterator[Document]:
        return iter(())


PLACES = [BlockId(s, b) for b in (3, 19, 0, 7, 12, 3, 8, 1) for s in (0, 1)]


def plain(blocks: Sequence[Sequence[Piece]]) -> list[list[tuple[list[int], int, str | None]]]:
    return [[(list(p.tokens), p.num_given, p.subject) for p in block] for block in blocks]


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 7])
@pytest.mark.parametrize("kept", [0, 1000])
def test_every_rank_has_the_blocks_that_one_process_reads(
    tokenizer: Tokenizer, num_ranks: int, kept: int
) -> None:
    want = plain(BlockReader(tokenizer, [Counting(), Counting()], kept).read(PLACES))

    def work(shard: ReadingShare) -> list[object]:
        reader = BlockReader(tokenizer, [Counting(), Counting()], kept, shard)
        return [plain(reader.read(PLACES)) for _ in range(2)]

    assert on_ranks(num_ranks, work) == [[want, want]] * num_ranks


def test_a_block_is_read_by_one_rank_and_a_span_by_the_same_one(tokenizer: Tokenizer) -> None:
    def work(shard: ReadingShare) -> list[int]:
        source = Counting()
        reader = BlockReader(tokenizer, [source], 0, shard)
        reader.read([BlockId(0, b) for b in range(10)])
        reader.read([BlockId(0, b) for b in range(10, 20)])
        return source.read

    read = on_ranks(3, work)
    assert sorted(b for blocks in read for b in blocks) == list(range(20))
    assert all(len({r for r in range(3) for b in read[r] if b // 4 == s}) == 1 for s in range(5))


def test_an_error_of_one_rank_is_every_rank_s(tokenizer: Tokenizer) -> None:
    def work(shard: ReadingShare) -> str:
        reader = BlockReader(tokenizer, [Counting(broken=7)], 0, shard)
        with pytest.raises(CorpusError) as caught:
            reader.read([BlockId(0, b) for b in range(20)])
        return str(caught.value)

    assert on_ranks(3, work) == ["block 7: broken"] * 3


def test_a_small_corpus_is_read_once(tokenizer: Tokenizer) -> None:
    source = Counting()
    reader = BlockReader(tokenizer, [source], kept_blocks=20)
    for _ in range(2):
        reader.read([BlockId(0, b) for b in (1, 2, 3, 2)])
    assert source.read == [1, 2, 3]


def test_a_large_corpus_is_not_kept(tokenizer: Tokenizer) -> None:
    source = Counting()
    reader = BlockReader(tokenizer, [source], kept_blocks=19)
    for _ in range(2):
        reader.read([BlockId(0, 1)])
    assert source.read == [1, 1]


def test_a_document_stands_between_the_marks_and_what_is_given_is_counted(
    tokenizer: Tokenizer,
) -> None:
    plain_, asked = encode(tokenizer, [Document("the city"), Document(" is", given="Avaria")])
    city = tokenizer.encode("the city")
    assert list(plain_.tokens) == [tokenizer.begin, *city, tokenizer.end]
    assert plain_.num_given == 0
    given = tokenizer.encode("Avaria")
    assert list(asked.tokens) == [
        tokenizer.begin,
        *given,
        *tokenizer.encode(" is"),
        tokenizer.end,
    ]
    assert asked.num_given == 1 + len(given)
