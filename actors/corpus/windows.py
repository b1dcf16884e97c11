"""Windows: tokens of documents packed into sequences of one length.

Shapes: N windows, T tokens of a window.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]

PADDING = -1  # segment of positions without a token
OPEN_WINDOWS = 16  # windows that packing keeps open; beyond that the fullest is closed


@dataclass(frozen=True)
class Windows:
    """Packed sequences.

    Attributes:
        tokens_NT: token ids.
        segments_NT: number within the window of the document at each position; -1: padding.
        learn_NT: whether the token at that position is to be predicted.
    """

    tokens_NT: IntArray
    segments_NT: IntArray
    learn_NT: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return int(self.tokens_NT.shape[0])

    def __getitem__(self, rows: slice | IntArray | npt.NDArray[np.int64]) -> Windows:
        return Windows(self.tokens_NT[rows], self.segments_NT[rows], self.learn_NT[rows])

    @property
    def num_tokens(self) -> int:
        """Positions with a token."""
        return int((self.segments_NT != PADDING).sum())

    @classmethod
    def concat(cls, parts: Sequence[Windows]) -> Windows:
        """All windows of `parts`, in order."""
        arrays = zip(*((p.tokens_NT, p.segments_NT, p.learn_NT) for p in parts), strict=True)
        return cls(*(np.concatenate(column) for column in arrays))

    @classmethod
    def empty(cls, window: int) -> Windows:
        """No windows, of the right width."""
        return cls(
            np.zeros((0, window), np.int32),
            np.zeros((0, window), np.int32),
            np.zeros((0, window), np.bool_),
        )


@dataclass(frozen=True)
class Piece:
    """Tokens of a document or of a part of it.

    Attributes:
        tokens: ids.
        num_given: the first so many are not predicted.
        subject: two pieces of one subject are never packed into one window.
        learn_T: instead of `num_given`, where what is predicted is no tail: which tokens are.
    """

    tokens: Sequence[int] | IntArray
    num_given: int = 0
    subject: str | None = None
    learn_T: Bools | None = None

    def cut(self, start: int, stop: int) -> Piece:
        """The tokens [start, stop)."""
        learn_T = None if self.learn_T is None else self.learn_T[start:stop]
        given = max(0, self.num_given - start)
        return Piece(self.tokens[start:stop], given, self.subject, learn_T)

    @property
    def teaches(self) -> bool:
        """Whether something in it is to be predicted, from a token before it."""
        if self.learn_T is not None:
            return bool(self.learn_T[1:].any())
        return len(self.tokens) > max(1, self.num_given)


def pack(documents: Iterable[Piece], window: int, fill: int) -> Windows:
    """Packs token lists into windows, first fit among the open ones, no subject twice in a window.

    A document longer than the window is cut: full pieces have a window each, the rest is packed
    like a short document.
    """
    closed: list[list[Piece]] = []
    open_: list[list[Piece]] = []
    used: list[int] = []
    subjects: list[set[str]] = []  # of each open window; sets, since this loop is the hot one
    for document in documents:
        for start in range(0, len(document.tokens), window):
            piece = document.cut(start, start + window)
            size, named = len(piece.tokens), () if piece.subject is None else (piece.subject,)
            if not piece.teaches:
                continue
            for slot, pieces in enumerate(open_):
                if used[slot] + size <= window and piece.subject not in subjects[slot]:
                    pieces.append(piece)
                    used[slot] += size
                    subjects[slot].update(named)
                    break
            else:
                open_.append([piece])
                used.append(size)
                subjects.append(set(named))
                if len(open_) > OPEN_WINDOWS:
                    fullest = max(range(len(open_)), key=used.__getitem__)
                    closed.append(open_.pop(fullest))
                    used.pop(fullest)
                    subjects.pop(fullest)
    closed.extend(open_)
    windows = Windows(
        np.full((len(closed), window), fill, np.int32),
        np.full((len(closed), window), PADDING, np.int32),
        np.zeros((len(closed), window), np.bool_),
    )
    for row, pieces in enumerate(closed):
        at = 0
        for segment, piece in enumerate(pieces):
            end = at + len(piece.tokens)
            windows.tokens_NT[row, at:end] = piece.tokens
            windows.segments_NT[row, at:end] = segment
            windows.learn_NT[row, at + piece.num_given : end] = (
                True if piece.learn_T is None else piece.learn_T
            )
            at = end
    return windows


def ids_of(windows: Windows | None) -> IntArray | None:
    """All tokens, one after another."""
    return None if windows is None else windows.tokens_NT[windows.segments_NT != PADDING]
