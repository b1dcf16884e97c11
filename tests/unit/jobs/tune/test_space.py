from __future__ import annotations

import random
from typing import Any

import pytest

from jobs.tune.space import Constraint, Domain, extremes, grid_points

DOMAINS: dict[str, Domain] = {
    "uniform": Domain(uniform=(0.5, 2.0)),
    "loguniform": Domain(loguniform=(0.01, 1.0)),
    "randint": Domain(randint=(2, 6)),
    "choice": Domain(choice=["a", [1, 2], None]),
    "grid": Domain(grid=[1, 2, 4]),
}


@pytest.mark.parametrize("domain", DOMAINS.values(), ids=DOMAINS)
def test_what_is_drawn_and_perturbed_lies_in_the_domain(domain: Domain) -> None:
    rng = random.Random(0)
    value: Any = domain.draw(rng)
    for _ in range(300):
        assert domain.holds(value)
        value = domain.perturb(value, rng)


def test_a_whole_number_stays_one() -> None:
    rng = random.Random(1)
    drawn = {DOMAINS["randint"].draw(rng) for _ in range(100)}
    assert drawn == {2, 3, 4, 5}
    assert all(isinstance(DOMAINS["randint"].perturb(3, rng), int) for _ in range(50))


def test_a_perturbation_changes_a_number_by_a_fifth_or_draws_anew() -> None:
    rng = random.Random(2)
    moves = [DOMAINS["uniform"].perturb(1.0, rng) for _ in range(400)]
    near = sum(move in (0.8, 1.2) for move in moves)
    assert 0.65 < near / len(moves) < 0.85


def test_a_logarithmic_draw_is_even_over_the_magnitudes() -> None:
    rng = random.Random(3)
    drawn = [DOMAINS["loguniform"].draw(rng) for _ in range(2000)]
    below = sum(value < 0.1 for value in drawn) / len(drawn)
    assert below == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize(
    ("kind", "value", "inside"),
    [
        ("uniform", 2.0, True),
        ("uniform", 2.1, False),
        ("uniform", True, False),
        ("uniform", "x", False),
        ("randint", 5, True),
        ("randint", 6, False),
        ("randint", 2.5, False),
        ("choice", [1, 2], True),
        ("choice", "b", False),
    ],
)
def test_a_domain_knows_its_values(kind: str, value: Any, inside: bool) -> None:
    assert DOMAINS[kind].holds(value) is inside


def test_a_grid_has_every_combination_once() -> None:
    space = {"a": Domain(grid=[1, 2]), "b": Domain(grid=["x", "y", "z"])}
    points = grid_points(space)
    assert len(points) == 6
    assert {(p["a"], p["b"]) for p in points} == {(a, b) for a in (1, 2) for b in "xyz"}


def test_the_corners_of_a_sum_are_all_among_the_extremes() -> None:
    space = {"a": Domain(uniform=(0, 1)), "b": Domain(uniform=(0, 2))}
    corners = [p for name, p in extremes(space, [Constraint(("a", "b", "c"), 3.0, "c")])
               if name == "c"]  # fmt: skip
    assert corners == [{"a": a, "b": b} for a in (0, 1) for b in (0, 2)]
