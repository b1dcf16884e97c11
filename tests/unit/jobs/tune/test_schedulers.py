from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import TrialScheduler

from jobs.tune.results import FINISHED, TrialResult
from jobs.tune.schedulers import Population, scheduler_of
from jobs.tune.spec import Search
from jobs.tune.trial import DONOR, FINAL, GENERATION, GIVEN, INTERVAL, NUMBER, POINT
from tests.unit.jobs.tune.test_spec import search

HELP = "heldout.help_loss"
GOAL = {"objectives": [f"min {HELP}"], "grace_intervals": 2}


def decide(scheduler: TrialScheduler, name: str, loss: float) -> str:
    trial = SimpleNamespace(trial_id=name)
    scheduler.on_trial_add(None, trial)
    return str(scheduler.on_trial_result(None, trial, {HELP: loss, INTERVAL: 2, FINAL: False}))


def before(loss: float) -> TrialResult:
    return TrialResult(0, {}, {}, FINISHED, history=({HELP: loss, INTERVAL: 2},))


def test_asha_judges_by_what_an_earlier_start_of_the_search_measured(tmp_path: Path) -> None:
    found = search(tmp_path, **GOAL)
    assert decide(scheduler_of(found, []), "first", 9.0) == "CONTINUE"
    assert decide(scheduler_of(found, [before(1.0)]), "worse", 9.0) == "STOP"
    assert decide(scheduler_of(found, [before(1.0)]), "better", 0.5) == "CONTINUE"


def test_asha_follows_the_direction_of_the_objective(tmp_path: Path) -> None:
    found = search(tmp_path, **{**GOAL, "objectives": [f"max {HELP}"]})
    assert decide(scheduler_of(found, [before(1.0)]), "better", 9.0) == "CONTINUE"
    assert decide(scheduler_of(found, [before(1.0)]), "worse", 0.5) == "STOP"


def test_without_a_scheduler_nothing_is_stopped(tmp_path: Path) -> None:
    scheduler = scheduler_of(search(tmp_path, **GOAL, scheduler="none"), [before(1.0)])
    assert decide(scheduler, "worse", 9.0) == "CONTINUE"


def population(tmp_path: Path) -> tuple[Search, Population]:
    space = {"losses.own": {"uniform": [0.2, 0.9]}, "losses.sync": {"choice": [0.5, 1.0, 2.0]}}
    found = search(tmp_path, **GOAL, space=space, scheduler="pbt", algorithm="random", trials=4,
                   set={"checkpoints.every": 1})  # fmt: skip
    return found, Population(found)


def member(number: int, generation: int = 0, own: float = 0.5) -> Any:
    point = {"losses.own": own, "losses.sync": 1.0}
    moved = {GENERATION: generation, DONOR: 9} if generation else {}
    return SimpleNamespace(config={GIVEN: {NUMBER: number, POINT: point, **moved}})


def test_a_member_that_is_moved_stays_itself_and_inside_the_space(tmp_path: Path) -> None:
    found, scheduler = population(tmp_path)
    seen = set()
    for generation in range(60):
        config, _ = scheduler._get_new_config(member(2, generation), member(1, own=0.88))
        given = config[GIVEN]
        assert (given[NUMBER], given[GENERATION], given[DONOR]) == (2, generation + 1, 1)
        assert all(found.spec.space[n].holds(v) for n, v in given[POINT].items())
        seen.add(given[POINT]["losses.own"])
    assert {0.9, 0.88 * 0.8} <= seen  # a fifth more ends at the range's end


def test_a_move_is_a_function_of_the_seed(tmp_path: Path) -> None:
    (_, one), (_, two) = population(tmp_path), population(tmp_path)
    arguments = member(2, 1), member(1)
    assert one._get_new_config(*arguments) == two._get_new_config(*arguments)


def test_a_run_that_has_ended_is_moved_no_more(tmp_path: Path) -> None:
    _, scheduler = population(tmp_path)
    assert scheduler.on_trial_result(None, None, {HELP: 9.0, INTERVAL: 8, FINAL: True}) == (
        "CONTINUE"
    )
