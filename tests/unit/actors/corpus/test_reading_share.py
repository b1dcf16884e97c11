"""What ranks hand round: blocks come back as they were, errors as errors."""

from __future__ import annotations

import numpy as np
import pytest

from actors.corpus.reading_share import failure, from_bytes, to_bytes
from actors.corpus.windows import Piece
from actors.wire import CorpusError

MARKED_LAST = Piece([7], 0, "a", np.array([True]))
BLOCKS = [
    [],
    [[Piece([5, 6, 7])]],
    [[], [Piece([1])], []],
    [[Piece([1, 2, 3], 2, "Łódź"), Piece([4], 0, None)], [Piece([2**31 - 1, 0], 1, "a\ud800")]],
    [[Piece([], 0)]],
    [[Piece([1, 2, 3], learn_T=np.array([False, True, False])), Piece([9, 8], 1)], [MARKED_LAST]],
]


def plain(blocks: list[list[Piece]]) -> list[list[tuple[object, ...]]]:
    return [
        [
            (list(p.tokens), p.num_given, p.subject, None if p.learn_T is None else [*p.learn_T])
            for p in block
        ]
        for block in blocks
    ]


@pytest.mark.parametrize("blocks", BLOCKS)
def test_blocks_come_back_as_they_were(blocks: list[list[Piece]]) -> None:
    assert plain(from_bytes(to_bytes(blocks))) == plain(blocks)


def test_an_error_comes_back_as_the_error_it_was() -> None:
    with pytest.raises(CorpusError, match=r"^file é: line 3$"):
        from_bytes(failure(CorpusError("file é: line 3")))


def test_nothing_is_pickled() -> None:
    assert not to_bytes(BLOCKS[3])[1:].startswith(b"\x80")
    with pytest.raises(ValueError, match=r".*"):
        from_bytes(b"r" + b"\xff" * 30)
