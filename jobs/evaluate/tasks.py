"""`tandem evaluate --tasks NAME,…`: prints what the harness found of the three voices."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.table import Table

from actors.measuring.voices import VOICES
from actors.wire import ConfigError
from jobs.ask import HEADINGS
from orchestrator.console import Console
from orchestrator.reporting.task_progress import TaskProgress

if TYPE_CHECKING:
    from jobs.harness.options import TaskOptions
    from jobs.harness.tasks import Figure


def run_task_evaluation(
    run: str, options: TaskOptions, console: Console, as_json: bool
) -> dict[str, Any]:
    """Evaluates, prints and returns all figures.

    Raises:
        ConfigError: no pair there, no task, an unknown one, or the harness is missing.
    """
    if not options.tasks:
        raise ConfigError("--tasks: expected names or YAML files, separated by commas; got none")
    from jobs.api import load
    from jobs.harness.tasks import BASE, evaluated

    with TaskProgress() as progress:
        progress("loading the pair")
        model = load(run, progress=progress)
        figures, counts = evaluated(run, model, options, progress)
    result = {
        "run": run,
        "num_questions": counts,
        "figures": [figure.to_json() for figure in figures],
    }
    if as_json:
        console.print_json(json.dumps(result))
        return result
    columns = [*([BASE] if options.base is not None else []), *VOICES]
    for task in dict.fromkeys(figure.task for figure in figures):
        some = [figure for figure in figures if figure.task == task]
        console.print(_table(task, counts.get(task), some, columns))
    return result


def _table(task: str, num: int | None, figures: list[Figure], columns: list[str]) -> Table:
    questions = "" if num is None else f" ({num:,} questions)"
    table = Table(title=f"{task}{questions}", title_justify="left")
    table.add_column("figure", overflow="fold")
    for column in columns:
        table.add_column(HEADINGS.get(column, column), justify="right")
    table.add_column("memory helps by", justify="right")
    for figure in figures:
        cells = [_cell(figure.values.get(c), figure.errors.get(c)) for c in columns]
        table.add_row(figure.name, *cells, _cell(figure.gain, figure.gain_error, "+"))
    return table


def _cell(value: float | None, error: float | None, sign: str = "") -> str:
    if value is None:
        return ""
    return f"{value:{sign}.4f}" + ("" if error is None else f" ±{error:.4f}")
