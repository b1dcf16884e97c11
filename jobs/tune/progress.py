"""What a search prints: while it runs, trials by state, the best so far with its values, and the
time left; at its end the best trials.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from jobs.tune.results import (
    FAILED,
    FINISHED,
    RUNNING,
    STOPPED,
    TrialResult,
    TrialResults,
    pareto_front,
)
from jobs.tune.search import BEST, PARETO, Search
from jobs.tune.space import Value
from orchestrator.console import Console, plain
from orchestrator.reporting.live_view import LiveView
from orchestrator.settings.file_names import REPORT

SHOWN = 12  # trials in the live view: those that run, and the newest
COLUMNS = 5  # trials of the front in the last table


class SearchProgress(LiveView):
    """A live table on a terminal, a line per event without one.

    Args:
        search: that is shown.
        console: where; its `is_terminal` decides.
        results: of the trials; those of an earlier start and those that come in.
    """

    def __init__(self, search: Search, console: Console, results: TrialResults) -> None:
        super().__init__(console, refreshes=2)
        self._search, self._results = search, results
        self._began = time.monotonic()
        self._changed_at: dict[int, float] = {}  # when a trial's result was last updated
        self._num_over_before = results.num_over

    def event(self, what: str, result: TrialResult) -> None:
        """Shows an event of a trial; its result is kept already."""
        self._changed_at[result.number] = time.monotonic()
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
        states = [result.status for result in self._results.all]
        total = self._search.num_trials
        done = sum(state != RUNNING for state in states)
        parts = [f"{done} of {total} done", f"{states.count(RUNNING)} running"]
        for state in (STOPPED, FAILED):
            if count := states.count(state):
                parts.append(f"{count} {state}")
        return ", ".join(parts) + self._time_left(done, total)

    def _time_left(self, done: int, total: int) -> str:
        now = done - self._num_over_before
        if now <= 0 or done == total:
            return ""
        gone = time.monotonic() - self._began
        return f" · {clock(gone)} gone, about {clock(gone / now * (total - done))} left"

    def _best(self) -> str:
        goals = self._search.spec.goals
        front = pareto_front(self._results.all, goals)
        if not front:
            return "best so far: none has come to its end yet"
        best = front[0]
        title = "best so far" if len(goals) == 1 else f"first of {len(front)} on the front so far"
        return f"{title}: {best.name}, {self._figures(best.figures)}\n  {shown_values(best.values)}"

    def _render(self) -> Group:
        spec = self._search.spec
        if not self._results.all:
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
        if result.status != RUNNING or result.number not in self._changed_at:
            return result.seconds
        return result.seconds + time.monotonic() - self._changed_at[result.number]

    def _newest(self) -> list[TrialResult]:
        running = [r for r in self._results.all if r.status == RUNNING][:SHOWN]
        ended = [r for r in self._results.all if r.status != RUNNING]
        room = SHOWN - len(running)
        return sorted([*running, *(ended[-room:] if room else [])], key=lambda r: r.number)


COLORS = {RUNNING: "cyan", FINISHED: "green", STOPPED: "yellow", FAILED: "red"}


def shown(value: Value) -> str:
    """A figure or a value as text."""
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def shown_values(values: Mapping[str, Value]) -> str:
    """A trial's values in one line."""
    return ", ".join(f"{name}={shown(value)}" for name, value in values.items())


def clock(seconds: float) -> str:
    """Minutes and seconds, or hours and minutes."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d}"


def print_results(
    search: Search,
    results: Sequence[TrialResult],
    best: Sequence[TrialResult],
    console: Console,
) -> None:
    """Prints how many trials ended how, and the best ones with their figures."""
    counts = {s: sum(r.status == s for r in results) for s in (FINISHED, STOPPED, FAILED)}
    console.say(f"{len(results)} trials: " + ", ".join(f"{n} {s}" for s, n in counts.items()))
    for error in sorted({r.error for r in results if r.status == FAILED}):
        console.say(f"failed: {error}", "red")
    goals = search.spec.goals
    if not best:
        console.say("no trial came to its end with all objectives", "red")
        console.say(f"report: {search.url}/{REPORT}")
        return
    console.print(_best_table([goal.figure for goal in goals], best[:COLUMNS]))
    if len(best) > COLUMNS:
        more = f"and {len(best) - COLUMNS} more on the front: {search.url}/{PARETO}.parquet"
        console.say(more)
    for what, name in (("train the best with", BEST), ("report", REPORT)):
        console.say(f"{what}: {search.url}/{name}")


def _best_table(figures: Sequence[str], best: Sequence[TrialResult]) -> Table:
    """A column per trial, since a trial may have many settings; objectives first."""
    title = "the best" if len(figures) == 1 else "the Pareto front"
    table = Table(title=title, title_justify="left")
    table.add_column("trial", overflow="fold")
    for result in best:
        table.add_column(result.name, justify="right", overflow="fold")
    for name in figures:
        table.add_row(name, *(shown(result.figures[name]) for result in best))
    table.add_section()
    for name in best[0].values:
        table.add_row(name, *(shown(result.values[name]) for result in best))
    return table
