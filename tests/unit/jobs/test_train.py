"""What a person reads at the end of a run."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from jobs.train import print_summary
from orchestrator.console import Console
from tests.unit.orchestrator.scripted import finish, kept_model


def printed(**changes: Any) -> str:
    text = io.StringIO()
    print_summary(finish(**changes).summary(), Console(file=text, width=200))  # type: ignore[arg-type]
    return text.getvalue()


def test_figures_and_answers_stand_beside_those_before_training() -> None:
    lines = [line.replace("│", " ").split() for line in printed().splitlines()]
    assert ["own_loss", "2.0000", "2.0000"] in lines
    assert ["before", "training", "(40)", "50.0%", "60.0%", "40.0%", "10.0%"] in lines
    assert "version 0, on 32 windows" in printed()


def test_a_run_without_an_evaluation_of_version_0_has_one_column() -> None:
    run = finish()
    del run.metrics.evaluations[0]
    text = io.StringIO()
    print_summary(run.summary(), Console(file=text, width=200))
    assert ["own_loss", "2.0000"] in [
        x.replace("│", " ").split() for x in text.getvalue().splitlines()
    ]
    assert "before" not in text.getvalue().replace("version before", "")


@pytest.mark.parametrize(("after", "verdict"), [(0.6, "yes"), (0.496, "hardly"), (0.1, "NO")])
def test_the_verdict_says_yes_hardly_or_no_with_the_level(after: float, verdict: str) -> None:
    text = printed(after=after)
    assert f"memory reflects the final data layer: {verdict} (" in text
    assert f"agreement with the final version {after:.4f}" in text


def test_of_a_model_that_stays_as_it_is_no_verdict_is_given(tmp_path: Path) -> None:
    text = printed(after=0.1, **kept_model(tmp_path))
    assert "the memory had nothing to catch up with: the model alone stays as it is" in text
    assert "reflects" not in text


def test_the_summary_of_a_run_from_before_there_were_three_verdicts_can_be_shown() -> None:
    summary = finish().summary()
    del summary["reflects_final_verdict"], summary["before"]
    text = io.StringIO()
    print_summary(summary, Console(file=text, width=200))
    assert "memory reflects the final data layer: yes (" in text.getvalue()
