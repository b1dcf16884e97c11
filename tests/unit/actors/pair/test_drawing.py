"""Draws that are spread over a distribution: each alone is fair, together they miss little."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from actors.pair.drawing import Draws

CPU = torch.device("cpu")
NUM, LENGTH = 600, 12


def shares_after(first: int) -> Tensor:
    """What a layer predicts as second token after this first one, of 50."""
    return torch.rand(50, generator=torch.Generator().manual_seed(first)) ** 3


def texts(
    numbers: range, length: int = 2, seed: int = 0, **options: int | float
) -> list[tuple[int, ...]]:
    """Documents of tokens of which each follows from the one before."""
    draws = Draws.of("write", seed, numbers, length, CPU, **options)  # type: ignore[arg-type]
    rows = [[0] for _ in numbers]
    for at in range(length):
        logits = torch.stack([shares_after(row[-1]) for row in rows]).log()
        for row, token in zip(rows, draws.take(logits, at).tolist(), strict=True):
            row.append(token)
    return [tuple(row[1:]) for row in rows]


def probability(text: tuple[int, ...]) -> float:
    found, before = 1.0, 0
    for token in text:
        shares = shares_after(before)
        found, before = found * float(shares[token] / shares.sum()), token
    return found


@pytest.mark.parametrize("num", [1, 34, 89, NUM])
def test_whatever_is_likely_is_written_and_about_as_often_as_it_should_be(num: int) -> None:
    found = Counter(texts(range(num)))
    everything = [(a, b) for a in range(50) for b in range(50)]
    for text in everything:
        wanted = num * probability(text)
        assert abs(found[text] - wanted) < 2
        if wanted > 2:
            assert found[text]


def test_independent_draws_miss_more() -> None:
    generator = torch.Generator().manual_seed(1)
    places, later = torch.rand(NUM, generator=generator, dtype=torch.float64), torch.zeros(NUM, 2)
    draws = Draws(places, later)
    first = draws.take(shares_after(0).log().expand(NUM, -1), 0)
    second = draws.take(torch.stack([shares_after(int(t)) for t in first]).log(), 1)
    by_chance = set(zip(first.tolist(), second.tolist(), strict=True))
    assert len(by_chance) < 0.9 * len(set(texts(range(NUM))))


def test_a_document_follows_from_the_seed_and_its_number_alone() -> None:
    all_of_them = texts(range(20), LENGTH)
    assert texts(range(5, 9), LENGTH) == all_of_them[5:9]
    assert texts(range(20), LENGTH, seed=1) != all_of_them


def test_tokens_go_on_being_drawn_where_places_are_spread_no_finer() -> None:
    uniform = torch.zeros(2000, 16)
    draws = Draws.of("write", 3, range(2000), 30, CPU)
    for at in range(30):
        counts = Counter(draws.take(uniform, at).tolist())
        assert len(counts) == 16
        assert all(math.isclose(n / 2000, 1 / 16, abs_tol=0.03) for n in counts.values())


def test_a_later_window_does_not_follow_from_the_first() -> None:
    first, second = (
        Draws.of("write", 3, range(2000), 1, CPU, at=at).take(torch.zeros(2000, 4), 0)
        for at in (0, 1)
    )
    assert all(
        math.isclose(n / 2000, 1 / 16, abs_tol=0.02)
        for n in Counter(zip(first.tolist(), second.tolist(), strict=True)).values()
    )


def test_documents_of_one_opening_are_spread_however_many_openings_there_are() -> None:
    """34 steps of the golden ratio end almost where they began."""
    logits = torch.zeros(34 * 4, 4)
    drawn = Draws.of("write", 0, range(34 * 4), 1, CPU, num_openings=34).take(logits, 0)
    of_first = drawn.reshape(4, 34)[:, 0]
    assert len(set(of_first.tolist())) >= 3


def test_a_given_token_costs_no_digits_and_rows_that_are_left_keep_theirs() -> None:
    logits = shares_after(0).log().expand(8, -1)
    plain, some = (Draws.of("write", 0, range(8), 4, CPU) for _ in range(2))
    some.take(logits, 0, torch.ones(8, dtype=torch.bool))
    kept = torch.tensor([1, 6])
    some.select(kept)
    assert torch.equal(some.take(logits[:2], 1), plain.take(logits, 1)[kept])


def test_temperature_sharpens_and_an_impossible_token_is_never_drawn() -> None:
    logits = torch.tensor([0.5, 0.25, 0.0, 0.25]).log().expand(4000, 4)
    counts = {
        temperature: Counter(
            Draws.of("write", 0, range(4000), 1, CPU, temperature=temperature)
            .take(logits, 0)
            .tolist()
        )
        for temperature in (1.0, 0.5)
    }
    assert counts[1.0][2] == counts[0.5][2] == 0
    assert math.isclose(counts[1.0][0] / 4000, 1 / 2, abs_tol=0.001)
    assert math.isclose(counts[0.5][0] / 4000, 2 / 3, abs_tol=0.001)
    last = Draws(torch.tensor([1 - 2**-53], dtype=torch.float64), torch.zeros(1, 1))
    assert last.take(logits[:1], 0).item() == 3
