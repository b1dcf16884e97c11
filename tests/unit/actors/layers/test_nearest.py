"""Shares of told places, by numbers worked out here."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from actors.layers.nearest import ALIKE, UNLIKE, Nearest, overlap

DIM, IDS = 3, 4
LOGITS = 2.0 * torch.eye(DIM, IDS)


def predict(m_PD: Tensor) -> Tensor:
    return m_PD @ LOGITS


def nearest(m_ND: Tensor, fresh: bool = True) -> Nearest:
    """One key, and one kept position at a right angle to it; encodings alone are compared."""
    key, kept = torch.eye(DIM)[:2].split(1)
    one = torch.ones(1)
    return Nearest(key, torch.full((1, DIM), 7.0), m_ND, one, one if fresh else 0 * one, kept)


def share(of: Nearest, m_D: Tensor) -> float:
    """The key's at an encoding halfway between both, with what the table gives there."""
    halfway = torch.tensor([[1.0, 1.0, 0.0]])
    read, freshness = of.read(halfway, m_D[None], None, predict)
    found = freshness.item()
    torch.testing.assert_close(read[0], m_D + found * (7.0 - m_D))
    return found


def test_a_place_counts_as_near_as_it_is_where_the_memory_says_the_same() -> None:
    m_D = torch.tensor([1.5, 0.0, 0.0])
    assert share(nearest(m_D[None]), m_D) == pytest.approx(0.5, abs=1e-5)
    assert share(nearest(torch.zeros(1, 0)), m_D) == pytest.approx(0.5, abs=1e-5)  # not compared


def test_what_the_data_layer_was_taught_is_read_and_is_not_fresh() -> None:
    u, m_D = torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([1.5, 0.0, 0.0])
    read, freshness = nearest(m_D[None], fresh=False).read(u, m_D[None], None, predict)
    torch.testing.assert_close(read, nearest(m_D[None]).read(u, m_D[None], None, predict)[0])
    assert (read[0] - m_D).norm() > 1
    assert freshness.tolist() == [0.0]


def test_a_place_counts_less_where_the_memory_expects_another_kind_of_answer() -> None:
    there, here = 3.0 * torch.eye(DIM)[:2]
    p, q = (F.softmax(predict(m), -1) for m in (there, here))
    alike = sum(math.sqrt(a * b) for a, b in zip(p.tolist(), q.tolist(), strict=True))
    assert alike < ALIKE
    torch.testing.assert_close(overlap(predict, there[None], here[None]).item(), alike)
    want = 0.5 * (alike / ALIKE) ** UNLIKE
    assert share(nearest(there[None]), here) == pytest.approx(want, rel=1e-3)


def test_predictions_are_compared_position_by_position_in_any_number() -> None:
    one_PD, other_PD = torch.randn(2, 130, DIM, generator=torch.Generator().manual_seed(0))
    found = overlap(predict, one_PD, other_PD)
    want = (predict(one_PD).softmax(-1) * predict(other_PD).softmax(-1)).sqrt().sum(-1)
    torch.testing.assert_close(found, want)
    assert overlap(predict, one_PD[:0], other_PD[:0]).shape == (0,)
