"""The training job: from config to run directory, and the tables printed at its end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import psutil
from rich.table import Table

from actors.formats import figure
from orchestrator.console import Console
from orchestrator.loop.schedule import NO, UNCHANGED, YES
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.run_dir.run_status import RunStatus
from orchestrator.settings.config import load_config
from orchestrator.settings.file_names import REPORT


def run_training(
    path: str,
    overrides: Sequence[str],
    console: Console,
    verbose: bool,
    resume: bool = False,
    in_process: bool = False,
    kept: bool = False,
) -> bool:
    """Trains, prints the final tables, and returns whether the memory caught up with the final data
    layer; `kept`: the config is the run's own.

    Raises:
        TandemError: as `orchestrator.run.train`.
    """
    began = min(time.time(), psutil.Process().create_time())
    config = load_config(path, overrides, kept)
    if not resume:
        RunDir(config.run_url).refuse_existing()  # before the 2 s that Ray's import takes
    from orchestrator.run import train

    result = train(
        config, console, verbose=verbose, started_at=began, resume=resume, in_process=in_process
    )
    print_summary(result.summary, console)
    console.say(f"report: {result.path}/{REPORT}")
    return bool(result.summary["status"] != RunStatus.UNREFLECTED)


def print_summary(summary: dict[str, Any], console: Console) -> None:
    """Prints held-out figures, answers, the throughput of both groups and whether the memory
    reflects the final data layer.
    """
    before = summary.get("before")
    console.print(figures_table(summary["heldout"], before))
    if "accuracy" in summary:
        console.print(
            accuracy_table(
                summary["accuracy"], summary["accuracy_seen"], summary["num_probes"], before
            )
        )
    if summary.get("questions"):
        console.print(answers_table(summary["questions"]))
    if "data" in summary:
        for group in ("data", "memory"):
            totals = summary[group]
            console.say(
                f"{group} group: {totals['steps']} steps, {totals['tokens']:,} tokens, "
                f"{totals['tokens_per_s']:,.0f} tokens/s, "
                f"waiting {totals['wait_frac']:.0%}"
            )
    # summaries of earlier versions only have yes and no
    verdict = summary.get("reflects_final_verdict") or (YES if summary["reflects_final"] else NO)
    if verdict == UNCHANGED:
        console.say(f"the memory had nothing to catch up with: {summary['reflects_final_reason']}")
        return
    console.say(
        f"memory reflects the final data layer: {verdict.upper() if verdict == NO else verdict} "
        f"({summary['reflects_final_reason']})",
        style=None if verdict == YES else "yellow",
    )


def figures_table(figures: dict[str, Any], before: dict[str, Any] | None) -> Table:
    """The held-out figures, beside those before training if there are any."""
    table = Table(title="held-out figures", title_justify="left")
    if before is not None:
        table.caption = f"before training: version 0, on {before['num_windows']} windows"
        table.caption_justify = "left"
    columns = ("figure", "before", "after") if before is not None else ("figure", "value")
    for heading in columns:
        table.add_column(heading, justify="left" if heading == "figure" else "right")
    for name, value in figures.items():
        earlier = [] if before is None else [figure(before["heldout"].get(name))]
        table.add_row(name, *earlier, figure(value))
    return table


def accuracy_table(
    unseen: dict[str, float],
    seen: dict[str, float],
    num_probes: int,
    before: dict[str, Any] | None = None,
) -> Table:
    """Share of whole answers that are right, by voice; before training too, if known."""
    table = Table(title=f"whole answers right ({num_probes} questions)", title_justify="left")
    table.add_column("wordings")
    for name in unseen:
        table.add_column("with memory" if name == "help" else name, justify="right")
    if before is not None and "accuracy" in before:
        earlier = before["accuracy"]
        table.add_row(
            f"before training ({before['num_probes']})",
            *(f"{earlier[name]:.1%}" for name in unseen),
        )
    table.add_row("never seen", *(f"{value:.1%}" for value in unseen.values()))
    table.add_row("trained on", *(f"{seen[name]:.1%}" for name in unseen))
    return table


def answers_table(answers: Sequence[dict[str, str]]) -> Table:
    """Sample questions with the answers of the three voices."""
    table = Table(title="a few questions", title_justify="left")
    for heading in ("question", "expected", "data layer alone", "with memory", "memory alone"):
        table.add_column(heading, overflow="fold")
    for row in answers:
        table.add_row(f"{row['prompt']} …", row["expected"], row["own"], row["help"], row["memory"])
    return table
