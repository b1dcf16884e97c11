"""What `tandem teach` prints: lessons of a dry run, and what became of those that were taught."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from actors.lessons.lesson import Lesson
from orchestrator.console import Console
from orchestrator.reporting.taught_report import figure_rows, lesson_rows, lost_rows, subtitle

SHOWN = 8  # lessons and lost answers in the terminal


def print_lessons(lessons: Sequence[Lesson], console: Console, as_json: bool) -> None:
    """Prints lessons that would be taught, as a file of them or as a table."""
    if as_json:
        rows = [{"prompt": one.prompt, "answer": one.answer} for one in lessons]
        console.print_json(json.dumps(rows))
        return
    table = Table(title=f"what would be taught ({len(lessons)})", title_justify="left")
    for heading in ("prompt", "answer"):
        table.add_column(heading, overflow="fold")
    for one in lessons:
        table.add_row(f"{one.prompt} …", one.answer)
    console.print(table)


def print_taught(taught: dict[str, Any], console: Console) -> None:
    """Prints the figures, some of the lessons, and what was lost."""
    console.say(subtitle(taught))
    figures = Table(title="what teaching did", title_justify="left")
    for heading in ("figure", "value", "what it says"):
        figures.add_column(heading, justify="right" if heading == "value" else "left")
    for row in figure_rows(taught):
        figures.add_row(*row)
    console.print(figures)
    missed = [one for one in taught["lessons"] if "own" not in one["right"]]
    if missed:
        table = Table(title=f"lessons not taught ({len(missed)})", title_justify="left")
        for heading in ("prompt", "wanted", "before", "data layer alone"):
            table.add_column(heading, overflow="fold")
        for row in lesson_rows(taught, min(SHOWN, len(missed))):
            table.add_row(*row[:4])
        console.print(table)
    if lost := lost_rows(taught, "lost")[:SHOWN]:
        table = Table(title="answers that were lost, some", title_justify="left")
        for heading in ("prompt", "before", "now"):
            table.add_column(heading, overflow="fold")
        for row in lost:
            table.add_row(*row)
        console.print(table)
