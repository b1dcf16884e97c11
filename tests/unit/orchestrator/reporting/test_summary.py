from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from orchestrator.reporting.summary import summarise_failure
from orchestrator.run_dir.metrics import Metrics
from tests.unit.orchestrator.scripted import an_evaluation, finish, kept_model

KEYS = [
    "status",
    "seed",
    *(f"{g}.{k}" for g in ("data", "memory") for k in ("steps", "tokens", "tokens_per_s")),
    "data.stall_frac",
    "memory.stall_frac",
    "eval_s",
    "exchange.published",
    "exchange.bytes",
    "exchange.max_lag",
    "reflects_final",
    *(f"heldout.{name}" for name in ("own_loss", "help_loss", "help_gain", "recall_kl")),
    *(f"heldout.{name}" for name in ("recall_agreement", "self_loss", "reflection_rate")),
    *(f"heldout.{name}" for name in ("slots_used_frac", "slots_top1pct_share")),
    *(f"accuracy.{name}" for name in ("own", "help", "memory", "baseline")),
    *(f"accuracy_seen.{name}" for name in ("own", "help", "memory", "baseline")),
    "digest.data",
    "digest.memory",
]


@pytest.mark.parametrize("key", KEYS)
def test_the_summary_has_every_key_of_the_design(key: str) -> None:
    inside = finish().summary()
    for part in key.split("."):
        assert part in inside
        inside = inside[part]
    assert inside is not None


def test_the_counts_are_those_of_the_run() -> None:
    summary = finish(seed=7).summary()
    assert summary["seed"] == 7
    assert (summary["data"]["steps"], summary["memory"]["steps"]) == (40, 60)
    assert (summary["data"]["tokens"], summary["memory"]["tokens"]) == (2000, 3000)
    assert summary["exchange"] == {"published": 7, "bytes": 700, "max_lag": 1}
    assert summary["eval_s"] == 9.0


def test_a_run_that_reflects_the_final_version_is_finished() -> None:
    summary = finish(after=0.6).summary()
    assert (summary["status"], summary["reflects_final"]) == ("finished", True)


def test_a_run_that_does_not_reflect_the_final_version_says_so_and_why() -> None:
    summary = finish(after=0.1).summary()
    assert (summary["status"], summary["reflects_final"]) == ("finished_unreflected", False)
    assert "not within 0.01" in summary["reflects_final_reason"]


def test_a_run_whose_memory_hardly_agrees_is_finished_and_not_called_reflecting() -> None:
    summary = finish(after=0.495).summary()
    assert (summary["status"], summary["reflects_final"]) == ("finished", False)
    assert (summary["reflects_final_verdict"], summary["final_agreement"]) == ("hardly", 0.495)
    assert "below 0.5" in summary["reflects_final_reason"]


@pytest.mark.parametrize("after", [0.1, 0.495, 0.6])
def test_a_model_that_stays_as_it_is_leaves_the_memory_nothing_to_catch_up_with(
    tmp_path: Path, after: float
) -> None:
    figures = an_evaluation(2, 3).figures | {"own_loss": 6.5, "self_loss": 1.25, "help_loss": 1.0}
    final = an_evaluation(2, 3, figures=figures)
    summary = finish(final, after, **kept_model(tmp_path)).summary()
    assert (summary["status"], summary["reflects_final"]) == ("finished", None)
    assert (summary["reflects_final_verdict"], summary["final_agreement"]) == ("unchanged", after)
    reason = "model 6.500, of the memory 1.250, of both 1.000"
    assert reason in summary["reflects_final_reason"]


def test_the_summary_says_what_the_layers_knew_before_training_and_on_how_much() -> None:
    before = finish(an_evaluation(2, 3, figures={"own_loss": 1.25})).summary()["before"]
    assert before["heldout"]["own_loss"] == 2.0
    assert before["accuracy"] == {"own": 0.5, "help": 0.6, "memory": 0.4, "baseline": 0.1}
    assert (before["num_windows"], before["num_probes"]) == (32, 40)


def test_a_run_of_which_version_0_was_not_evaluated_has_no_figures_from_before() -> None:
    run = finish()
    del run.metrics.evaluations[0]
    assert "before" not in run.summary()


def test_held_out_figures_are_the_final_evaluations() -> None:
    final = an_evaluation(2, 3, figures={"own_loss": 1.25})
    assert finish(final).summary()["heldout"]["own_loss"] == 1.25


def test_the_reflection_rate_is_pooled_over_all_evaluations() -> None:
    final = an_evaluation(2, 3, reflection_changed=30, reflection_followed=0)
    heldout = finish(final).summary()["heldout"]
    assert (heldout["reflection_rate"], heldout["reflection_probes"]) == (0.2, 40)


def test_a_corpus_without_probes_has_no_accuracy_sections() -> None:
    final = an_evaluation(2, 3, accuracy={}, accuracy_seen={}, num_probes=0)
    assert {"accuracy", "accuracy_seen", "num_probes"}.isdisjoint(finish(final).summary())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_figure_that_is_not_finite_is_null_in_the_json(value: float) -> None:
    final = an_evaluation(2, 3, figures={"own_loss": value})
    summary = json.loads(json.dumps(finish(final).summary(), allow_nan=False))
    assert summary["heldout"]["own_loss"] is None


def test_a_failed_runs_summary_has_status_cause_and_what_was_done() -> None:
    run = finish()
    summary = summarise_failure(run.config, run.metrics, "failed", "memory rank 0 died", 9.0)
    assert (summary["status"], summary["cause"]) == ("failed", "memory rank 0 died")
    assert (summary["data"]["steps"], summary["reflects_final"]) == (40, False)


def test_a_run_that_failed_before_its_first_interval_has_a_summary() -> None:
    summary = summarise_failure(finish().config, Metrics(0.0), "failed", "cause", 9.0)
    assert summary["memory"]["tokens"] == 0


def test_general_text_is_in_the_summary_where_it_was_measured() -> None:
    figures = an_evaluation(2, 3).figures | {"general_own_loss": 4.5, "general_help_loss": 4.75}
    assert (
        finish(an_evaluation(2, 3, figures=figures)).summary()["heldout"]["general_own_loss"] == 4.5
    )
    assert not {n for n in finish().summary()["heldout"] if n.startswith("general")}
