"""Which blocks are held out: every so many, from a place that the seed gives. Called by the file
source.

Blocks are numbered three ways: all of them in order, the training blocks, the held-out ones.
"""

from __future__ import annotations

import numpy as np

from actors.sources.documents import Indices


class Split:
    """The blocks of a source on both sides; at least one on each."""

    def __init__(self, total: int, heldout_frac: float, seed: int) -> None:
        assert total >= 2
        self._stride = max(2, round(1 / heldout_frac))
        if total < self._stride:
            self._stride = max(2, total)
        self._offset = seed % self._stride
        self._total = total
        self.num_training = total - int(self.num_heldout_before(np.array(total)))

    def num_heldout_before(self, blocks: Indices) -> Indices:
        """Held-out blocks before each of these, all counted."""
        return np.maximum(0, -(-(blocks - self._offset) // self._stride))

    def training(self, indices: Indices) -> Indices:
        """Training blocks by their number among all blocks."""
        rounds, rest = np.divmod(indices, self._stride - 1)
        return rounds * self._stride + rest + (rest >= self._offset)

    def heldout(self) -> Indices:
        """Every held-out block by its number among all blocks."""
        return np.arange(self._offset, self._total, self._stride)

    def is_heldout(self, blocks: Indices) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """Which of these are held out."""
        return blocks % self._stride == self._offset
