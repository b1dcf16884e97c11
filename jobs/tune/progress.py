"""What a person sees while a search runs: trials by state, the best so far with its values, and how
much time is left. Called by `tune`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from jobs.tune.results import (
    FAILED,
    FINISHED,
    RUNNING,
    STOPPED,
    TrialResult,
    pareto_front,
)
from jobs.tune.spec import Search
from orchestrator.console import Console, plain
from orchestrator.reporting.live_view import LiveView

SHOWN = 12  # trials in the live view: those that run, and the newest


class SearchProgress(LiveView):
    """A live table on a terminal, a line per event without one.

    Args:
        search: shown.
        console: where; its `is_terminal` decides.
        before: results of an earlier start.
    """

    def __init__(self, search: Search, console: Console, before: Sequence[TrialResult]) -> None:
        super().__init__(console, refreshes=2)
        self._search = search
        self._began = time.monotonic()
        self._results = {result.number: result for result in before}
        self._news_at: dict[int, float] = {}  # when a running trial was last heard of
        self._over_before = sum(result.is_over for result in before)

    def event(self, what: str, result: TrialResult) -> None:
        """Something happened to a trial."""
        self._results[result.number] = result
        self._news_at[result.number] = time.monotonic()
        if self._is_live or what in ("measured", "ended"):
            return
        line = f"trial {result.name} {what}"
        if result.status == RUNNING:
            line += f": {shown_values(result.values)}"
        elif result.figures:
            line += f" after interval {result.interval}: {self._figures(result.figures)}"
        if result.status != RUNNING:
            line += f" · {self._counts()}"
        self._say(line)

    def warning(self, message: str) -> None:
        """Something that the search survives."""
        self._say(f"warning: {message}")

    def _say(self, text: str) -> None:
        gone = time.monotonic() - self._began
        line = text if self._is_live else f"[{gone:7.1f} s] {text}"
        self._print(line)

    def _figures(self, figures: Mapping[str, float]) -> str:
        names = [goal.figure for goal in self._search.spec.goals]
        return "  ".join(f"{name} {shown(figures.get(name))}" for name in names)

    def _counts(self) -> str:
        states = [result.status for result in self._results.values()]
        total = self._search.num_trials
        done = sum(state != RUNNING for state in states)
        parts = [f"{done} of {total} done", f"{states.count(RUNNING)} running"]
        for state in (STOPPED, FAILED):
            if count := states.count(state):
                parts.append(f"{count} {state}")
        return ", ".join(parts) + self._time_left(done, total)

    def _time_left(self, done: int, total: int) -> str:
        now = done - self._over_before
        if now <= 0 or done == total:
            return ""
        gone = time.monotonic() - self._began
        return f" · {clock(gone)} gone, about {clock(gone / now * (total - done))} left"

    def _best(self) -> str:
        goals = self._search.spec.goals
        front = pareto_front(list(self._results.values()), goals)
        if not front:
            return "best so far: none has come to its end yet"
        best = front[0]
        title = "best so far" if len(goals) == 1 else f"first of {len(front)} on the front so far"
        return f"{title}: {best.name}, {self._figures(best.figures)}\n  {shown_values(best.values)}"

    def _render(self) -> Group:
        spec = self._search.spec
        if not self._results:
            return Group(plain(f"tandem tune · {spec.name}: the first trials are starting"))
        title = plain(f"tandem tune · {spec.name}", "table.title")
        table = Table(title=title, title_justify="left")
        names = [goal.figure for goal in spec.goals]
        folded = [name.replace(".", ".\n") for name in names]  # so that three fit in 80 columns
        for heading in ("trial", "state", "interval", "time", *folded):
            table.add_column(heading, justify="left" if heading in ("trial", "state") else "right")
        for result in self._newest():
            table.add_row(
                result.name,
                Text(result.status, COLORS[result.status]),
                f"{result.interval}/{self._search.base.intervals}",
                clock(self._seconds(result)),
                *(shown(result.figures.get(name)) for name in names),
            )
        return Group(table, plain(self._counts()), plain(self._best()))

    def _seconds(self, result: TrialResult) -> float:
        if result.status != RUNNING or result.number not in self._news_at:
            return result.seconds
        return result.seconds + time.monotonic() - self._news_at[result.number]

    def _newest(self) -> list[TrialResult]:
        running = [r for r in self._results.values() if r.status == RUNNING][:SHOWN]
        others = [r for r in self._results.values() if r.status != RUNNING]
        room = SHOWN - len(running)
        newest = sorted(others, key=_number)[-room:] if room else []
        return sorted([*running, *newest], key=_number)


def _number(result: TrialResult) -> int:
    return result.number


COLORS = {RUNNING: "cyan", FINISHED: "green", STOPPED: "yellow", FAILED: "red"}


def shown(value: Any) -> str:
    """A figure or a value for people."""
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def shown_values(values: Mapping[str, Any]) -> str:
    """What a trial sets, in one line."""
    return ", ".join(f"{name}={shown(value)}" for name, value in values.items())


def clock(seconds: float) -> str:
    """Minutes and seconds, or hours and minutes."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d}"
