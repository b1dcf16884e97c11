from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from jobs.tune.algorithms import (
    PointSearcher,
    Population,
    first_points,
    population,
    sampled_point,
    scheduler_of,
)
from jobs.tune.results import FAILED, FINISHED, RUNNING, STOPPED, Exploit, TrialResult, TrialResults
from jobs.tune.search import ASSIGNMENT, FINAL, INTERVAL, Search
from orchestrator.run_dir.run_dir import RunDir
from tests.unit.jobs.tune.test_search import search

HELP, AGREEMENT = "heldout.help_loss", "heldout.recall_agreement"
SPACE = {
    "losses.own": {"uniform": [0.2, 0.9]},
    "losses.recall": {"loguniform": [0.1, 2.0]},
    "data.layer.read_layers": {"choice": [[0], [0, 1]]},
}
Figures = Callable[[dict[str, Any]], dict[str, float]]


def bowl(point: dict[str, Any]) -> dict[str, float]:
    loss = (point["losses.own"] - 0.4) ** 2 + math.log(point["losses.recall"] / 0.5) ** 2
    return {HELP: loss, AGREEMENT: point["losses.own"]}


def make(tmp_path: Path, **values: Any) -> Search:
    return search(tmp_path, **{"space": SPACE, "objectives": [f"min {HELP}"], **values})


def stored(folder: Path, results: Sequence[TrialResult] = ()) -> TrialResults:
    return TrialResults(RunDir(str(folder / "results")), results)


def go(found: Search, folder: Path, count: int, before: Sequence[TrialResult] = (),
       stop_odd: bool = False) -> list[TrialResult]:  # fmt: skip
    """Lets trials run one after the other; each is what it came to."""
    kept, results = stored(folder, before), []
    searcher = PointSearcher(found, kept)
    for _ in range(count):
        given = searcher.suggest(name := f"t{len(results)}")
        assert isinstance(given, dict), given
        number, point = given[ASSIGNMENT]["number"], given[ASSIGNMENT]["point"]
        figures = bowl(point)
        stopped = stop_odd and number % 2 == 1
        state = STOPPED if stopped else FINISHED
        history: tuple[dict[str, float], ...] = ({**figures, INTERVAL: 2},)
        if not stopped:
            history += ({**figures, INTERVAL: 8},)
        results.append(TrialResult(number, point, point, state, figures, 8, history))
        kept.keep(results[-1])
        searcher.on_trial_complete(name, {**figures, FINAL: not stopped})
    return results


@pytest.mark.parametrize("algorithm", ["tpe", "random"])
@pytest.mark.parametrize("objectives", [[f"min {HELP}"], [f"min {HELP}", f"max {AGREEMENT}"]])
def test_a_search_that_goes_on_chooses_as_it_would_have(
    tmp_path: Path, algorithm: str, objectives: list[str]
) -> None:
    found = make(tmp_path, algorithm=algorithm, objectives=objectives)
    whole = go(found, tmp_path, 12, stop_odd=True)
    first = go(found, tmp_path, 7, stop_odd=True)
    rest = go(found, tmp_path, 5, first, stop_odd=True)
    assert [r.point for r in [*first, *rest]] == [r.point for r in whole]
    assert [r.number for r in rest] == [7, 8, 9, 10, 11]


def test_every_point_lies_in_the_space_and_no_two_are_alike(tmp_path: Path) -> None:
    found = make(tmp_path)
    results = go(found, tmp_path, 16)
    for result in results:
        assert all(found.spec.space[name].holds(value) for name, value in result.point.items())
    assert len({repr(r.point) for r in results}) == 16


def test_tpe_comes_nearer_the_best_than_chance_does(tmp_path: Path) -> None:
    losses = {}
    for algorithm in ("tpe", "random"):
        totals = []
        for seed in range(3):
            found = make(tmp_path, algorithm=algorithm, trials=40, seed=seed)
            late = go(found, tmp_path, 40)[20:]
            totals.append(sum(r.figures[HELP] for r in late) / len(late))
        losses[algorithm] = sum(totals)
    assert losses["tpe"] < 0.7 * losses["random"]


def test_tpe_avoids_points_that_were_suggested_before_they_start_or_end(tmp_path: Path) -> None:
    found = make(tmp_path)
    before = go(found, tmp_path, 6)
    searcher = PointSearcher(found, stored(tmp_path, before))
    first, second = (searcher.suggest(name)[ASSIGNMENT]["point"] for name in "ab")  # type: ignore[index]
    running = TrialResult(6, first, first, RUNNING)
    assert second == sampled_point(found, 7, [*before, running])
    assert second != sampled_point(found, 7, before)


def test_what_was_begun_comes_first_and_what_failed_is_tried_again(tmp_path: Path) -> None:
    found = make(tmp_path, trials=4)
    first = go(found, tmp_path, 4)
    states = (FINISHED, FAILED, RUNNING, STOPPED)
    before = [
        TrialResult(r.number, r.point, r.values, state, r.figures, 8, r.history)
        for r, state in zip(first, states, strict=True)
    ]
    searcher = PointSearcher(found, stored(tmp_path, before))
    again = [searcher.suggest(f"t{i}") for i in range(3)]
    assert [one[ASSIGNMENT] for one in again[:2]] == [  # type: ignore[index]
        {"number": 1, "point": first[1].point},
        {"number": 2, "point": first[2].point},
    ]
    assert again[2] == "FINISHED"


def test_a_grid_is_tried_in_its_order_and_ends(tmp_path: Path) -> None:
    space = {"losses.own": {"grid": [0.5, 1.0]}, "data.layer.read_layers": {"grid": [[0], [1]]}}
    found = make(tmp_path, space=space, algorithm="grid", scheduler="none")
    searcher = PointSearcher(found, stored(tmp_path))
    points = [searcher.suggest(f"t{i}")[ASSIGNMENT]["point"] for i in range(4)]  # type: ignore[index]
    assert [(p["losses.own"], p["data.layer.read_layers"]) for p in points] == [
        (0.5, [0]), (0.5, [1]), (1.0, [0]), (1.0, [1]),
    ]  # fmt: skip
    assert searcher.suggest("t4") == "FINISHED"


def test_the_first_trial_is_what_the_base_sets(tmp_path: Path) -> None:
    found = make(tmp_path, space={"losses.own": {"uniform": [0.2, 1.8]}})
    assert first_points(found) == {0: {"losses.own": 1.0}}
    suggested = PointSearcher(found, stored(tmp_path)).suggest("t0")
    assert suggested == {ASSIGNMENT: {"number": 0, "point": {"losses.own": 1.0}}}


@pytest.mark.parametrize("figures", [{}, {HELP: float("nan")}, {AGREEMENT: 1.0}])
@pytest.mark.parametrize("status", [FINISHED, STOPPED, FAILED, RUNNING])
def test_a_trial_without_figures_ends_nothing(
    tmp_path: Path, figures: dict[str, float], status: str
) -> None:
    found = make(tmp_path, trials=2)
    (first,) = go(found, tmp_path, 1)
    without = TrialResult(0, first.point, first.point, status, figures)
    assert sampled_point(found, 1, [without]) == sampled_point(found, 1, [])


def test_a_population_is_drawn_the_same_way_every_time(tmp_path: Path) -> None:
    space = {"losses.own": {"uniform": [0.2, 1.8]}}
    found = make(tmp_path, space=space, algorithm="random", scheduler="pbt", trials=5,
                 set={"checkpoints.every": 1})  # fmt: skip
    members = population(found, stored(tmp_path))
    assert members == population(found, stored(tmp_path))
    assert members[0] == {"number": 0, "point": {"losses.own": 1.0}}
    assert len({member["point"]["losses.own"] for member in members}) == 5


def test_members_that_are_over_are_left_out_and_replaced_ones_keep_their_donor(
    tmp_path: Path,
) -> None:
    found, _ = pbt(tmp_path)
    own, moved = {"losses.own": 0.3}, (Exploit(2, 3, {"losses.own": 0.3}),)
    over = TrialResult(0, own, own, FINISHED)
    begun = TrialResult(1, own, own, RUNNING, moves=moved)
    members = population(found, stored(tmp_path, [over, begun]))
    assert [member["number"] for member in members] == [1, 2, 3]
    assert members[0] == {"number": 1, "point": own, "generation": 1, "donor": 3}


GOAL = {"objectives": [f"min {HELP}"], "grace_intervals": 2}


def decide(scheduler: TrialScheduler, name: str, loss: float) -> str:
    trial = SimpleNamespace(trial_id=name)
    scheduler.on_trial_add(None, trial)
    return str(scheduler.on_trial_result(None, trial, {HELP: loss, INTERVAL: 2, FINAL: False}))


def before(loss: float) -> TrialResult:
    return TrialResult(0, {}, {}, FINISHED, history=({HELP: loss, INTERVAL: 2},))


def test_asha_judges_by_what_an_earlier_start_of_the_search_measured(tmp_path: Path) -> None:
    found = search(tmp_path, **GOAL)
    assert decide(scheduler_of(found, stored(tmp_path)), "first", 9.0) == "CONTINUE"
    assert decide(scheduler_of(found, stored(tmp_path, [before(1.0)])), "worse", 9.0) == "STOP"
    assert decide(scheduler_of(found, stored(tmp_path, [before(1.0)])), "better", 0.5) == "CONTINUE"


def test_asha_follows_the_direction_of_the_objective(tmp_path: Path) -> None:
    found = search(tmp_path, **{**GOAL, "objectives": [f"max {HELP}"]})
    assert decide(scheduler_of(found, stored(tmp_path, [before(1.0)])), "better", 9.0) == "CONTINUE"
    assert decide(scheduler_of(found, stored(tmp_path, [before(1.0)])), "worse", 0.5) == "STOP"


def test_without_a_scheduler_nothing_is_stopped(tmp_path: Path) -> None:
    scheduler = scheduler_of(
        search(tmp_path, **GOAL, scheduler="none"), stored(tmp_path, [before(1.0)])
    )
    assert decide(scheduler, "worse", 9.0) == "CONTINUE"


def pbt(tmp_path: Path) -> tuple[Search, Population]:
    space = {"losses.own": {"uniform": [0.2, 0.9]}, "losses.recall": {"choice": [0.5, 1.0, 2.0]}}
    found = search(tmp_path, **GOAL, space=space, scheduler="pbt", algorithm="random", trials=4,
                   set={"checkpoints.every": 1})  # fmt: skip
    return found, Population(found)


def member(number: int, generation: int = 0, own: float = 0.5) -> Any:
    point = {"losses.own": own, "losses.recall": 1.0}
    exploited = {"generation": generation, "donor": 9} if generation else {}
    return SimpleNamespace(config={ASSIGNMENT: {"number": number, "point": point, **exploited}})


def test_a_replaced_member_keeps_its_number_and_stays_inside_the_space(
    tmp_path: Path,
) -> None:
    found, scheduler = pbt(tmp_path)
    seen = set()
    for generation in range(60):
        config, _ = scheduler._get_new_config(member(2, generation), member(1, own=0.88))
        given = config[ASSIGNMENT]
        assert (given["number"], given["generation"], given["donor"]) == (2, generation + 1, 1)
        assert all(found.spec.space[n].holds(v) for n, v in given["point"].items())
        seen.add(given["point"]["losses.own"])
    assert {0.9, 0.88 * 0.8} <= seen  # a fifth more ends at the range's end


def test_an_exploit_is_a_function_of_the_seed(tmp_path: Path) -> None:
    (_, one), (_, two) = pbt(tmp_path), pbt(tmp_path)
    arguments = member(2, 1), member(1)
    assert one._get_new_config(*arguments) == two._get_new_config(*arguments)


def test_a_run_that_has_ended_is_not_replaced_any_more(tmp_path: Path) -> None:
    _, scheduler = pbt(tmp_path)
    assert scheduler.on_trial_result(None, None, {HELP: 9.0, INTERVAL: 8, FINAL: True}) == (
        "CONTINUE"
    )
