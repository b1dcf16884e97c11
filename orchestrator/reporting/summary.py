"""`summary.json`: a run's results, in the figures that people compare. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from actors.formats import figure
from actors.settings.layers import PORT
from actors.settings.run import DATA, MEMORY
from orchestrator.loop.coordinator import Coordinator, TrainedPair
from orchestrator.loop.schedule import NO, UNCHANGED, Plan
from orchestrator.run_dir.metrics import Metrics, Row, group_totals, pooled_reflection
from orchestrator.run_dir.run_status import RunStatus
from orchestrator.settings.config import Config

FIGURES = (
    "own_loss",
    "help_loss",
    "help_gain",
    "recall_kl",
    "recall_agreement",
    "self_loss",
    "mixing",
    "slots_used_frac",
    "slots_top1pct_share",
    "written_likely_frac",
    "written_nats",
    "written_nats_limit",
    "written_tokens",
)
SOMETIMES = (  # where they are measured
    "general_own_loss",
    "general_help_loss",
    "general_mixing",
    "ngram_collisions_frac",
)


def summarise(
    config: Config,
    metrics: Metrics,
    coordinator: Coordinator,
    outcome: TrainedPair,
    digests: dict[str, str],
    wall_s: float,
) -> dict[str, Any]:
    """The whole summary of a run that finished."""
    changed, _ = metrics.reflection()
    measured = outcome.final_evaluation.figures
    shown = [*FIGURES, *(name for name in SOMETIMES if name in measured)]
    figures = {name: _finite(measured.get(name)) for name in shown}
    plan = Plan(config.intervals, config.exchange.catchup_intervals)
    summary: dict[str, Any] = {
        "status": (RunStatus.FINISHED if outcome.catch_up.caught_up else RunStatus.UNREFLECTED),
        "name": config.name,
        "seed": config.seed,
        "wall_s": wall_s,
        "first_step_s": min((row["first_step_s"] for row in metrics.intervals), default=None),
        DATA: group_totals(metrics.of_group(DATA)),
        MEMORY: group_totals(metrics.of_group(MEMORY)),
        "eval_s": sum(row["eval_s"] for row in metrics.evaluations),
        "exchange": {
            "published": coordinator.ring.num_published,
            "bytes": coordinator.ring.num_bytes,
            "max_lag": coordinator.max_lag,
        },
        "reflects_final": outcome.catch_up.reflects_final,
        "reflects_final_verdict": outcome.catch_up.verdict,
        "final_agreement": outcome.catch_up.final_agreement,
        "reflects_final_reason": outcome.catch_up.reason(plan),
        "catchup_intervals": len(outcome.catch_up.after),
        "restarts": metrics.restarts,
        "resizes": metrics.resizes,
        "heldout": {
            **figures,
            "reflection_rate": pooled_reflection(metrics),
            "reflection_probes": changed,
        },
        "digest": digests,
        "questions": [asdict(answer) for answer in outcome.final_evaluation.answers],
    }
    if config.data.layer.keeps_model:
        summary |= unchanged(figures)
    if (start := metrics.start) is not None:
        summary["before"] = before_training(config, start)
    if outcome.final_evaluation.accuracy:
        summary["accuracy"] = outcome.final_evaluation.accuracy
        summary["accuracy_seen"] = outcome.final_evaluation.accuracy_seen
        summary["num_probes"] = outcome.final_evaluation.num_probes
    return summary


def unchanged(figures: Mapping[str, float | None]) -> dict[str, Any]:
    """What replaces the verdict where the model keeps its bits: there is no later version of it
    that the memory could be behind.

    Args:
        figures: on held-out text.
    """
    losses = (figure(figures.get(name), ".3f") for name in ("own_loss", "self_loss", "help_loss"))
    own, memory, both = losses
    return {
        "status": RunStatus.FINISHED,
        "reflects_final": None,
        "reflects_final_verdict": UNCHANGED,
        "reflects_final_reason": (
            f"the model alone stays as it is (data.layer.train: {PORT}); held-out loss of the "
            f"model {own}, of the memory {memory}, of both {both}"
        ),
    }


def before_training(config: Config, row: Row) -> dict[str, Any]:
    """Figures of version 0: `heldout`, `accuracy` where there are probes, and on how much text."""
    names = [name for name in (*FIGURES, *SOMETIMES) if f"heldout.{name}" in row]
    found: dict[str, Any] = {
        "heldout": {name: _finite(row.get(f"heldout.{name}")) for name in names},
        "num_windows": config.evaluation.windows,
    }
    if row["num_probes"]:
        named = {name.removeprefix("accuracy."): value for name, value in row.items()
                 if name.startswith("accuracy.")}  # fmt: skip
        found |= {"accuracy": named, "num_probes": row["num_probes"]}
    return found


def summarise_failure(
    config: Config, metrics: Metrics, status: str, cause: str, wall_s: float
) -> dict[str, Any]:
    """What is known of a run that failed or was stopped."""
    return {
        "status": status,
        "cause": cause,
        "name": config.name,
        "seed": config.seed,
        "wall_s": wall_s,
        DATA: group_totals(metrics.of_group(DATA)),
        MEMORY: group_totals(metrics.of_group(MEMORY)),
        "reflects_final": False,
        "reflects_final_verdict": NO,
        "reflects_final_reason": cause,
        "restarts": metrics.restarts,
        "resizes": metrics.resizes,
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
