"""`tandem compare`: shows runs side by side, and where their configs differ.

Reads run directories and changes nothing. A run without a summary (it is running, or its driver was
lost) shows its figures so far; only finished runs are compared for the best value.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from rich.table import Table
from rich.text import Text

from actors.formats import ABSENT, figure
from actors.settings.run import GROUPS
from actors.wire import ConfigError, StorageError, one_line
from orchestrator.console import Console
from orchestrator.run_dir.metrics import group_totals
from orchestrator.run_dir.row_log import read_rows
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.run_dir.run_status import is_finished
from orchestrator.settings.dotted import leaves
from orchestrator.settings.file_names import CONFIG, SUMMARY

MISSING, UNFINISHED, UNREADABLE = "missing", "unfinished", "unreadable"
NOT_READ = (MISSING, UNREADABLE)
NO_FIGURES = (
    "status",
    "name",
    "cause",
    "reflects_final_reason",
    "reflects_final_verdict",
    "digest",
    "questions",
    "before",  # the same for every run of a config
)
HIGHER = (
    "tokens_per_s",
    "help_gain",
    "recall_agreement",
    "final_agreement",
    "reflection_rate",
    "written_likely_frac",
    "accuracy.own",
    "accuracy.help",
    "accuracy.memory",
    "accuracy_seen.own",
    "accuracy_seen.help",
    "accuracy_seen.memory",
    "reflects_final",
    "mfu",
)
LOWER = ("_loss", "_kl", "stall_frac", "wait_frac", "wall_s", "first_step_s", "eval_s", "max_lag")

Figure = int | float | None


@dataclass(frozen=True)
class Run:
    """One run, as its directory describes it.

    Attributes:
        url: its directory, as given on the command line.
        status: the summary's, or `missing`, `unfinished`, `unreadable`.
        cause: why it failed or can't be read.
        figures: its figures by dotted name.
        config: its resolved config by dotted key, without the name.
        is_away: it can't be read because its storage is away.
    """

    url: str
    status: str
    cause: str | None = None
    figures: dict[str, Figure] = field(default_factory=dict)
    config: dict[str, object] = field(default_factory=dict)
    is_away: bool = False


def run_compare(urls: Sequence[str], console: Console, as_json: bool) -> None:
    """Prints the runs side by side.

    Raises:
        ConfigError: one of them does not exist or can't be read; the others are shown.
        StorageError: the storage of one is away.
    """
    runs = [read_run(url) for url in urls]
    lacking = [run for run in runs if run.status in NOT_READ]
    if len(lacking) < len(runs):
        _show(runs, console, as_json)
    if lacking:
        causes = "; ".join(f"{run.url}: {run.cause}" for run in lacking)
        kind = StorageError if any(run.is_away for run in lacking) else ConfigError
        raise kind(f"not compared: {causes}; give run directories, e.g. runs/quickstart")


def _show(runs: Sequence[Run], console: Console, as_json: bool) -> None:
    """Those that can't be read are in the tables too, by their status."""
    best, differences = best_of(runs), config_differences(runs)
    if as_json:
        shown = [
            {"run": r.url, "status": r.status, "cause": r.cause, "figures": r.figures} for r in runs
        ]
        result = {"runs": shown, "best": best, "differences": differences}
        console.print_json(json.dumps(result))
        return
    console.print(_figures_table(runs, best))
    if any(best.values()):
        console.say("* best of the finished runs")
    for run in runs:
        if run.cause and run.status not in NOT_READ:
            console.say(f"{run.url}: {run.cause}")
    if differences:
        console.print(_differences_table(runs, differences))
    elif sum(bool(run.config) for run in runs) > 1:
        console.say("their configs do not differ")


def read_run(url: str) -> Run:
    """Reads a run's directory; a problem becomes its status and cause."""
    try:
        run_dir = RunDir(url)
        if not run_dir.exists(CONFIG):
            return Run(
                url, MISSING, "no such run" if not run_dir.exists() else f"no {CONFIG} there"
            )
        config = yaml.safe_load(run_dir.read(CONFIG))
        keys = {key: value for key, value in leaves(config) if key != "name"}
        if run_dir.exists(SUMMARY):
            summary = json.loads(run_dir.read(SUMMARY))
            return Run(
                url, summary["status"], summary.get("cause"), figures_in(summary), config=keys
            )
        return Run(url, UNFINISHED, "no summary: it is running, or its driver was lost",
                   figures_in(_so_far(run_dir)), keys)  # fmt: skip
    except (OSError, ImportError, ConfigError, StorageError) as err:
        return Run(url, UNREADABLE, one_line(err), is_away=isinstance(err, StorageError))
    except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as err:
        return Run(url, UNREADABLE, f"its files are damaged: {one_line(err)}")


def _so_far(run_dir: RunDir) -> dict[str, Any]:
    """The part of a summary that can be computed from the metrics of an unfinished run."""
    found: dict[str, Any] = {}
    intervals, evaluations = read_rows(run_dir)
    for group in GROUPS:
        if mine := [row for row in intervals if row["group"] == group]:
            found[group] = group_totals(mine)
    if evaluations:
        found |= {
            name: value
            for name, value in evaluations[-1].items()
            if name.startswith(("heldout.", "accuracy"))
        }
    return found


def figures_in(summary: dict[str, Any]) -> dict[str, Figure]:
    """A summary's figures by dotted name."""
    kept = {name: value for name, value in summary.items() if name not in NO_FIGURES}
    return {
        name: value
        for name, value in leaves(kept)
        if isinstance(value, int | float) or value is None
    }


def direction(figure: str) -> int:
    """1 where a larger figure is better, -1 where a smaller one is, 0 where neither is known."""
    if figure.endswith(HIGHER):
        return 1
    return -1 if figure.endswith(LOWER) else 0


def best_of(runs: Sequence[Run]) -> dict[str, list[str]]:
    """For each figure in which finished runs differ, the URLs of the best ones."""
    best: dict[str, list[str]] = {}
    for name in _names(runs):
        have = {
            run.url: sign * float(value)
            for run in runs
            if is_finished(run.status)
            and (sign := direction(name))
            and (value := run.figures.get(name)) is not None
        }
        if len(set(have.values())) > 1:
            top = max(have.values())
            best[name] = [url for url, value in have.items() if value == top]
    return best


def config_differences(runs: Sequence[Run]) -> dict[str, list[object]]:
    """Dotted keys whose values differ among the runs that have a config, one value per run.

    A run that lacks the key has None there.
    """
    known = [run for run in runs if run.config]
    keys = dict.fromkeys(key for run in known for key in run.config)
    return {
        key: [run.config.get(key) for run in runs]
        for key in keys
        if any(run.config.get(key, ABSENT) != known[0].config.get(key, ABSENT) for run in known)
    }


def _names(runs: Sequence[Run]) -> list[str]:
    """Figures that any run has, in the order of the run with most; then those it lacks."""
    fullest = sorted(runs, key=lambda run: -len(run.figures))
    return list(dict.fromkeys(name for run in fullest for name in run.figures))


def _heads(runs: Sequence[Run]) -> list[str]:
    """The last part of each URL, or the whole where two are the same."""
    last = [run.url.rstrip("/").rpartition("/")[2] for run in runs]
    return last if len(set(last)) == len(last) else [run.url for run in runs]


def _figures_table(runs: Sequence[Run], best: dict[str, list[str]]) -> Table:
    table = Table(title="runs", title_justify="left")
    table.add_column("figure")
    for head in _heads(runs):
        table.add_column(head, justify="right", overflow="fold")
    table.add_row("status", *(run.status for run in runs))
    for name in _names(runs):
        cells = []
        for run in runs:
            text = _figure(run.figures.get(name))
            first = run.url in best.get(name, ())
            cells.append(Text(f"{text} *", "bold green") if first else Text(text))
        table.add_row(name, *cells)
    return table


def _differences_table(runs: Sequence[Run], differences: dict[str, list[object]]) -> Table:
    table = Table(title="config differences", title_justify="left")
    table.add_column("key", overflow="fold")
    for head in _heads(runs):
        table.add_column(head, overflow="fold")
    for key, values in differences.items():
        cells = [ABSENT if key not in run.config else json.dumps(value, ensure_ascii=False)
                 for run, value in zip(runs, values, strict=True)]  # fmt: skip
        table.add_row(key, *cells)
    return table


def _figure(value: Figure) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else figure(value)
