"""A rank's share of reading the corpus, and the bytes in which ranks exchange tokenised blocks.

Each rank reads and tokenises some blocks of a chunk, then all gather all blocks, so that each holds
the windows that one process alone would make.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from actors.corpus.windows import Piece
from actors.wire import CorpusError

READ, FAILED = b"r", b"f"
MARKED = -1  # in place of the number of given tokens: each token says whether it is learned


@dataclass(frozen=True)
class ReadingShare:
    """Which part of the blocks this rank reads, and how it gets the others.

    Attributes:
        rank, num_ranks: of this process.
        gather: all-gather of bytes, in rank order; all ranks call it equally often and in the
            same order.
        background: whether `gather` may be called from a thread other than the trainer's.
    """

    rank: int
    num_ranks: int
    gather: Callable[[bytes], list[bytes]]
    background: bool = False


def to_bytes(blocks: Sequence[Sequence[Piece]]) -> bytes:
    """Blocks of pieces as bytes."""
    pieces = [piece for block in blocks for piece in block]
    sizes = [len(blocks), *map(len, blocks), *(len(p.tokens) for p in pieces)]
    given = [p.num_given if p.learn_T is None else MARKED for p in pieces]
    tokens = [np.asarray(p.tokens, np.int32) for p in pieces]
    learned = [p.learn_T.astype(np.int32) for p in pieces if p.learn_T is not None]
    numbers = np.concatenate(
        [np.array([*sizes, *given], np.int32), *tokens, *learned], dtype=np.int32
    ).astype("<i4")
    subjects = [p.subject for p in pieces]
    named = json.dumps(subjects if any(s is not None for s in subjects) else []).encode()
    return READ + np.array([len(named)], "<i8").tobytes() + named + numbers.tobytes()


def failure(err: CorpusError) -> bytes:
    """A rank's error as bytes."""
    return FAILED + str(err).encode("utf-8", "backslashreplace")


def from_bytes(raw: bytes) -> list[list[Piece]]:
    """The blocks that `to_bytes` wrote.

    Raises:
        CorpusError: the error that the sending rank met.
    """
    if raw[:1] == FAILED:
        raise CorpusError(raw[1:].decode())
    length = int(np.frombuffer(raw, "<i8", 1, offset=1)[0])
    subjects = json.loads(raw[9 : 9 + length])
    numbers = np.frombuffer(raw[9 + length :], "<i4").astype(np.int32, copy=False)
    num_blocks = int(numbers[0])
    per_block = numbers[1 : 1 + num_blocks]
    num, at = int(per_block.sum()), 1 + num_blocks
    lengths, given = numbers[at : at + num], numbers[at + num : at + 2 * num]
    marked = np.where(given == MARKED, lengths, 0)
    ends = np.cumsum([at + 2 * num, *lengths, *marked])  # of the tokens, and of their marks
    parts = [numbers[start:stop] for start, stop in pairwise(ends.tolist())]
    pieces = []
    for i, tokens in enumerate(parts[:num]):
        subject = subjects[i] if subjects else None
        if given[i] == MARKED:
            pieces.append(Piece(tokens, 0, subject, parts[num + i] == 1))
        else:
            pieces.append(Piece(tokens, int(given[i]), subject))
    each = iter(pieces)
    return [[next(each) for _ in range(size)] for size in per_block.tolist()]
