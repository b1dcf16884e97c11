"""The files that a search leaves: tables, configs of the best trials, summary, and the report as
one self-contained page.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from html import escape

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
from orchestrator.reporting.html import card, page, table
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
    parts = [
        f"<div class=cards>{''.join(_cards(search, results, best))}</div>",
        f"<h2>{'The Pareto front' if len(goals) > 1 else 'The trials'}</h2>",
        _plots(fronts(results, best, goals)),
    ]
    if best:
        parts += [_wide(search, best)]
    parts += ["<h2>Learning curves</h2>", _plots(learning_curves(results, best, goals))]
    parts += _settings(search, results)
    text = yaml.safe_dump(
        spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=10**6
    )  # paths stay whole
    parts += ["<h2>All trials</h2>", _wide(search, results)]
    parts += [f"<h2>The search</h2><pre>{escape(text)}</pre>"]
    return page(spec.name, _subtitle(search, results), parts, f"Tandem: {spec.name}")


def _plots(plots: Iterable[str]) -> str:
    return f"<div class=plots>{''.join(f'<div>{svg}</div>' for svg in plots)}</div>"


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
) -> Iterable[str]:
    for state in (FINISHED, STOPPED, FAILED):
        count = sum(result.status == state for result in results)
        yield card(str(count), f"trials {state}", bad=state == FAILED and count > 0)
    for goal in search.spec.goals if best else ():
        yield card(f"{best[0].figures[goal.figure]:.4g}", f"{goal.figure} of trial {best[0].name}")


def _settings(search: Search, results: Sequence[TrialResult]) -> list[str]:
    """Parallel coordinates and importances, at an interval where trials compare."""
    goals = search.spec.goals
    interval, compared = latest_common([r for r in results if r.history])
    rows = [
        replace(result, figures=row, interval=interval)
        for result in compared
        if goals[0].figure in (row := dict(result.at(interval) or {}))
    ]
    if not rows:
        return []
    where = f"At interval {interval}, where {len(rows)} of {len(results)} trials were measured."
    names = list(rows[0].values)
    parts = ["<h2>Settings and figures</h2>", f"<p class=sub>{where}</p><div class=plots>"]
    figures = [goal.figure for goal in goals]
    parts += [f"<div style='grid-column:1/-1'>{parallel(rows, search.spec.space, names, figures)}"]
    parts += ["</div></div><h2>Importance</h2><p class=sub>", escape(HOW), "</p>"]
    plots, lines = [], []
    for figure in figures:
        able = [row for row in rows if figure in row.figures]
        found = importances(
            search.spec.space, [r.point for r in able], [r.figures[figure] for r in able]
        )
        if found:
            plots.append(importance_plot(found, figure))
            lines += [(figure, *_importance_row(one)) for one in found]
    if not plots:
        return [*parts, "<p class=sub>Too few trials to say.</p>"]
    return [*parts, _plots(plots), table(IMPORTANCE, lines)]


HOW = (
    "Share of a figure's variance (by rank) that a parabola in one setting alone explains; for "
    "listed values, their means. Black lines: 90 % of resampled trials. Red marks: a setting "
    "without effect stays below in 95 % of shuffled figures; grey bars do. Early figures favour "
    "settings that learn fast."
)
IMPORTANCE = ("figure", "setting", "share", "5 %", "95 %", "chance, 95 %", "")


def _importance_row(one: Importance) -> Sequence[str]:
    numbers = (one.share, one.low, one.high, one.chance)
    verdict = "more than chance" if one.beats_chance else "could be chance"
    return one.name, *(f"{number:.2f}" for number in numbers), verdict


def _wide(search: Search, results: Sequence[TrialResult]) -> str:
    """A table of trials that scrolls where the page is narrow."""
    text = table(*_table_of(search, results))
    return f"<div style='overflow-x:auto;margin-top:12px;font-size:13px'>{text}</div>"


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
