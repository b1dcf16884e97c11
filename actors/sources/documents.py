"""What a corpus is before tokenisation: documents, in numbered blocks. Reads nothing itself.

Called by the sources, which implement `Source`, and by `corpus`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
TRAINING, HELDOUT = "training", "held-out"  # splits, as messages name them


@dataclass(frozen=True)
class Document:
    """A text that is packed apart from its neighbours.

    Attributes:
        text: what is to be learned.
        subject: documents of one subject never share a window.
        given: what stands before `text` and is read but not predicted.
    """

    text: str
    subject: str | None = None
    given: str = ""

    @property
    def num_bytes(self) -> int:
        """Bytes of both texts in UTF-8."""
        return len(self.text.encode()) + len(self.given.encode())


class Source(Protocol):
    """Documents in numbered training blocks, each readable on its own, and a held-out split that no
    training block overlaps.
    """

    @property
    def num_blocks(self) -> int:
        """Training blocks."""

    def order(self, rng: np.random.Generator) -> Indices:
        """Every training block once, shuffled as far as the files let blocks be read apart."""

    def span(self, index: int) -> int:
        """The part of the files that a training block lies in; one process should read it all."""

    def block(self, index: int) -> list[Document]:
        """The documents of one training block, always the same ones in the same order."""

    def blocks(self, indices: Sequence[int]) -> list[list[Document]]:
        """The documents of several training blocks; together they may be read faster."""

    def heldout(self, num_blocks: int | None = None) -> Iterator[Document]:
        """The held-out split, in order; of a large one, about `num_blocks` blocks spread over
        it.
        """

    def why_empty(self, split: str) -> str:
        """What is said where a split holds nothing: what there is, and what to change."""
