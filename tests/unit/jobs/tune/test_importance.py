from __future__ import annotations

import math
import random

import numpy as np
import pytest

from jobs.tune.importance import explained, features, importances, rank
from jobs.tune.space import Domain

SPACE = {
    "line": Domain(loguniform=(0.01, 100.0)),
    "bow": Domain(uniform=(-1.0, 1.0)),
    "list": Domain(choice=["a", "b", "c"]),
    "idle": Domain(uniform=(0.0, 1.0)),
}


def points(count: int, seed: int = 0) -> list[dict[str, object]]:
    rng = random.Random(seed)
    return [{name: domain.draw(rng) for name, domain in SPACE.items()} for _ in range(count)]


def names_that_matter(figures: list[float], given: list[dict[str, object]]) -> set[str]:
    return {one.name for one in importances(SPACE, given, figures) if one.beats_chance}


@pytest.mark.parametrize(
    ("name", "effect"),
    [
        ("line", lambda p: math.log(p["line"])),
        ("bow", lambda p: p["bow"] ** 2),
        ("list", lambda p: {"a": 0, "b": 3, "c": 1}[p["list"]]),
    ],
)
def test_the_setting_with_an_effect_comes_first_and_beats_chance(name: str, effect: object) -> None:
    given = points(40)
    figures = [effect(p) for p in given]  # type: ignore[operator]
    found = importances(SPACE, given, figures)
    assert (found[0].name, found[0].beats_chance) == (name, True)
    assert found[0].low <= found[0].share <= found[0].high
    assert found[0].share > 0.8


def test_a_setting_without_effect_beats_chance_in_about_one_search_of_twenty() -> None:
    lucky = 0
    for seed in range(40):
        rng = random.Random(1000 + seed)
        given = points(16, seed)
        lucky += "idle" in names_that_matter([rng.random() for _ in given], given)
    assert lucky <= 6


def test_too_few_trials_say_nothing() -> None:
    assert importances(SPACE, points(4), [1.0, 2.0, 3.0, 4.0]) == []


def test_explained_variance_is_that_of_numpys_polynomial_fit() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, 30)
    y = 2 * x + x**2 + rng.normal(size=30)
    fit = np.polynomial.Polynomial.fit(x, y, 2)(x)
    expected = 1 - ((y - fit) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    columns = features(SPACE["bow"], [float(v) for v in x])
    assert explained(columns, y) == pytest.approx(expected)


def test_a_figure_that_never_changes_has_nothing_to_explain() -> None:
    assert all(one.share == 0 for one in importances(SPACE, points(8), [1.0] * 8))


def test_equal_values_share_a_rank() -> None:
    assert rank(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [2.5, 0.0, 2.5, 1.0]
