"""`report.html`: one self-contained page about a run, for a person.

The contents of its cards and tables are made here, its layout is `templates/run.html`, its plots
come from `plots`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from actors.formats import figure
from actors.settings.run import GROUPS
from orchestrator.loop.schedule import UNCHANGED
from orchestrator.reporting.html import render
from orchestrator.reporting.plots import TOP_SHARE_ALARM, all_plots
from orchestrator.run_dir.metrics import Metrics
from orchestrator.settings.config import Config

GENERAL_ALARM = 0.1  # nats on general text that a run may cost before the report marks it

Card = tuple[str, str, bool]  # value, label, whether it is bad


def render_report(config: Config, summary: dict[str, Any], metrics: Metrics) -> str:
    """The page as HTML; needs nothing but a browser."""
    return render(
        "run.html",
        title=f"Tandem: {config.name}",
        heading=config.name,
        sub=_subtitle(summary),
        cards=_cards(summary),
        top_share=summary["heldout"]["slots_top1pct_share"],
        alarm_above=TOP_SHARE_ALARM,
        plots=all_plots(metrics),
        figure_heads=_figure_heads(summary),
        figures=_figure_rows(summary),
        groups=_group_rows(summary),
        restarts=[_restart_row(row) for row in summary["restarts"]],
        resizes=[_resize_row(row) for row in summary["resizes"]],
        answers=metrics.evaluations[-1]["answers"] if metrics.evaluations else [],
        config=config.to_yaml(),
    )


def _subtitle(summary: dict[str, Any]) -> str:
    return (
        f"{summary['status'].replace('_', ' ')} in {summary['wall_s']:.0f} s, seed "
        f"{summary['seed']}; "
        f"{summary['reflects_final_reason']}"
    )


def _cards(summary: dict[str, Any]) -> Iterable[Card]:
    heldout = summary["heldout"]
    accuracy = summary.get("accuracy", {})
    for name in ("own", "help", "memory"):
        if name in accuracy:
            label = f"answers right: {name} (baseline {accuracy['baseline']:.1%})"
            yield f"{accuracy[name]:.1%}", label, False
    gain, agreement = heldout["help_gain"], heldout["recall_agreement"]
    yield figure(gain, "+.3f"), "help gain, nats per token", False
    yield figure(agreement, ".1%"), "memory agrees with data layer", False
    if "general_own_loss" in heldout:
        yield from _general_cards(heldout, summary.get("before", {}).get("heldout", {}))
    rate = heldout["reflection_rate"]
    changed = f"reflection ({heldout['reflection_probes']} changed)"
    yield figure(rate, ".1%"), changed, False
    level = summary["final_agreement"]
    verdict, label = summary["reflects_final_verdict"], "memory reflects the final version"
    if verdict == UNCHANGED:
        yield verdict, "the model alone", False
        return
    label += "" if level is None else f" (agreement {level:.1%})"
    yield verdict, label, not summary["reflects_final"]


def _general_cards(after: dict[str, Any], before: dict[str, Any]) -> Iterable[Card]:
    """The losses on general text, with what the run cost the model there."""
    base = before.get("general_own_loss")
    for name, voice in (
        ("general_own_loss", "data layer alone"),
        ("general_help_loss", "with memory"),
    ):
        label = f"general text, {voice}, nats per token"
        if base is None or after[name] is None:
            yield figure(after[name], ".3f"), label, False
        else:
            cost = after[name] - base
            yield (
                figure(after[name], ".3f"),
                f"{label}; {cost:+.3f} by the run",
                cost > GENERAL_ALARM,
            )


MEANING = {
    "own_loss": "data layer alone, nats per token; lower is better",
    "help_loss": "data layer with memory",
    "help_gain": "own_loss − help_loss on the same tokens",
    "recall_kl": "KL from data layer to memory; 0 would be perfect recall",
    "recall_agreement": (
        "share of tokens for which memory and data layer find the same one likeliest"
    ),
    "self_loss": "memory alone",
    "mixing": "mean λ: how much of the mixture is the memory's",
    "general_own_loss": "data layer alone on general text that the run is not about",
    "general_help_loss": "data layer with memory there",
    "general_mixing": "mean λ there; near 0 where the memory knows nothing",
    "slots_used_frac": "share of slots that the held-out text reads",
    "slots_top1pct_share": "share of the reads that go to the most read 1 % of the slots",
    "ngram_collisions_frac": (
        "of the held-out text's n-grams, the share that another one shares a slot with; with "
        "memory.layer.addresses ngrams"
    ),
    "written_likely_frac": (
        "share of the documents that the memory writes by itself that the data layer holds as "
        "likely as 95 % of the held-out documents; teaching rehearses what the memory writes"
    ),
    "written_nats": "data layer's loss on what the memory writes, nats per token",
    "written_nats_limit": "up to which 95 % of the held-out documents stay: likely",
    "written_tokens": "length of the mean written document, at most 64 tokens",
    "reflection_rate": (
        "of the probes whose answer changed, the share that the memory answers the new way"
    ),
    "reflection_probes": (
        "probes whose answer changed, all evaluations together; below 200 read the rate with care"
    ),
}


def _figure_heads(summary: dict[str, Any]) -> Sequence[str]:
    if (before := summary.get("before")) is None:
        return "figure", "value", "what it says"
    on = f"{before['num_windows']} windows"
    if "num_probes" in before:
        on += f", {before['num_probes']} questions"
    return "figure", f"before training ({on})", "after", "what it says"


def _figure_rows(summary: dict[str, Any]) -> Iterable[Sequence[str]]:
    before = summary.get("before")

    def values(section: str, name: str, value: Any) -> Sequence[str]:
        earlier = [] if before is None else [figure(before.get(section, {}).get(name))]
        return *earlier, figure(value)

    for name, value in summary["heldout"].items():
        yield name, *values("heldout", name, value), MEANING.get(name, "")
    for section, what in (
        ("accuracy", "wordings never seen"),
        ("accuracy_seen", "wordings trained on"),
    ):
        for name, value in summary.get(section, {}).items():
            said = f"whole answers right, greedily, {what}"
            yield f"{section}.{name}", *values(section, name, value), said


def _group_rows(summary: dict[str, Any]) -> Iterable[Sequence[str]]:
    for key, label in (
        ("steps", "optimizer steps"),
        ("tokens", "tokens"),
        ("tokens_per_s", "tokens per second"),
        ("stall_frac", "share of wall time neither in steps nor in evaluation"),
        ("wait_frac", "share of wall time waiting for the other group"),
        ("rows_written_per_interval", "rows of the value table written per interval"),
    ):
        yield label, *(figure(summary[group].get(key)) for group in GROUPS)


def _restart_row(row: dict[str, Any]) -> Sequence[str]:
    return (
        f"{row['at_s']:.0f} s", row["group"], str(row["rank"]), str(row["interval"]), row["cause"],
        figure(row.get("restart_s")), str(row["replayed"]), figure(row.get("replay_s")),
    )  # fmt: skip


def _resize_row(row: dict[str, Any]) -> Sequence[str]:
    return (
        f"{row['at_s']:.0f} s", row["group"], str(row["interval"]), str(row["before"]),
        str(row["after"]), figure(row["prepare_s"]), figure(row["pause_s"]),
    )  # fmt: skip
