"""The plots of a search's report as SVG text. Pure functions of its trials' results."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import partial

from matplotlib import colormaps
from matplotlib.axes import Axes

from actors.settings.run import DATA, MEMORY
from jobs.tune.importance import Importance
from jobs.tune.results import FINISHED, STOPPED, TrialResult, loss_of
from jobs.tune.space import Domain, Objective, Value
from orchestrator.reporting.plots import COLORS, draw

STATES = {FINISHED: COLORS[DATA], STOPPED: COLORS[MEMORY]}
BEST = "#dc2626"
WIDE = (11.6, 3.8)
MOST_LABELS = 8  # of trials on the front; more would cover each other


def fronts(
    results: Sequence[TrialResult], best: Sequence[TrialResult], goals: Sequence[Objective]
) -> list[str]:
    """A plot for each pair of objectives with the front; of one objective the trials in turn."""
    if len(goals) == 1:
        return [draw(lambda axes: _in_turn(axes, results, best, goals[0]), "Trials in turn",
                     "trial", goals[0].figure)]  # fmt: skip
    plots = []
    for x, y in itertools.combinations(goals, 2):

        def paint(axes: Axes, x: Objective = x, y: Objective = y) -> None:
            _scatter(axes, results, best, x, y)

        title = f"Front: {x.goal} {_short(x.figure)}, {y.goal} {_short(y.figure)}"
        plots.append(draw(paint, title, x.figure, y.figure))
    return plots


def _scatter(
    axes: Axes,
    results: Sequence[TrialResult],
    best: Sequence[TrialResult],
    x: Objective,
    y: Objective,
) -> None:
    for state, color in STATES.items():
        points = _points([r for r in results if r.status == state], x.figure, y.figure)
        if points:
            xs, ys = zip(*points, strict=True)
            full = color if state == FINISHED else "none"
            axes.scatter(xs, ys, 22, facecolors=full, edgecolors=color, label=state)
    if front := sorted(_points(best, x.figure, y.figure)):
        axes.plot(*zip(*front, strict=True), "o-", color=BEST, linewidth=1.2, label="front")
    for result in best[:MOST_LABELS]:
        where = (result.figures[x.figure], result.figures[y.figure])
        axes.annotate(result.name, where, fontsize=6, textcoords="offset points", xytext=(4, 4))


def _short(figure: str) -> str:
    return figure.rpartition(".")[2].replace("_", " ")


def _points(results: Sequence[TrialResult], x: str, y: str) -> list[tuple[float, float]]:
    figures = [r.figures for r in results]
    return [(f[x], f[y]) for f in figures if x in f and y in f]


def _in_turn(
    axes: Axes, results: Sequence[TrialResult], best: Sequence[TrialResult], goal: Objective
) -> None:
    for state, color in STATES.items():
        mine = [r for r in results if r.status == state and goal.figure in r.figures]
        full = color if state == FINISHED else "none"
        axes.scatter([r.number for r in mine], [r.figures[goal.figure] for r in mine], s=22,
                     facecolors=full, edgecolors=color, label=state)  # fmt: skip
    ended = [r for r in results if r.status == FINISHED and goal.figure in r.figures]
    losses = list(itertools.accumulate((loss_of(r.figures, goal) for r in ended), min))
    sign = 1 if goal.goal == "min" else -1
    axes.step([r.number for r in ended], [sign * v for v in losses], where="post",
              color=COLORS["grey"], linewidth=1, label="best so far")  # fmt: skip
    for result in best:
        axes.plot(result.number, result.figures[goal.figure], "o", color=BEST, markersize=7,
                  fillstyle="none", label="best")  # fmt: skip


def learning_curves(
    results: Sequence[TrialResult], best: Sequence[TrialResult], goals: Sequence[Objective]
) -> list[str]:
    """A plot per objective: every trial's figure over its evaluations, the best ones in red."""
    numbers = {result.number for result in best}

    def paint(axes: Axes, figure: str) -> None:
        labelled = set()
        for result in sorted(results, key=lambda r: r.number in numbers):
            rows = [row for row in result.history if figure in row]
            kind = "best" if result.number in numbers else result.status
            color = BEST if kind == "best" else STATES.get(kind, COLORS["grey"])
            axes.plot([r["interval"] for r in rows], [r[figure] for r in rows], "-o", color=color,
                      markersize=2.5, linewidth=1.6 if kind == "best" else 0.9,
                      alpha=1.0 if kind == "best" else 0.6,
                      label=None if kind in labelled else kind)  # fmt: skip
            labelled.add(kind)

    return [draw(partial(paint, figure=goal.figure), goal.figure, "interval", "") for goal in goals]


def parallel(
    results: Sequence[TrialResult],
    space: Mapping[str, Domain],
    values: Sequence[str],
    figures: Sequence[str],
) -> str:
    """Parallel coordinates: a line per trial through its values and figures; the colour is the
    first figure's.

    Args:
        results: trials that were all measured at the same interval.
        space: the settings that were varied.
        values, figures: the axes, from left to right.
    """

    def paint(axes: Axes) -> None:
        names = [*values, *figures]
        columns = [_column(results, space.get(name), name) for name in names]
        shades = _unit(columns[len(values)][0])
        for index in range(len(results)):
            ys = [column[1][index] for column in columns]
            axes.plot(range(len(names)), ys, color=colormaps["viridis"](shades[index]),
                      linewidth=1.3, alpha=0.8)  # fmt: skip
        for at, (raw, _) in enumerate(columns):
            axes.axvline(at, color=COLORS["grey"], linewidth=0.8)
            low, high = _end_labels(raw, space.get(names[at]))
            axes.text(at, -0.05, low, ha="center", va="top", fontsize=7)
            axes.text(at, 1.05, high, ha="center", va="bottom", fontsize=7)
        axes.set_xticks(range(len(names)), [n.replace(".", ".\n") for n in names], fontsize=8)
        axes.tick_params(axis="x", pad=14)
        axes.set_yticks([])
        axes.set_ylim(-0.12, 1.16)
        axes.spines[["left", "bottom"]].set_visible(False)

    title = f"Parallel coordinates; yellow: high {figures[0]}, blue: low"
    return draw(paint, title, "", "", WIDE)


def _column(
    results: Sequence[TrialResult], domain: Domain | None, name: str
) -> tuple[list[Value], list[float]]:
    """The trials' values of a setting or a figure, and their positions on an axis from 0 to 1."""
    raw = [r.values[name] if name in r.values else r.figures.get(name, math.nan) for r in results]
    if domain is not None and domain.values is not None:
        last = max(1, len(domain.values) - 1)
        return raw, [domain.values.index(value) / last for value in raw]
    logs = domain is not None and domain.loguniform is not None
    return raw, _unit([math.log(value) if logs else float(value) for value in raw])


def _unit(values: Sequence[float]) -> list[float]:
    finite = [v for v in values if math.isfinite(v)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    return [(v - low) / (high - low) if high > low else 0.5 for v in values]


def _end_labels(raw: Sequence[Value], domain: Domain | None) -> tuple[str, str]:
    if domain is not None and domain.values is not None:
        return str(domain.values[0]), str(domain.values[-1])
    finite = [float(v) for v in raw if math.isfinite(v)]
    return (f"{min(finite):.3g}", f"{max(finite):.3g}") if finite else ("", "")


def importance_plot(found: Sequence[Importance], figure: str) -> str:
    """Bars with their intervals, and a mark where chance would end."""

    def paint(axes: Axes) -> None:
        for at, one in enumerate(reversed(found)):
            color = COLORS[DATA] if one.beats_chance else COLORS["grey"]
            axes.barh(at, one.share, color=color, height=0.6)
            axes.plot([one.low, one.high], [at, at], color="#0f172a", linewidth=1.2)
            axes.plot([one.chance] * 2, [at - 0.4, at + 0.4], color=BEST, linewidth=1.2,
                      label="chance, 95 %" if at == 0 else None)  # fmt: skip
        axes.set_yticks(range(len(found)), [one.name for one in reversed(found)])
        axes.set_xlim(0, 1)

    return draw(paint, f"What mattered for {figure}", "share of the variance explained", "")
