"""Old text for a memory that learns something new: what it wrote itself before, for a corpus.

The drawn tokens are no truth, so nothing is learned of them as text: where they stand, each
prediction is kept as it was before learning (`Kept`). Called by `learner` and `jobs.learn`.

Shapes: B sequences, T tokens, N valid positions, M positions that read, V token ids.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from actors.corpus.windows import Piece, Windows, pack
from actors.layers.batch import Batch, rows_at, rows_to
from actors.layers.losses import log_probabilities
from actors.layers.memory_layer import MemoryLayer
from actors.layers.mixture import predict_both
from actors.layers.pair import Pair
from actors.machine.seeds import seed_of
from actors.pair.wordings import is_contradicting
from actors.pair.writing import write_documents
from actors.tokenizers.tokenizer import Tokenizer
from actors.wire import Range

DOCUMENTS = 3000
HELDOUT_FRAC = 0.1  # of the documents: measured on, never rehearsed


class WrittenCorpus:
    """Documents that a memory wrote: a part to rehearse, and a part to measure on.

    Args:
        tokenizer: the run's.
        window: tokens of a window.
        documents: in the order in which they were written.
    """

    facts: ClassVar[None] = None

    def __init__(self, tokenizer: Tokenizer, window: int, documents: Sequence[Piece]) -> None:
        self.tokenizer = tokenizer
        num_heldout = max(1, round(HELDOUT_FRAC * len(documents)))
        parts = documents[:num_heldout], documents[num_heldout:]
        self._heldout, self._training = (pack(p, window, tokenizer.end_of_text) for p in parts)

    @classmethod
    def write(
        cls,
        memory: MemoryLayer,
        tokenizer: Tokenizer,
        window: int,
        seed: int,
        subjects: Collection[str] = (),
        num: int = DOCUMENTS,
    ) -> WrittenCorpus:
        """Has the memory write; without documents that name one of `subjects`.

        Raises:
            ValueError: too few documents are left.
        """
        written = [
            document
            for document in write_documents(memory, tokenizer, num, seed, window)
            if not is_contradicting(
                tokenizer.decode([int(t) for t in document.tokens]), subjects, ()
            )
        ]
        if len(written) < 2:
            raise ValueError(
                f"of {num} documents that the memory wrote, {len(written)} name nothing that is to "
                "be learned; rehearse the run's corpus instead"
            )
        return cls(tokenizer, window, written)

    def heldout(self, limit: int) -> Windows:
        """At most `limit` windows that are never rehearsed."""
        return self._heldout[:limit]

    def stream(self, name: str, seed: int) -> WrittenStream:
        """All other windows, in a new random order each time round."""
        return WrittenStream(self._training, seed_of(seed, name))


class WrittenStream:
    """Batches of written windows, as `WindowStream` has them of a corpus.

    Args:
        windows: at least one.
        seed: of the order.
    """

    def __init__(self, windows: Windows, seed: int) -> None:
        self._windows, self._rng = windows, np.random.default_rng(seed)
        self._order = np.zeros(0, np.int64)

    def next_batch(self, num: int) -> tuple[Windows, list[Range]]:
        """The next `num` windows; they have no place in a corpus, so no ranges."""
        while len(self._order) < num:
            again = self._rng.permutation(len(self._windows))
            self._order = np.concatenate([self._order, again])
        taken, self._order = self._order[:num], self._order[num:]
        return self._windows[taken], []


@dataclass(frozen=True)
class Kept:
    """Log probabilities (N, V) at the valid positions before learning.

    Attributes:
        alone: of the memory.
        encoder: of its encoder without slots.
        mixed, reading: of both together, and of the data layer where it reads; None: not needed.
    """

    alone: Tensor
    encoder: Tensor
    mixed: Tensor | None = None
    reading: Tensor | None = None


class Before:
    """The pair as it was before its memory began to learn.

    Args:
        pair: now; its memory is copied.
    """

    def __init__(self, pair: Pair) -> None:
        self._data = pair.data
        self._memory = copy.deepcopy(pair.memory).requires_grad_(False)

    @torch.no_grad()
    def kept(self, batch: Batch, together: bool) -> Kept:
        """What was predicted; `together`: by the data layer with its reads too."""
        memory = self._memory
        u_BTD, _ = memory.encode(
            batch.tokens_BT, batch.segments_BT, one_document=batch.one_document
        )
        u_ND = rows_at(u_BTD, batch.valid_at_N)
        alone = log_probabilities(memory.predict(memory.read_at(u_ND).y))
        encoder = log_probabilities(memory.guess(u_ND))
        if not together:
            return Kept(alone, encoder)
        y_MD = memory.read_at(rows_at(u_BTD, batch.text_at_M)).y
        y_BTD = rows_to(y_MD, batch.text_at_M, batch.tokens_BT.shape)
        _, both = predict_both(self._data, memory, batch, y_BTD, batch.valid_at_N)
        return Kept(alone, encoder, both.mixed().logp, both.logp)
