"""`report.html` of a run that teaches: what became of each lesson, and what was lost beside them.

Pure functions of `taught.json`; the tables of the terminal are made from the same rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from actors.formats import ABSENT
from orchestrator.reporting.html import render
from orchestrator.reporting.plots import teaching_plots
from orchestrator.run_dir.metrics import Metrics
from orchestrator.settings.config import Config

MEANING = {
    "taught": "lessons that the data layer alone now answers, whole",
    "taught_with_memory": "… both together",
    "taught_memory": "… the memory alone",
    "other_wordings": "the lessons' other prompts that the data layer alone answers",
    "kept_lost": "answers to what was not taught that the data layer no longer gives",
    "neighbours_lost": "… of the neighbours that the lessons name",
    "memory_kept_lost": "… that the memory no longer gives",
    "text_lost_frac": "by how much the loss on text that the memory wrote rose",
    "reflected": "answers that the data layer changed and that the memory gives too",
    "bits_per_lesson": "bits that a person gave for a lesson, on average",
    "s_per_lesson": "seconds for a lesson, everything together",
}
PLAIN = ("bits_per_lesson", "s_per_lesson")
LESSON_HEADS = ("prompt", "wanted", "before", "data layer alone", "with memory", "memory alone",
                "other wordings", "")  # fmt: skip
LOST_HEADS = ("prompt", "before", "now")
MOST_ROWS = 500  # of lessons on the page; all are in taught.json


def figure_rows(taught: dict[str, Any]) -> Iterable[Sequence[str]]:
    """Name, value and meaning of every figure that there is."""
    for name, meaning in MEANING.items():
        if (value := taught["figures"].get(name)) is not None:
            yield name, f"{value:.2f}" if name in PLAIN else f"{value:.1%}", meaning


def lesson_rows(taught: dict[str, Any], limit: int = MOST_ROWS) -> Iterable[Sequence[str]]:
    """Each lesson: what was wanted, what was said before and is said now; those that were not
    taught first.
    """
    worst_first = sorted(taught["lessons"], key=lambda one: "own" in one["right"])
    for one in worst_first[:limit]:
        words = f"{one['reworded_right']}/{one['reworded']}" if one["reworded"] else ABSENT
        yield (f"{one['prompt']} …", one["answer"], one["before"], one["own"], one["help"],
               one["memory"], words, one["state"])  # fmt: skip


def lost_rows(taught: dict[str, Any], name: str) -> list[Sequence[str]]:
    """Answers that were not to change: `lost`, `lost_neighbours` or `memory_lost`."""
    return [(f"{one['prompt']} …", one["before"], one["now"]) for one in taught[name]]


def subtitle(taught: dict[str, Any]) -> str:
    """What was taught to which run, in one sentence."""
    figures = taught["figures"]
    known = f", {taught['known']} known before" if taught.get("known") else ""
    several = "" if figures["lessons"] == 1 else "s"
    return (
        f"{figures['lessons']:.0f} lesson{several} to {taught.get('run', 'a run')}{known}, "
        f"{figures['bits'] or 0:.0f} bits given, {taught['seconds']:.0f} s; "
        f"{taught['reflected']['reason']}"
    )


def taught_page(taught: dict[str, Any], config: Config, metrics: Metrics) -> str:
    """The page as HTML; needs nothing but a browser."""
    shown = [(value, meaning) for _, value, meaning in figure_rows(taught)]
    return render(
        "taught.html",
        title=f"Tandem: {config.name}",
        heading=f"{config.name}: what was taught",
        sub=subtitle(taught),
        cards=[(value, label, False) for value, label in shown],
        lesson_heads=LESSON_HEADS,
        lessons=list(lesson_rows(taught)),
        num_lessons=len(taught["lessons"]),
        lost_heads=LOST_HEADS,
        lost=[
            (title, lost_rows(taught, name))
            for title, name in (
                ("Answers of the data layer that were lost", "lost"),
                ("Neighbours that were lost", "lost_neighbours"),
                ("Answers of the memory that were lost", "memory_lost"),
            )
            if taught[name]
        ],
        plots=teaching_plots(metrics),
        config=config.to_yaml(),
    )
