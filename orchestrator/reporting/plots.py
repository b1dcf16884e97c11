"""The report's plots as SVG text: pure functions of metric rows.

Matplotlib is used without a display and without its global state, and imported only where something
is drawn: a run loads it at its end, a rank never.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from actors.settings.run import DATA, GROUPS, MEMORY
from orchestrator.run_dir.metrics import NATS, Metrics, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = {
    DATA: "#2563eb",
    MEMORY: "#d97706",
    "third": "#059669",
    "fourth": "#7c3aed",
    "grey": "#94a3b8",
}
TOP_SHARE_ALARM = 0.2
NATS_A_TOKEN = "nats per token"


def draw(
    paint: Callable[[Axes], None],
    title: str,
    xlabel: str,
    ylabel: str,
    size: tuple[float, float] = (5.6, 3.1),
) -> str:
    """One plot as an `<svg>` element; its size in inches."""
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    paint(axes)
    axes.set_title(title, fontsize=10, loc="left", fontweight="bold")
    axes.set_xlabel(xlabel, fontsize=8)
    axes.set_ylabel(ylabel, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, frameon=False)
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a `$` in a setting's value is one
    sink = io.StringIO()
    figure.savefig(sink, format="svg", metadata={"Date": None})
    return sink.getvalue()[sink.getvalue().index("<svg") :]


def all_plots(metrics: Metrics) -> list[str]:
    """Every plot that the run's rows allow."""
    data, memory, evaluations = (
        metrics.of_group(DATA),
        metrics.of_group(MEMORY),
        metrics.evaluations,
    )
    plots = [
        _lines("Data group, training", data, _losses(data), NATS_A_TOKEN),
        _lines("Memory group, training", memory, _losses(memory), NATS_A_TOKEN),
    ]
    if evaluations:
        plots += _evaluation_plots(evaluations)
    plots += [
        draw(lambda a: _versions(a, metrics), "Versions adopted, and lag", "seconds", "version"),
        draw(lambda a: _waits(a, metrics), "Steps, exchange and waiting", "interval", "seconds"),
        _spent(metrics),
        _lines(
            "Rows of the value table written per step",
            memory,
            {"rows": "train.rows_written"},
            "rows",
        ),
    ]
    return plots


def teaching_plots(metrics: Metrics) -> list[str]:
    """Those that say something of a run that teaches, which is evaluated twice: each plot costs as
    much as a dozen of its steps.
    """
    groups = (("Data group", metrics.of_group(DATA)), ("Memory group", metrics.of_group(MEMORY)))
    plots = [
        _lines(f"{name}, training", rows, found, NATS_A_TOKEN)
        for name, rows in groups
        if (found := _losses(rows))  # a memory that is told does not train
    ]
    return [*plots, _spent(metrics)]


def _spent(metrics: Metrics) -> str:
    return draw(lambda a: _costs(a, metrics), "What a step is spent on", "seconds per interval", "")


def _evaluation_plots(rows: Sequence[Row]) -> list[str]:
    plots = [
        _lines(
            "Held out: losses",
            rows,
            {"own": "heldout.own_loss", "help": "heldout.help_loss", "self": "heldout.self_loss"},
            NATS_A_TOKEN,
            x="data_version",
        ),
        _lines(
            "Held out: help gain",
            rows,
            {"help gain": "heldout.help_gain"},
            NATS_A_TOKEN,
            x="data_version",
        ),
        _lines(
            "Held out: recall",
            rows,
            {"agreement": "heldout.recall_agreement", "KL": "heldout.recall_kl"},
            "share, nats",
            x="data_version",
        ),
        draw(
            lambda a: _reflection(a, rows),
            "Reflection between evaluations",
            "data version",
            "share followed",
        ),
        draw(lambda a: _slots(a, rows), "Slot use", "data version", "share"),
        _lines(
            "Written by the memory, and likely to the data layer",
            rows,
            {"likely": "heldout.written_likely_frac"},
            "share of documents",
            x="data_version",
        ),
    ]
    if "heldout.general_own_loss" in rows[0]:
        names = {n: f"heldout.general_{n}_loss" for n in ("own", "help")}
        plots.append(_lines("General text: losses", rows, names, NATS_A_TOKEN, x="data_version"))
    if "accuracy.own" in rows[0]:
        names = {n: f"accuracy.{n}" for n in ("own", "help", "memory", "baseline")}
        plots.insert(
            0,
            _lines(
                "Whole answers, wordings never seen", rows, names, "share right", x="data_version"
            ),
        )
    return plots


def _losses(rows: Sequence[Row]) -> dict[str, str]:
    """The losses that a group's rows have, in nats: name -> key."""
    keys = {name: f"train.{name}" for name in NATS}
    return {name: key for name, key in keys.items() if any(key in row for row in rows)}


def _lines(
    title: str, rows: Sequence[Row], series: Mapping[str, str], ylabel: str, x: str = "interval"
) -> str:
    def paint(axes: Axes) -> None:
        palette = (COLORS[DATA], COLORS[MEMORY], COLORS["third"], COLORS["fourth"])
        looks = product(("-", "--", ":"), palette)
        for (name, key), (line, color) in zip(series.items(), looks, strict=False):
            points = [(row[x], row[key]) for row in rows if row.get(key) is not None]
            if points:
                marker = "o" if len(points) < 30 else None
                axes.plot(
                    *zip(*points, strict=True),
                    label=name,
                    color=color,
                    linestyle=line,
                    marker=marker,
                    markersize=3,
                    linewidth=1.4,
                )

    return draw(paint, title, x.replace("_", " "), ylabel)


def _versions(axes: Axes, metrics: Metrics) -> None:
    for group in GROUPS:
        rows = metrics.of_group(group)
        axes.step(
            [r["start_s"] for r in rows], [r["peer_version"] for r in rows], where="post",
            color=COLORS[group], label=f"{group} adopts", linewidth=1.4,
        )  # fmt: skip
    rows = metrics.intervals
    lag = axes.twinx()
    lag.plot(
        [r["end_s"] for r in rows],
        [r["lag"] for r in rows],
        ".",
        color=COLORS["grey"],
        markersize=3,
    )
    lag.set_ylabel("lag (versions, grey)", fontsize=8)
    lag.set_ylim(0, max([r["lag"] for r in rows], default=1) + 1)
    lag.tick_params(labelsize=8)


def _waits(axes: Axes, metrics: Metrics) -> None:
    for group, side in zip(GROUPS, (-0.2, 0.2), strict=True):
        rows = metrics.of_group(group)
        at = [row["interval"] + side for row in rows]
        steps = [row["step_s"] for row in rows]
        exchange = [row["adopt_s"] + row["publish_s"] for row in rows]
        waits = [row["wait_s"] for row in rows]
        tops = [a + b for a, b in zip(steps, exchange, strict=True)]
        axes.bar(at, steps, 0.36, color=COLORS[group], label=f"{group}: steps")
        axes.bar(
            at,
            exchange,
            0.36,
            bottom=steps,
            color=COLORS["fourth"],
            label=None if side > 0 else "exchange",
        )
        axes.bar(
            at,
            waits,
            0.36,
            bottom=tops,
            color=COLORS["grey"],
            label=None if side > 0 else "waiting for the other",
        )


def _costs(axes: Axes, metrics: Metrics) -> None:
    labels, values, colors = [], [], []
    for group in GROUPS:
        rows = metrics.of_group(group)
        for name in [
            k
            for k in (rows[-1] if rows else {})
            if k.startswith("cost_s.") and k != "cost_s.measure"
        ]:
            mean = sum(row.get(name, 0.0) for row in rows) / len(rows)
            if mean > 0:
                labels.append(f"{group}: {name.removeprefix('cost_s.')}")
                values.append(mean)
                colors.append(COLORS[group])
    axes.barh(labels[::-1], values[::-1], color=colors[::-1])


def _reflection(axes: Axes, rows: Sequence[Row]) -> None:
    changed_rows = [r for r in rows if r["reflection_changed"]]
    points = [
        (
            r["data_version"],
            r["reflection_followed"] / r["reflection_changed"],
            r["reflection_changed"],
        )
        for r in changed_rows
    ]
    for version, rate, changed in points:
        axes.annotate(
            str(changed),
            (version, rate),
            fontsize=6,
            textcoords="offset points",
            xytext=(0, 4),
            ha="center",
        )
    axes.plot(
        [p[0] for p in points],
        [p[1] for p in points],
        "o-",
        color=COLORS["third"],
        label="rate (n changed)",
    )
    axes.set_ylim(0, 1.08)


def _slots(axes: Axes, rows: Sequence[Row]) -> None:
    at: list[Any] = [row["data_version"] for row in rows]
    axes.plot(
        at,
        [r["heldout.slots_used_frac"] for r in rows],
        "o-",
        color=COLORS[MEMORY],
        label="slots used",
    )
    top = [r["heldout.slots_top1pct_share"] for r in rows]
    axes.plot(at, top, "o-", color=COLORS["fourth"], label="reads by the top 1 %")
    axes.axhline(TOP_SHARE_ALARM, color="#dc2626", linestyle="--", linewidth=1, label="alarm")
    axes.set_ylim(0, 1.05)
