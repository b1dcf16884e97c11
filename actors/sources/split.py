"""Which blocks are held out: one in every so many, starting at a block that the seed chooses.

Blocks have three numberings: among all blocks, among the training blocks, among the held-out ones.
"""

from __future__ import annotations

import numpy as np

from actors.sources.documents import Indices


class Split:
    """Training and held-out blocks of a source, at least one of each.

    Args:
        total: blocks in all, two or more.
        heldout_frac: share to hold out.
        seed: chooses the first held-out block.
    """

    def __init__(self, total: int, heldout_frac: float, seed: int) -> None:
        assert total >= 2
        self._stride = max(2, round(1 / heldout_frac))
        if total < self._stride:
            self._stride = max(2, total)
        self._offset = seed % self._stride
        self._total = total
        self.num_training = total - int(self.num_heldout_before(np.array(total)))

    def num_heldout_before(self, blocks: Indices) -> Indices:
        """For each block, by its number among all, how many before it are held out."""
        return np.maximum(0, -(-(blocks - self._offset) // self._stride))

    def training(self, indices: Indices) -> Indices:
        """Numbers among all blocks of these training blocks."""
        rounds, rest = np.divmod(indices, self._stride - 1)
        return rounds * self._stride + rest + (rest >= self._offset)

    def heldout(self) -> Indices:
        """Numbers among all blocks of every held-out block."""
        return np.arange(self._offset, self._total, self._stride)

    def is_heldout(self, blocks: Indices) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """For each block, by its number among all, whether it is held out."""
        return blocks % self._stride == self._offset
