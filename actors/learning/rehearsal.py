"""Old text for a memory that learns something new: what it wrote itself before, for a corpus.

The drawn tokens are no truth, so nothing is learned of them as text: where they stand, each
prediction is kept as it was before learning (`Kept`). Called by `learner` and `jobs.learn`.

Shapes: B sequences, T tokens, M positions that hold a token, K valid positions, P of these, V token
ids, D d_m, H the data layer's width.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from actors.corpus.kept_windows import KEPT_TOKENS, positions_of
from actors.corpus.windows import Piece, Windows, pack
from actors.layers import losses
from actors.layers.batch import Batch, hidden_at, rows_at, rows_to
from actors.layers.data_layer import DataLayer, MemoryPort
from actors.layers.memory_layer import MemoryLayer
from actors.layers.mixture import Predictions
from actors.layers.pair import Pair
from actors.layers.predicted import log_probabilities
from actors.lessons.contradictions import as_written, is_contradicting
from actors.machine.progress import Progress, unseen
from actors.machine.seeds import seed_of
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
        progress: Progress = unseen,
    ) -> WrittenCorpus:
        """Has the memory write; without documents that name one of `subjects`. `progress` sees how
        many are written.

        Raises:
            ValueError: too few documents are left.
        """
        named = as_written(tokenizer, subjects)
        written = [
            document
            for document in write_documents(memory, tokenizer, num, seed, window, progress=progress)
            if not is_contradicting(tokenizer.decode([int(t) for t in document.tokens]), named, ())
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

    def sample(self, num_reads: int) -> Windows:
        """Windows with about so many positions, as `kept_windows` takes them of a corpus."""
        all_of_them = self._training
        length = min(all_of_them.tokens_NT.shape[1], KEPT_TOKENS)
        cut = Windows(
            all_of_them.tokens_NT[:, :length],
            all_of_them.segments_NT[:, :length],
            all_of_them.learn_NT[:, :length],
        )
        num_kept = int(np.searchsorted(positions_of(cut).cumsum(), num_reads)) + 1
        return cut[: num_kept if num_reads else 0]

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
    """The pair before learning, at the K valid positions of some sequences.

    Attributes:
        memory, port: as they were.
        y_KD, u_KD: what that memory read there, and its encodings.
        hidden_KH: the data layer's hidden states, which read it through that port; None: not
            needed.
    """

    memory: MemoryLayer
    port: MemoryPort
    y_KD: Tensor
    u_KD: Tensor
    hidden_KH: Tensor | None = None

    def __len__(self) -> int:
        return len(self.y_KD)

    def alone(self, memory: MemoryLayer, y_KD: Tensor, some: slice) -> Tensor:
        """Divergence of what the memory predicts from what it predicted, at some positions, (P,).

        Args:
            memory: now.
            y_KD: what it reads.
            some: of the K positions.
        """
        with torch.no_grad():
            kept_PV = self.memory.predict(self.y_KD[some])
        return _divergence(kept_PV, memory.predict(y_KD[some]))

    def encoder(self, memory: MemoryLayer, u_KD: Tensor, some: slice) -> Tensor:
        """As `alone`, of what the encoder predicts without slots."""
        with torch.no_grad():
            kept_PV = self.memory.guess(self.u_KD[some])
        return _divergence(kept_PV, memory.guess(u_KD[some]))

    def together(
        self, data: DataLayer, memory: MemoryLayer, y_KD: Tensor, hidden_KH: Tensor, some: slice
    ) -> tuple[Tensor, Tensor]:
        """As `alone`, of both layers together, and of the data layer where it reads.

        Args:
            data: now; before, it had another port at most.
            memory, y_KD, some: as of `alone`.
            hidden_KH: the data layer's hidden states, which read `y_KD`.
        """
        assert self.hidden_KH is not None
        with torch.no_grad():
            kept = _both(data, self.memory, self.hidden_KH[some], self.y_KD[some], self.port)
            mixed_PV = kept.mixed().logp
        now = _both(data, memory, hidden_KH[some], y_KD[some], data.port)
        mixed_P = losses.kl(mixed_PV, now.mixed().logp)
        return mixed_P, _divergence(kept.logits, now.logits)


def _both(
    data: DataLayer, memory: MemoryLayer, hidden_PH: Tensor, y_PD: Tensor, port: MemoryPort
) -> Predictions:
    return Predictions(data.logits_at(hidden_PH), memory.predict(y_PD), hidden_PH, y_PD, port)


def _divergence(kept_PV: Tensor, now_PV: Tensor) -> Tensor:
    """KL of each position between two layers' logits, (P,)."""
    return losses.kl(log_probabilities(kept_PV), log_probabilities(now_PV))


class Before:
    """The pair as it was before its memory began to learn.

    Args:
        pair: now; its memory and the data layer's port are copied.
    """

    def __init__(self, pair: Pair) -> None:
        self._data = pair.data
        self._memory = copy.deepcopy(pair.memory).requires_grad_(False)
        self._port = copy.deepcopy(pair.data.port).requires_grad_(False)

    @torch.no_grad()
    def kept(self, batch: Batch, together: bool) -> Kept:
        """What was predicted; `together`: by the data layer with its reads too."""
        memory, hidden_KH = self._memory, None
        u_BTD, _ = memory.encode(
            batch.tokens_BT, batch.segments_BT, one_document=batch.one_document
        )
        y_MD = memory.read_at(rows_at(u_BTD, batch.text_at_M)).y
        y_BTD = rows_to(y_MD, batch.text_at_M, batch.tokens_BT.shape)
        if together:
            with _reading_through(self._data, self._port):
                hidden_KH = hidden_at(self._data, batch, y_BTD)
        y_KD, u_KD = (rows_at(x_BTD, batch.valid_at_N) for x_BTD in (y_BTD, u_BTD))
        return Kept(memory, self._port, y_KD, u_KD, hidden_KH)


@contextmanager
def _reading_through(data: DataLayer, port: MemoryPort) -> Iterator[None]:
    """During the block the data layer reads through another port."""
    own, data.port = data.port, port
    try:
        yield
    finally:
        data.port = own
