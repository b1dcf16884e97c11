from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from jobs.tune import trial
from jobs.tune.search import FINAL, INTERVAL
from jobs.tune.trial import Reporter, means
from tests.unit.jobs.tune.test_search import search

REFLECTION = "heldout.reflection_rate"


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
    reporter = Reporter(found, found.trial_config({"number": 7, "point": {"losses.own": 0.3}}))
    for one in (row(0, 0, 0), row(2, 0, 0), row(4, 10, 2), row(6, 30, 8), row(8, 9, 9, final=True)):
        reporter(one)
    assert [r.get(REFLECTION) for r in reports] == [None, 0.2, 0.25]
    assert reports[-1] == {"heldout.help_loss": 1.0, REFLECTION: 0.25, INTERVAL: 6, FINAL: False}
