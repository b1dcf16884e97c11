"""Runs whose memory has no copy of the data layer: resumed, and the evaluator's figures of both."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.run import RunResult
from orchestrator.settings.config import Config, load_config
from tests.integration.test_in_process import SETTINGS, rows, stopped_at
from tests.integration.tiny import run_in_process


def settings(workplace: Path, name: str, *more: str) -> Config:
    chosen = [*SETTINGS, "memory.teacher=said", f"name={name}", *more]
    return load_config(str(workplace / "tiny.yaml"), chosen)


@pytest.fixture(scope="module")
def whole(workplace: Path) -> RunResult:
    return run_in_process(settings(workplace, "said-whole"))


def test_a_run_finishes_and_the_pair_is_measured_as_any_other(whole: RunResult) -> None:
    assert whole.status.startswith("finished")
    assert {"own_loss", "help_loss", "recall_kl"} <= whole.summary["heldout"].keys()
    recalled = [row for row in rows(whole) if row["group"] == "memory" and row.get("train.recall")]
    assert recalled[0]["interval"] == 2  # of the first interval nothing was said before


def test_a_resumed_run_ends_with_the_bits_of_the_whole_one(
    workplace: Path, whole: RunResult
) -> None:
    stopped_at(Path(whole.path), "said-resumed", 2)
    again = run_in_process(settings(workplace, "said-resumed"), resume=True)
    assert again.summary["digest"] == whole.summary["digest"]


def test_a_memory_that_catches_up_goes_on_with_what_it_heard_last(workplace: Path) -> None:
    often = "exchange={publish_every: 2, catchup_intervals: 2}", "checkpoints.every=2"
    result = run_in_process(settings(workplace, "said-often", *often))
    assert result.status.startswith("finished")
