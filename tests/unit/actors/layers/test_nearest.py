"""Shares of told places, by numbers worked out here."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from actors.layers.nearest import ALIKE, NOT_BEGUN, UNLIKE, Nearest, overlap
from actors.layers.places import KeptPlaces, OfKeys, Places, first_of
from actors.measuring.subjects import Subject, aliases, patterns
from actors.operators.token_bags import TOKENS, TokenBags

DIM, IDS = 3, 4
BAGS = TokenBags(torch.ones(20))
LOGITS = 2.0 * torch.eye(DIM, IDS)


def predict(m_PD: Tensor) -> Tensor:
    return m_PD @ LOGITS


def nearest(m_ND: Tensor, fresh: bool = True) -> Nearest:
    """One key, and one kept position at a right angle to it; encodings alone are compared."""
    key, kept = torch.eye(DIM)[:2].split(1)
    one = torch.ones(1)
    after = torch.zeros(1, dtype=torch.int32)
    return Nearest(
        key, torch.full((1, DIM), 7.0), m_ND, one, one if fresh else 0 * one, after, kept
    )


def share(of: Nearest, m_D: Tensor) -> float:
    """The key's at an encoding halfway between both, with what the table gives there."""
    halfway = torch.tensor([[1.0, 1.0, 0.0]])
    read, freshness = of.read(halfway, m_D[None], None, BAGS, predict)
    found = freshness.item()
    torch.testing.assert_close(read[0], m_D + found * (7.0 - m_D))
    return found


def test_a_place_counts_as_near_as_it_is_where_the_memory_says_the_same() -> None:
    m_D = torch.tensor([1.5, 0.0, 0.0])
    assert share(nearest(m_D[None]), m_D) == pytest.approx(0.5, abs=1e-5)
    assert share(nearest(torch.zeros(1, 0)), m_D) == pytest.approx(0.5, abs=1e-5)  # not compared


def test_what_the_data_layer_was_taught_is_read_and_is_not_fresh() -> None:
    u, m_D = torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([1.5, 0.0, 0.0])
    read, freshness = nearest(m_D[None], fresh=False).read(u, m_D[None], None, BAGS, predict)
    torch.testing.assert_close(read, nearest(m_D[None]).read(u, m_D[None], None, BAGS, predict)[0])
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


def context(*tokens: int) -> Tensor:
    """Last tokens, as positions have them."""
    return F.pad(torch.tensor([tokens], dtype=torch.int32) + 1, (0, TOKENS - len(tokens)))


def told_about(subject: Subject | None) -> Nearest:
    """One write: "1 2 3 4" is to be followed by something, and is about 3, or 7 where it begins."""
    said_NC, prompts_N = context(1, 2, 3, 4), torch.zeros(1, dtype=torch.int64)
    u_ND = torch.eye(DIM)[:1]
    belong = [
        OfKeys.none(TOKENS) if subject is None else make(BAGS, said_NC, prompts_N, {0: subject})
        for make in (patterns, aliases)
    ]
    nothing = KeptPlaces(
        BAGS, u_ND[:0], said_NC[:0], BAGS(said_NC[:0]), prompts_N[:0], prompts_N[:0]
    )
    places = Places.of(
        u_ND, said_NC, torch.zeros(1, 0), prompts_N, torch.tensor([-1]), nothing, *belong
    )
    return look_for(places, first=True)


def look_for(places: Places, first: bool) -> Nearest:
    """One key, of an answer's first token or of a later one."""
    one = (places, torch.full((1, DIM), 7.0), *[torch.ones(1)] * 2, torch.tensor([first]))
    nobody = torch.zeros(0, dtype=torch.int64)
    return Nearest.of([one], [torch.ones(1, dtype=torch.bool)], nobody, BAGS)


def freshness(of: Nearest, *tokens: int) -> float:
    """Of a position with these last tokens, newest first, whose encoding says little."""
    u_PD, said_PC = torch.tensor([[1.0, 1.0, 0.0]]), context(*tokens)
    return of.read(u_PD, torch.zeros(1, DIM), said_PC, BAGS, predict)[1].item()


def test_what_is_told_of_one_is_not_said_of_another_that_is_asked_about_in_the_same_words() -> None:
    about = told_about(Subject((frozenset([3, 7]),), (frozenset([3]), frozenset([7]))))
    assert freshness(about, 1, 2, 3, 4) > 0.99
    assert freshness(about, 3, 4, 5) > 0.9  # otherwise worded
    assert freshness(about, 7, 4, 5) > 0.9  # and where it begins
    assert freshness(about, 1, 2, 8, 4) < 0.1
    unknown = told_about(None)
    assert freshness(unknown, 1, 2, 8, 4) > 0.99  # there is nothing else that it might be
    assert freshness(unknown, 7, 4, 5) == 0


def test_a_later_token_of_an_answer_counts_little_where_the_one_before_it_was_not_said() -> None:
    said_NC, prompts_N = context(1, 2, 3, 4), torch.zeros(1, dtype=torch.int64)
    near = context(1, 2, 3, 4, 9)  # kept text
    old = KeptPlaces(BAGS, torch.eye(DIM)[1:2], near, BAGS(near), prompts_N - 1, prompts_N)
    none = OfKeys.none(TOKENS)
    places = Places.of(
        torch.eye(DIM)[:1], said_NC, torch.zeros(1, 0), prompts_N, prompts_N - 1, old, none, none
    )
    begun, other = (1, 3, 2, 4), (4, 2, 3, 1)  # newest first
    likely = freshness(look_for(places, first=True), *other)
    assert likely > 0.9
    later = look_for(places, first=False)
    assert freshness(later, *begun) == pytest.approx(likely, rel=1e-4)
    odds = [f / (1 - f) for f in (freshness(later, *begun), freshness(later, *other))]
    assert odds[0] / odds[1] == pytest.approx(math.exp(NOT_BEGUN), rel=1e-2)
    assert first_of(torch.tensor([5, 5, 3, 8, 8])).tolist() == [True, False, True, True, False]


def test_without_tokens_patterns_and_aliases_count_nothing() -> None:
    about = told_about(Subject((frozenset([3, 7]),), (frozenset([3]), frozenset([7]))))
    u_PD = torch.tensor([[1.0, 1.0, 0.0]])
    for of in (about, told_about(None)):
        read, fresh = of.read(u_PD, torch.zeros(1, DIM), None, BAGS, predict)
        torch.testing.assert_close(fresh, torch.ones(1))
        torch.testing.assert_close(read, torch.full((1, DIM), 7.0))


def test_patterns_of_a_key_that_was_told_again_are_gone() -> None:
    said_NC, prompts_N = context(1, 2, 3, 4), torch.zeros(1, dtype=torch.int64)
    some = patterns(BAGS, said_NC, prompts_N, {0: Subject((frozenset([3]),))})
    assert some.kept(torch.tensor([True]), 5).of_M.tolist() == [5]
    assert not len(some.kept(torch.tensor([False]), 5))
