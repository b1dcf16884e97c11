"""Which rows take up something new: against counting by hand."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from actors.layers.sparse_write import Background, choose_rows, descend, tf_idf

NUM_ROWS = 12


@pytest.fixture
def background() -> Background:
    """Row 0 is read in each of three batches, row 1 in two, row 2 in one, many times."""
    reads = [[0, 1, 0], [0, 1, 1], [0, 2, 2, 2, 2]]
    return Background.of((torch.tensor(batch) for batch in reads), NUM_ROWS)


def test_a_background_counts_batches_and_not_reads(background: Background) -> None:
    assert background.batches_R[:4].tolist() == [3, 2, 1, 0]
    assert background.num_batches == 3


def test_tf_idf_is_what_counting_by_hand_gives(background: Background) -> None:
    slots = torch.tensor([[[0, 0], [1, 3]], [[2, 2], [2, 0]]])
    counts, read_in = Counter(slots.flatten().tolist()), {0: 3, 1: 2, 2: 1}
    expected = [
        counts[row] / slots.numel() * math.log(4 / (read_in.get(row, 0) + 1))
        for row in range(NUM_ROWS)
    ]
    assert tf_idf(slots, background).tolist() == pytest.approx(expected)


def test_rows_that_old_data_seldom_reads_are_chosen_before_those_that_it_reads_everywhere(
    background: Background,
) -> None:
    slots = torch.tensor([0] * 20 + [1] * 5 + [2] * 5 + [3])
    assert choose_rows(slots, background, 2).tolist() == [1, 2]


def test_what_the_batch_reads_more_often_is_chosen_among_equally_rare_rows(
    background: Background,
) -> None:
    assert choose_rows(torch.tensor([5, 6, 6, 7, 7, 7]), background, 2).tolist() == [6, 7]


def test_of_equal_rows_the_first_are_chosen(background: Background) -> None:
    slots = torch.tensor([9, 4, 8, 5, 7])
    assert choose_rows(slots, background, 3).tolist() == [4, 5, 7]


@pytest.mark.parametrize("rows", [None, 0, 3, 400])
def test_no_limit_and_one_above_what_was_read_choose_every_row_that_was_read(
    background: Background, rows: int | None
) -> None:
    assert choose_rows(torch.tensor([7, 0, 7, 3]), background, rows).tolist() == [0, 3, 7]


def test_a_negative_number_of_rows_is_refused(background: Background) -> None:
    with pytest.raises(ValueError, match="got -1"):
        choose_rows(torch.tensor([1]), background, -1)


def test_a_step_moves_the_chosen_rows_against_their_gradient_and_no_other_bit() -> None:
    table = torch.randn(NUM_ROWS, 4)
    at, values = torch.tensor([[3, 5, 3, 9]]), torch.randn(4, 4)
    gradient = torch.sparse_coo_tensor(at, values, (NUM_ROWS, 4), check_invariants=True)
    expected = table.clone()
    expected[3] -= 0.5 * (values[0] + values[2])
    expected[9] -= 0.5 * values[3]
    descend(table, gradient, torch.tensor([3, 9, 11]), lr=0.5)
    assert torch.allclose(table, expected)
    still = [row for row in range(NUM_ROWS) if row not in (3, 9)]
    assert torch.equal(table[still], expected[still])
