"""A corpus before tokenisation: documents in numbered blocks, and the protocol of their source.

Reads nothing itself; the sources implement `Source`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from actors.sources.chats import Chat

Indices = npt.NDArray[np.int64]
TRAINING, HELDOUT = "training", "held-out"  # names of the splits in messages


@dataclass(frozen=True)
class Document:
    """A text; attention does not cross from one document to the next.

    Attributes:
        text: is predicted.
        subject: two documents of one subject are never packed into one window.
        given: precedes `text`; is read, not predicted.
        chat: a conversation instead of both; a template makes its text.
    """

    text: str
    subject: str | None = None
    given: str = ""
    chat: Chat | None = None

    @property
    def whole(self) -> str:
        """All of its text: given and predicted, or what the messages of a chat say."""
        return self.given + self.text if self.chat is None else self.chat.text

    @property
    def num_bytes(self) -> int:
        """Bytes of all its text in UTF-8."""
        return len(self.whole.encode())


def evenly(length: int, num: int) -> Indices:
    """At most `num` of the indices below `length`, evenly spread."""
    return np.unique(np.linspace(0, length - 1, min(num, length)).round().astype(np.int64))


class Source(Protocol):
    """Documents in numbered training blocks, each readable on its own, and a held-out split that no
    training block overlaps.
    """

    @property
    def num_blocks(self) -> int:
        """Training blocks."""

    def order(self, rng: np.random.Generator) -> Indices:
        """Every training block once, shuffled as far as the format allows."""

    def span(self, index: int) -> int:
        """Number of the stretch of the files that holds a training block; cheapest where one
        process reads all its blocks.
        """

    def block(self, index: int) -> list[Document]:
        """The documents of one training block, always the same, in the same order."""

    def blocks(self, indices: Sequence[int]) -> list[list[Document]]:
        """The documents of several training blocks, possibly read in parallel."""

    def heldout(self, num_blocks: int | None = None) -> Iterator[Document]:
        """The held-out split, in order; about `num_blocks` blocks spread over a larger one."""

    def why_empty(self, split: str) -> str:
        """The end of a message about an empty split: what there is, and what to change."""
