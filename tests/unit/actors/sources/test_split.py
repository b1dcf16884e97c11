"""The split: numbers of training and held-out blocks are those of one list, cut in two."""

from __future__ import annotations

import numpy as np
import pytest

from actors.sources.split import Split

CASES = [(total, frac, seed) for total in (2, 3, 7, 40, 41, 1000) for frac in (0.4, 0.05, 0.01)
         for seed in (0, 1, 19, 12345)]  # fmt: skip


@pytest.mark.parametrize(("total", "frac", "seed"), CASES)
def test_both_sides_together_are_every_block_once(total: int, frac: float, seed: int) -> None:
    split = Split(total, frac, seed)
    training, heldout = split.training(np.arange(split.num_training)), split.heldout()
    assert sorted([*training.tolist(), *heldout.tolist()]) == list(range(total))
    assert min(len(training), len(heldout)) >= 1


@pytest.mark.parametrize(("total", "frac", "seed"), CASES)
def test_held_out_blocks_are_counted_as_they_come(total: int, frac: float, seed: int) -> None:
    split = Split(total, frac, seed)
    blocks = np.arange(total + 1)
    held = split.is_heldout(np.arange(total))
    assert np.flatnonzero(held).tolist() == split.heldout().tolist()
    assert split.num_heldout_before(blocks).tolist() == [int(held[:b].sum()) for b in blocks]


def test_another_seed_holds_out_other_blocks() -> None:
    assert not set(Split(100, 0.1, 0).heldout()) & set(Split(100, 0.1, 1).heldout())
