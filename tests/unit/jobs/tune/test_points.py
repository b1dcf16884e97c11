from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.tune.points import PointSearcher, first_points, population
from jobs.tune.results import FAILED, FINISHED, RUNNING, STOPPED, TrialResult
from jobs.tune.spec import Search
from jobs.tune.trial import FINAL, GIVEN, INTERVAL, NUMBER, POINT
from tests.unit.jobs.tune.test_spec import search

HELP, AGREEMENT = "heldout.help_loss", "heldout.recall_agreement"
SPACE = {
    "losses.own": {"uniform": [0.2, 0.9]},
    "losses.sync": {"loguniform": [0.1, 2.0]},
    "data.layer.read_layers": {"choice": [[0], [0, 1]]},
}
Figures = Callable[[dict[str, Any]], dict[str, float]]


def bowl(point: dict[str, Any]) -> dict[str, float]:
    loss = (point["losses.own"] - 0.4) ** 2 + math.log(point["losses.sync"] / 0.5) ** 2
    return {HELP: loss, AGREEMENT: point["losses.own"]}


def make(tmp_path: Path, **values: Any) -> Search:
    return search(tmp_path, **{"space": SPACE, "objectives": [f"min {HELP}"], **values})


def go(searcher: PointSearcher, count: int, stop_odd: bool = False) -> list[TrialResult]:
    """Lets trials run one after the other; each is what it came to."""
    results = []
    for _ in range(count):
        given = searcher.suggest(name := f"t{len(results)}")
        assert isinstance(given, dict), given
        number, point = given[GIVEN][NUMBER], given[GIVEN][POINT]
        figures = bowl(point)
        early = {**figures, INTERVAL: 2, FINAL: False}
        searcher.on_trial_result(name, early)
        stopped = stop_odd and number % 2 == 1
        last = early if stopped else {**figures, INTERVAL: 8, FINAL: True}
        if not stopped:
            searcher.on_trial_result(name, last)
        searcher.on_trial_complete(name, last)
        state = STOPPED if stopped else FINISHED
        history: tuple[dict[str, float], ...] = ({**figures, INTERVAL: 2},)
        if not stopped:
            history += ({**figures, INTERVAL: 8},)
        results.append(TrialResult(number, point, point, state, figures, 8, history))
    return results


@pytest.mark.parametrize("algorithm", ["tpe", "random"])
@pytest.mark.parametrize("objectives", [[f"min {HELP}"], [f"min {HELP}", f"max {AGREEMENT}"]])
def test_a_search_that_goes_on_chooses_as_it_would_have(
    tmp_path: Path, algorithm: str, objectives: list[str]
) -> None:
    found = make(tmp_path, algorithm=algorithm, objectives=objectives)
    whole = go(PointSearcher(found, []), 12, stop_odd=True)
    first = go(PointSearcher(found, []), 7, stop_odd=True)
    rest = go(PointSearcher(found, first), 5, stop_odd=True)
    assert [r.point for r in [*first, *rest]] == [r.point for r in whole]
    assert [r.number for r in rest] == [7, 8, 9, 10, 11]


def test_every_point_lies_in_the_space_and_no_two_are_alike(tmp_path: Path) -> None:
    found = make(tmp_path)
    results = go(PointSearcher(found, []), 16)
    for result in results:
        assert all(found.spec.space[name].holds(value) for name, value in result.point.items())
    assert len({repr(r.point) for r in results}) == 16


def test_tpe_comes_nearer_the_best_than_chance_does(tmp_path: Path) -> None:
    losses = {}
    for algorithm in ("tpe", "random"):
        totals = []
        for seed in range(3):
            found = make(tmp_path, algorithm=algorithm, trials=40, seed=seed)
            late = go(PointSearcher(found, []), 40)[20:]
            totals.append(sum(r.figures[HELP] for r in late) / len(late))
        losses[algorithm] = sum(totals)
    assert losses["tpe"] < 0.7 * losses["random"]


def test_what_was_begun_comes_first_and_what_failed_is_tried_again(tmp_path: Path) -> None:
    found = make(tmp_path, trials=4)
    first = go(PointSearcher(found, []), 4)
    states = (FINISHED, FAILED, RUNNING, STOPPED)
    before = [
        TrialResult(r.number, r.point, r.values, state, r.figures, 8, r.history)
        for r, state in zip(first, states, strict=True)
    ]
    searcher = PointSearcher(found, before)
    again = [searcher.suggest(f"t{i}") for i in range(3)]
    assert [one[GIVEN] for one in again[:2]] == [  # type: ignore[index]
        {NUMBER: 1, POINT: first[1].point},
        {NUMBER: 2, POINT: first[2].point},
    ]
    assert again[2] == "FINISHED"


def test_a_grid_is_tried_in_its_order_and_ends(tmp_path: Path) -> None:
    space = {"losses.own": {"grid": [0.5, 1.0]}, "data.layer.read_layers": {"grid": [[0], [1]]}}
    found = make(tmp_path, space=space, algorithm="grid", scheduler="none")
    searcher = PointSearcher(found, [])
    points = [searcher.suggest(f"t{i}")[GIVEN][POINT] for i in range(4)]  # type: ignore[index]
    assert [(p["losses.own"], p["data.layer.read_layers"]) for p in points] == [
        (0.5, [0]), (0.5, [1]), (1.0, [0]), (1.0, [1]),
    ]  # fmt: skip
    assert searcher.suggest("t4") == "FINISHED"


def test_the_first_trial_is_what_the_base_sets(tmp_path: Path) -> None:
    found = make(tmp_path, space={"losses.own": {"uniform": [0.2, 1.8]}})
    assert first_points(found) == {0: {"losses.own": 1.0}}
    suggested = PointSearcher(found, []).suggest("t0")
    assert suggested == {GIVEN: {NUMBER: 0, POINT: {"losses.own": 1.0}}}


@pytest.mark.parametrize("last", [None, {}, {HELP: float("nan"), FINAL: True}, {FINAL: True}])
def test_a_trial_without_figures_ends_nothing(tmp_path: Path, last: dict[str, Any] | None) -> None:
    searcher = PointSearcher(make(tmp_path, trials=2), [])
    searcher.suggest("t0")
    searcher.on_trial_complete("t0", last)
    assert isinstance(searcher.suggest("t1"), dict)


def test_a_population_is_drawn_the_same_way_every_time(tmp_path: Path) -> None:
    space = {"losses.own": {"uniform": [0.2, 1.8]}}
    found = make(tmp_path, space=space, algorithm="random", scheduler="pbt", trials=5,
                 set={"checkpoints.every": 1})  # fmt: skip
    members = population(found)
    assert members == population(found)
    assert members[0] == {"losses.own": 1.0}
    assert len({point["losses.own"] for point in members}) == 5
