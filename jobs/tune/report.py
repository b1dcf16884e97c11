"""The files that a search leaves: tables, configs of the best trials, summary, and the report as
one self-contained page (`templates/search.html`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import yaml

from jobs.tune.importance import Importance, importances
from jobs.tune.plots import fronts, importance_plot, learning_curves, parallel
from jobs.tune.progress import shown
from jobs.tune.results import (
    FAILED,
    FINISHED,
    STOPPED,
    TrialResult,
    cell,
    latest_common,
    pareto_front,
    table_rows,
)
from jobs.tune.search import BEST, PARETO, RESULTS, SPREAD, Search
from orchestrator.reporting.html import render
from orchestrator.run_dir.parquet import to_parquet
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.settings.file_names import REPORT, SUMMARY


def write_results(
    where: RunDir, search: Search, results: Sequence[TrialResult], wall_s: float
) -> list[TrialResult]:
    """Writes the tables, the configs of the best and the report; returns the best."""
    goals = search.spec.goals
    best = pareto_front(results, goals)
    where.write(RESULTS, to_parquet(table_rows(results)))
    for index, result in enumerate(best):
        named = {"name": f"{search.spec.name}-{result.name}", "storage": search.spec.storage}
        text = search.config(result.point, **named).to_yaml()
        if index == 0:
            where.write(BEST, text)
        if len(goals) > 1:
            where.write(f"{PARETO}/{result.name}.yaml", text)
    if len(goals) > 1:
        where.write(f"{PARETO}.parquet", to_parquet(table_rows(best)))
    summary = {
        "name": search.spec.name,
        "wall_s": wall_s,
        "trials": search.num_trials,
        **{state.replace(" ", "_"): sum(r.status == state for r in results)
           for state in (FINISHED, STOPPED, FAILED)},
        "failures": sum(r.failures for r in results),
        "objectives": search.spec.objectives,
        "best": [
            {"trial": r.name, "values": r.values, "figures": r.figures} for r in best
        ],
    }  # fmt: skip
    where.write_json(SUMMARY, summary)
    where.write(REPORT, render_search_report(search, results, best))
    return best


def render_search_report(
    search: Search, results: Sequence[TrialResult], best: Sequence[TrialResult]
) -> str:
    """The page as HTML; needs nothing but a browser."""
    spec, goals = search.spec, search.spec.goals
    return render(
        "search.html",
        package="jobs.tune",
        heading=spec.name,
        sub=_subtitle(search, results),
        title=f"Tandem: {spec.name}",
        cards=_cards(search, results, best),
        has_front=len(goals) > 1,
        fronts=fronts(results, best, goals),
        best=_table_of(search, best) if best else None,
        curves=learning_curves(results, best, goals),
        compared=_compare(search, results),
        trials=_table_of(search, results),
        config=yaml.safe_dump(
            spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=10**6
        ),  # paths stay whole
    )


def _subtitle(search: Search, results: Sequence[TrialResult]) -> str:
    seconds = sum(result.seconds for result in results)
    chosen = {"tpe": "Optuna's TPE", "random": "chance", "grid": "a grid"}[search.spec.algorithm]
    return (
        f"{len(results)} of {search.num_trials} trials, points by {chosen}, scheduler "
        f"{search.spec.scheduler}, {search.spec.seeds} run(s) each, "
        f"{seconds / 60:.1f} minutes of trials; {', '.join(search.spec.objectives)}"
    )


def _cards(
    search: Search, results: Sequence[TrialResult], best: Sequence[TrialResult]
) -> list[tuple[str, str, bool]]:
    """Value and label of each card, and whether it is bad news."""
    counts = {
        state: sum(result.status == state for result in results)
        for state in (FINISHED, STOPPED, FAILED)
    }
    cards = [(str(n), f"trials {state}", state == FAILED and n > 0) for state, n in counts.items()]
    for goal in search.spec.goals if best else ():
        value = f"{best[0].figures[goal.figure]:.4g}"
        cards.append((value, f"{goal.figure} of trial {best[0].name}", False))
    return cards


@dataclass(frozen=True)
class _Compared:
    """Settings and figures at an interval where trials compare.

    Attributes:
        interval: that one.
        num_measured, num_trials: trials that were measured there, and all.
        parallel: plot of parallel coordinates.
        importances: a plot per figure; none where there are too few trials.
        shares: rows of the table below them.
    """

    interval: int
    num_measured: int
    num_trials: int
    parallel: str
    importances: list[str]
    shares: list[Sequence[str]]


def _compare(search: Search, results: Sequence[TrialResult]) -> _Compared | None:
    goals, space = search.spec.goals, search.spec.space
    interval, compared = latest_common([r for r in results if r.history])
    rows = [
        replace(result, figures=row, interval=interval)
        for result in compared
        if goals[0].figure in (row := dict(result.at(interval) or {}))
    ]
    if not rows:
        return None
    figures = [goal.figure for goal in goals]
    plots: list[str] = []
    shares: list[Sequence[str]] = []
    for figure in figures:
        able = [row for row in rows if figure in row.figures]
        found = importances(space, [r.point for r in able], [r.figures[figure] for r in able])
        if found:
            plots.append(importance_plot(found, figure))
            shares += [(figure, *_importance_row(one)) for one in found]
    drawn = parallel(rows, space, list(rows[0].values), figures)
    return _Compared(interval, len(rows), len(results), drawn, plots, shares)


def _importance_row(one: Importance) -> Sequence[str]:
    numbers = (one.share, one.low, one.high, one.chance)
    verdict = "more than chance" if one.beats_chance else "could be chance"
    return one.name, *(f"{number:.2f}" for number in numbers), verdict


def _table_of(
    search: Search, results: Sequence[TrialResult]
) -> tuple[Sequence[str], list[Sequence[str]]]:
    names = list(dict.fromkeys(name for result in results for name in result.values))
    figures = [goal.figure for goal in search.spec.goals]
    several = search.spec.seeds > 1
    heads = ["trial", "state", "interval", "seconds", *names, *figures, "moves", "remarks"]
    rows: list[Sequence[str]] = []
    for result in results:
        found = []
        for figure in figures:
            text = shown(result.figures.get(figure))
            if several and (spread := result.figures.get(f"{SPREAD}.{figure}")) is not None:
                text += f" ± {shown(spread)}"
            found.append(text)
        rows.append(
            (
                result.name,
                result.status,
                str(result.interval),
                f"{result.seconds:.0f}",
                *(shown(cell(result.values.get(name))) for name in names),
                *found,
                _exploits(result),
                result.error,
            )
        )
    return heads, rows


def _exploits(result: TrialResult) -> str:
    return ", ".join(f"from {exploit.donor:03d} at {exploit.interval}" for exploit in result.moves)
