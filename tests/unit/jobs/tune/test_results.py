from __future__ import annotations

import io
import itertools
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from actors.wire import ConfigError
from jobs.tune.results import (
    FAILED,
    FINISHED,
    STOPPED,
    Exploit,
    TrialResult,
    TrialResults,
    latest_common,
    pareto_front,
    table_rows,
)
from jobs.tune.space import Objective
from orchestrator.run_dir.parquet import to_parquet
from orchestrator.run_dir.run_dir import RunDir

GOALS = [Objective("a", "min"), Objective("b", "max")]


def trial(number: int, status: str = FINISHED, **figures: float) -> TrialResult:
    return TrialResult(number, {"x": 1.0}, {"x": 1.0}, status, figures)


def test_the_front_is_what_brute_force_finds() -> None:
    rng = random.Random(0)
    for num_goals, num_trials in itertools.product((1, 2, 3), (1, 7, 40)):
        goals = [Objective(f"f{i}", rng.choice(("min", "max"))) for i in range(num_goals)]
        trials = [
            trial(n, **{g.figure: rng.randint(0, 6) for g in goals}) for n in range(num_trials)
        ]

        def beaten(
            one: TrialResult, goals: list[Objective] = goals, trials: list[TrialResult] = trials
        ) -> bool:
            for other in trials:
                no_worse, better = True, False
                for goal in goals:
                    x, y = other.figures[goal.figure], one.figures[goal.figure]
                    if goal.goal == "max":
                        x, y = -x, -y
                    no_worse &= x <= y
                    better |= x < y
                if no_worse and better:
                    return True
            return False

        expected = {t.number for t in trials if not beaten(t)}
        assert {t.number for t in pareto_front(trials, goals)} == expected


def test_the_front_begins_with_the_best_by_the_first_objective() -> None:
    front = pareto_front([trial(0, a=2, b=9), trial(1, a=1, b=1), trial(2, a=3, b=2)], GOALS)
    assert [t.number for t in front] == [1, 0]


def test_only_trials_that_came_to_their_end_with_all_figures_are_on_the_front() -> None:
    others = [trial(1, STOPPED, a=0, b=9), trial(2, FAILED, a=0, b=9), trial(3, a=0)]
    front = pareto_front([trial(0, a=2, b=2), *others, trial(4, a=0, b=float("nan"))], GOALS)
    assert [t.number for t in front] == [0]


def test_a_result_comes_back_as_it_was_written(tmp_path: Path) -> None:
    where = RunDir(str(tmp_path))
    result = TrialResult(
        3,
        {"x": 1.0},
        {"x": 1.0, "y": [1, 2]},
        STOPPED,
        {"a": 0.5},
        4,
        ({"a": 0.7, "interval": 2}, {"a": 0.5, "interval": 4}),
        (Exploit(2, 1, {"x": 1.0}),),
        12.5,
        1,
        "oh",
    )
    TrialResults(where).keep(result)
    assert TrialResults.read(where, 9).all == [result]
    assert result.at(2) == {"a": 0.7, "interval": 2}
    assert result.at(3) is None


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    where = RunDir(str(tmp_path))
    where.write("trials/001.json", "{")
    with pytest.raises(ConfigError, match=r"trials/001.json: not a trial's result: .*; remove it"):
        TrialResults.read(where, 2)


def test_a_row_holds_lists_as_text() -> None:
    row = TrialResult(0, {}, {"x": [1, 2], "y": 0.5, "z": None}).row()
    assert (row["config.x"], row["config.y"], row["config.z"]) == ("[1, 2]", 0.5, "null")


def test_a_column_of_mixed_values_becomes_text() -> None:
    mixed = [TrialResult(n, {}, {"x": x, "y": y}) for n, (x, y) in enumerate([(1, 1), ("a", 0.5)])]
    rows = table_rows(mixed)
    assert [row["config.x"] for row in rows] == ["1", "a"]
    assert [row["config.y"] for row in rows] == [1, 0.5]
    assert pq.read_table(io.BytesIO(to_parquet(rows))).num_rows == 2


def test_trials_compare_at_the_latest_interval_that_two_thirds_reached() -> None:
    curves = {0: (2, 4, 6), 1: (2, 4), 2: (2, 4), 3: (2,)}
    trials = [
        TrialResult(n, {}, {}, history=tuple({"interval": i} for i in curve))
        for n, curve in curves.items()
    ]
    interval, there = latest_common(trials)
    assert (interval, [t.number for t in there]) == (4, [0, 1, 2])
    assert latest_common([]) == (0, [])
