"""Progress of a command that takes longer than a glance: what it does, how far it is, time left.

On a terminal one line that is redrawn and gone at the end; elsewhere a plain line every ten
seconds, so that a short command says nothing. On standard error, so that results can be piped. A
run has its own view, `ProgressView`.
"""

from __future__ import annotations

import time

from rich.console import RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table

from actors.formats import clock
from orchestrator.console import Console, plain
from orchestrator.reporting.live_view import LiveView

LINE_EVERY_S = 10.0
BAR_WIDTH = 32


class TaskProgress(LiveView):
    """Shows a task's stages, one at a time; called as `actors.machine.progress.Progress`.

    Args:
        console: where; default: standard error.
        line_every_s: between two lines where nothing is redrawn.
    """

    def __init__(self, console: Console | None = None, line_every_s: float = LINE_EVERY_S) -> None:
        super().__init__(console or Console(stderr=True), 4, line_every_s, transient=True)
        self._began = self._stage_began = time.monotonic()
        self._what = "starting"
        self._done = self._done_before = 0
        self._total: int | None = None

    def __call__(self, what: str, done: int = 0, total: int | None = None) -> None:
        """What is done now, and how far it is."""
        if what != self._what:
            self._what, self._stage_began, self._done_before = what, time.monotonic(), done
        self._done, self._total = done, total

    def says(self, text: str) -> None:
        """A line that stays."""
        self._print(text)

    def _left_s(self) -> float | None:
        total, done = self._total, self._done - self._done_before
        if total is None or done <= 0 or self._done > total:
            return None
        return (time.monotonic() - self._stage_began) / done * (total - self._done)

    def _line(self) -> str:
        parts = [f"[{time.monotonic() - self._began:6.1f} s] {self._what}"]
        if self._total is not None:
            parts.append(f"{self._done:,}/{self._total:,}")
        if (left := self._left_s()) is not None:
            parts.append(f"{clock(left)} left")
        return " · ".join(parts)

    def _beat(self) -> None:
        self._print(self._line())

    def _render(self) -> RenderableType:
        row = Table.grid(padding=(0, 1))
        bar = [ProgressBar(total=self._total, completed=self._done, width=BAR_WIDTH)]
        row.add_row(*(bar if self._total else []), plain(self._line()))
        return row
