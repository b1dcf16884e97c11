from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from jobs.tune import trial
from jobs.tune.trial import (
    FINAL,
    GENERATION,
    INTERVAL,
    NUMBER,
    POINT,
    Reporter,
    means,
    trial_config,
)
from tests.unit.jobs.tune.test_spec import search

REFLECTION = "heldout.reflection_rate"


def given(**more: Any) -> dict[str, Any]:
    return {NUMBER: 7, POINT: {"losses.own": 0.3}, **more}


def test_a_trials_runs_are_named_by_number_move_and_seed(tmp_path: Path) -> None:
    found = search(tmp_path, storage=str(tmp_path), name="s", seed=5)
    config = trial_config(found, given())
    assert config.run_url == f"{tmp_path}/s/trials/007"
    assert (config.losses.own, config.seed) == (0.3, 5)
    assert trial_config(found, given(**{GENERATION: 2})).name == "007-2"
    several = search(tmp_path, seeds=3, seed=5, scheduler="none")
    runs = [trial_config(several, given(), turn) for turn in range(3)]
    assert [(run.name, run.seed) for run in runs] == [("007-s0", 5), ("007-s1", 6), ("007-s2", 7)]


def test_means_over_seeds_come_with_their_spread() -> None:
    assert means([{"a": 1.0, "b": 5.0}, {"a": 2.0}, {"a": 6.0}]) == {
        "a": 3.0,
        "spread.a": pytest.approx(math.sqrt(7.0)),
        "b": 5.0,
    }
    assert means([{"a": 1.0}]) == {"a": 1.0}


def row(version: int, changed: int, followed: int, final: bool = False) -> dict[str, Any]:
    return {
        "data_version": version,
        "final": final,
        "heldout.help_loss": 1.0,
        "reflection_changed": changed,
        "reflection_followed": followed,
    }


def test_the_reflection_rate_is_that_of_all_evaluations_so_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[dict[str, Any]] = []
    monkeypatch.setattr(trial.tune, "report", reports.append)
    found = search(tmp_path, storage=str(tmp_path))
    reporter = Reporter(found, trial_config(found, given()))
    for one in (row(0, 0, 0), row(2, 0, 0), row(4, 10, 2), row(6, 30, 8), row(8, 9, 9, final=True)):
        reporter(one)
    assert [r.get(REFLECTION) for r in reports] == [None, 0.2, 0.25]
    assert reports[-1] == {"heldout.help_loss": 1.0, REFLECTION: 0.25, INTERVAL: 6, FINAL: False}
