"""The pages about what a finished run learned later: `learned_page` of `tandem learn`, `forks_page`
of `tandem evaluate --learn`. Text and tables; pure functions of the JSON that these print.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from actors.formats import ABSENT
from actors.settings.run import DATA, MEMORY
from orchestrator.reporting.html import render
from orchestrator.reporting.plots import COLORS, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Json = Mapping[str, Any]
VOICES = {"own": "data layer alone", "help": "with memory", "memory": "memory alone"}
LOSSES = {"own": "own_loss", "help": "help_loss", "memory": "self_loss"}
ACCURACIES = {"accuracy": "wordings held out", "accuracy_seen": "wordings trained on"}
LOSS = "held-out loss"
UNITS = "whole answers right; loss in nats per token"
HOW = ("run", "corpus", "facts", "steps", "lr", "port", "old_data", "old_from", "seed",
       "new_tokens", "old_tokens")  # fmt: skip
VOICE_COLORS = {"own": COLORS[DATA], "help": COLORS["third"], "memory": COLORS[MEMORY]}


def change_table(before: Json, after: Json) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Headings, and a row for each voice and the baseline, of two exams of one corpus.

    Args:
        before, after: `heldout`, `accuracy` and `accuracy_seen`, as in `Knowledge`.
    """
    sections = [section for section in ACCURACIES if before[section]]
    heads = ("", *(ACCURACIES[section] for section in sections), LOSS)
    rows: list[Sequence[str]] = []
    for voice, name in VOICES.items():
        shares = [_arrow(before, after, f"{section}.{voice}", ".1%") for section in sections]
        rows.append((name, *shares, _arrow(before, after, f"heldout.{LOSSES[voice]}", ".3f")))
    if sections:
        shares = [f"{before[section]['baseline']:.1%}" for section in sections]
        rows.append(("most frequent object", *shares, ""))
    return heads, rows


def _arrow(before: Json, after: Json, key: str, form: str) -> str:
    return f"{_at(before, key):{form}} → {_at(after, key):{form}}"


def forks_rows(forks: Json) -> Iterable[tuple[str, ...]]:
    """Figure, and what it was before and is after the fork without and the one with memory."""
    before, without, with_ = (
        forks["before"], forks["without"]["reached"], forks["with"]["reached"]
    )  # fmt: skip
    for name, what in (("loss", "held-out loss, nats per token"),
                       ("tokens_right", "held-out tokens right")):  # fmt: skip
        shown = [before[f"own_{name}"], without[f"own_{name}"], with_[f"help_{name}"]]
        yield what, *(f"{x:.4f}" if name == "loss" else f"{x:.1%}" for x in shown)
    for section, what in ACCURACIES.items():
        if section in without:
            shown = [before[section]["own"], without[section]["own"], with_[section]["help"]]
            yield f"answers, {what}", *(f"{x:.1%}" for x in shown)


def learned_page(learned: Json) -> str:
    """What a memory learned, as one self-contained page."""
    new, old = learned["new"], learned["old"]
    cards = [(f"{learned['seconds']:.0f} s", f"for {learned['steps']} steps")]
    for section, what in ACCURACIES.items():
        if new["after"][section]:
            for voice in ("help", "memory"):
                a, b = new["before"][section][voice], new["after"][section][voice]
                cards.append((f"{a:.1%} → {b:.1%}", f"new answers, {what}, {VOICES[voice]}"))
    for label, marks in (("new", new), ("old", old)):
        a, b = (marks[when]["heldout"]["help_loss"] for when in ("before", "after"))
        cards.append((f"{b - a:+.3f}", f"{label}: loss with memory, nats per token"))
    general = [old[when]["heldout"].get("general_help_loss") for when in ("before", "after")]
    if None not in general:
        cards.append(
            (f"{general[1] - general[0]:+.3f}", "general text: loss with memory, nats per token")
        )
    return render(
        "learned.html",
        title="",
        heading=f"{learned['name']}: what the memory learned",
        sub=learned["how"],
        cards=cards,
        units=UNITS,
        learned=change_table(new["before"], new["after"]),
        kept=change_table(old["before"], old["after"]),
        plots=_learned_plots(learned["curve"]),
        how=[
            *((name, _said(learned[name])) for name in HOW),
            ("rows changed", f"{learned['rows_changed']} of {learned['num_rows']}"),
        ],
    )


def _said(value: Any) -> str:
    """A value of `learned.json` as people write it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name.replace('_', ' ')} {number}" for name, number in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if value is None:
        return ABSENT
    return f"{value:g}" if isinstance(value, float) else str(value)


def forks_page(forks: Json) -> str:
    """Two forks side by side, as one self-contained page."""
    return render(
        "forks.html",
        title="",
        heading=f"{forks['name']}: without and with memory",
        sub=forks["how"],
        figures=forks_rows(forks),
        plots=forks_plots(forks),
    )


def forks_plots(forks: Json) -> list[str]:
    """Both curves, of every figure that they have."""
    plots = [
        _curves("Held-out loss", "nats per token", _fork_points(forks, "own_loss", "help_loss")),
        _curves(
            "Held-out tokens right",
            "share",
            _fork_points(forks, "own_tokens_right", "help_tokens_right"),
        ),
    ]
    for section, what in ACCURACIES.items():
        if section in forks["before"]:
            names = f"{section}.own", f"{section}.help"
            plots.append(_curves(f"Answers, {what}", "share right", _fork_points(forks, *names)))
    return plots


Series = Mapping[str, tuple[str, Sequence[tuple[float, float]]]]  # name -> color, points


def _fork_points(forks: Json, own: str, helped: str) -> Series:
    def points(fork: str, key: str) -> list[tuple[float, float]]:
        return [(row["step"], _at(row, key)) for row in forks[fork]["curve"]]

    return {
        "without memory": (COLORS[DATA], points("without", own)),
        "with memory": (COLORS["third"], points("with", helped)),
    }


def _learned_plots(curve: Sequence[Json]) -> list[str]:
    def series(*keys: str) -> Series:
        return {
            VOICES[voice]: (VOICE_COLORS[voice], [(row["step"], _at(row, key)) for row in curve])
            for voice, key in zip(VOICES, keys, strict=True)
        }

    plots = []
    for section, what in ACCURACIES.items():
        if curve[0]["new"][section]:
            found = series(*(f"new.{section}.{voice}" for voice in VOICES))
            plots.append(_curves(f"New answers, {what}", "share right", found))
    for corpus in ("new", "old"):
        found = series(*(f"{corpus}.heldout.{LOSSES[voice]}" for voice in VOICES))
        plots.append(_curves(f"{corpus.capitalize()}: held-out loss", "nats per token", found))
    return plots


def _at(row: Json, key: str) -> float:
    value: Any = row
    for part in key.split("."):
        value = value[part]
    return float(value)


def _curves(title: str, ylabel: str, series: Series) -> str:
    def paint(axes: Axes) -> None:
        for name, (color, points) in series.items():
            axes.plot(*zip(*points, strict=True), "o-", label=name, color=color, markersize=3,
                      linewidth=1.4)  # fmt: skip

    return draw(paint, title, "step", ylabel)
