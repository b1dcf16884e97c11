"""Draws the tables of `reflect` and `learning` for docs/learning.md.

    python -m benchmarks.plots --reflect FILE [--large FILE] --learning FILE --out docs/images

Each FILE is what the benchmark printed with --json. Trains nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.reflect import AIMS

Json = Mapping[str, Any]
SIZE, DPI = (9.0, 3.4), 110
LABELS = {  # of figures of `reflect` that should reach some share
    "recall_agreement_seen": "answers, wordings seen",
    "recall_agreement_unseen": "answers, held-out wordings",
    "recall_gap_closed": "gap closed on a novel",
    "slot_share": "in the slots",
    "reflection_rate": "new answers, 4 intervals",
    "reflection_rate_paraphrase": "… in paraphrases",
}
VOICES = {  # of `learning`: cell and voice -> how it is drawn
    ("pair", "help"): ("with memory", "C0", "-"),
    ("pair", "own"): ("the same layer alone", "C0", "--"),
    ("plain", "own"): ("plain training", "C1", "-"),
    ("larger", "own"): ("as many parameters as both", "C2", "-"),
    ("ensemble", "help"): ("ensemble without slots", "C3", "-"),
}


def reflect_figure(results: Mapping[str, Json]) -> Figure:
    """Figures beside their aims with 95 % intervals, and mean reflection by intervals."""
    figure = Figure(SIZE, dpi=DPI, layout="constrained")
    reached, followed = figure.subplots(1, 2)
    for index, (label, result) in enumerate(results.items()):
        _reached(reached, label, result["table"], index / max(1, len(results)))
        _followed(followed, label, result["table"], f"C{index}")
    _aims(reached)
    followed.set(xlabel="intervals on taught versions", ylabel="share of changed answers given",
                 ylim=(-0.02, 1.04), xscale="log")  # fmt: skip
    ticks = [1, 2, 4, 8, 16]
    followed.set_xticks(ticks, [str(tick) for tick in ticks])
    followed.minorticks_off()
    followed.legend(fontsize=7, loc="lower right")
    return figure


def _aims(axes: Axes) -> None:
    for row, name in enumerate(LABELS):
        aim = float(AIMS[name].removeprefix(">= "))
        axes.plot([aim, aim], [row - 0.35, row + 0.35], color="black", linewidth=1.5)
    axes.set_yticks(range(len(LABELS)), list(LABELS.values()), fontsize=8)
    axes.set(xlim=(0, 1.04), xlabel="share and its 95 % interval; black: the aim")
    axes.invert_yaxis()
    axes.legend(fontsize=7, loc="upper left")


def _reached(axes: Axes, label: str, table: Json, shift: float) -> None:
    rows = [table[name] for name in LABELS]
    heights = [index + 0.4 * (shift - 0.25) for index in range(len(rows))]
    axes.errorbar(
        [row["mean"] for row in rows],
        heights,
        xerr=[row["half_95"] for row in rows],
        fmt="o",
        markersize=4,
        capsize=2,
        label=label,
    )


def _followed(axes: Axes, label: str, table: Json, color: str) -> None:
    for prefix, name, style in (
        ("reflection_rate_after_", "taught wording", "-"),
        ("paraphrase_after_", "paraphrases", "--"),
    ):
        points = sorted(
            (int(key.removeprefix(prefix)), row)
            for key, row in table.items()
            if key.startswith(prefix)
        )
        axes.plot(
            [at for at, _ in points],
            [row["mean"] for _, row in points],
            color=color,
            linestyle=style,
            marker="o",
            markersize=3,
            label=f"{label}, {name}",
        )
    axes.plot([4], [table["reflection_control"]["mean"]], color=color, marker="x", linestyle="",
              label=f"{label}, no snapshots")  # fmt: skip


def learning_figure(result: Json) -> Figure:
    """Whole answers in unseen wordings by tokens of the data layer: each seed, and their mean."""
    figure = Figure(SIZE, dpi=DPI, layout="constrained")
    axes = figure.subplots()
    for (cell, voice), (label, color, style) in VOICES.items():
        curves: Sequence[Sequence[Json]] = result["curves"][cell]
        tokens = [row["data_tokens"] / 1e6 for row in curves[0]]
        shares = [[row[voice] for row in curve] for curve in curves]
        for share in shares:
            axes.plot(tokens, share, color=color, linestyle=style, alpha=0.2, linewidth=0.8)
        means = [statistics.fmean(at) for at in zip(*shares, strict=True)]
        axes.plot(tokens, means, color=color, linestyle=style, label=label)
    axes.set(xlabel="million tokens that the data layer trained on",
             ylabel="whole answers, unseen wordings", ylim=(0, None))  # fmt: skip
    axes.legend(fontsize=8)
    return figure


def _read(path: Path) -> Json:
    result: Json = json.loads(path.read_text(encoding="utf-8"))
    return result


def main() -> int:
    """Writes reflect.png and learning.png, of what was given."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--reflect", type=Path)
    parser.add_argument("--large", type=Path, help="of `reflect --large`, drawn beside it")
    parser.add_argument("--learning", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    named = {"small, CPU": arguments.reflect, "100 M data layer": arguments.large}
    figures: dict[str, Figure] = {}
    if results := {label: _read(path) for label, path in named.items() if path}:
        figures["reflect"] = reflect_figure(results)
    if arguments.learning:
        figures["learning"] = learning_figure(_read(arguments.learning))
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(arguments.out / f"{name}.png")
        print(arguments.out / f"{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
