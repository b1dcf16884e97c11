"""What a search found: one result per trial, kept as a small JSON file from its first moment on, so
that a search goes on where it was; the best one, or the Pareto front. Knows files, no Ray.

    trials/003.json     this; written again with every evaluation
    trials/003/         its run; 003-1 after its first move (pbt), 003-s2 of its third seed
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from actors.wire import ConfigError
from jobs.tune.space import Point
from jobs.tune.spec import Objective
from orchestrator.run_dir.run_dir import RunDir

RUNNING, FINISHED, STOPPED, FAILED = "running", "finished", "stopped early", "failed"
TRIALS = "trials"


@dataclass(frozen=True)
class Move:
    """A pair that went on from another trial's checkpoint, with other values.

    Attributes:
        interval: of the trial when it was moved.
        donor: the other trial.
        values: from then on, by dotted name.
    """

    interval: int
    donor: int
    values: dict[str, Any]


@dataclass(frozen=True)
class TrialResult:
    """One trial.

    Attributes:
        number: counted from 0; names its runs.
        point: what was varied, by dotted name.
        values: all that it sets: the point, and what follows from it.
        status: running, finished, stopped early, or failed.
        figures: its last held-out figures.
        interval: of those.
        history: the figures of every evaluation, each with its interval.
        moves: of a population's member.
        seconds: it took, over all its tries.
        failures: times that it failed.
        error: what went wrong last, in one line.
    """

    number: int
    point: Point
    values: dict[str, Any]
    status: str = RUNNING
    figures: dict[str, float] = field(default_factory=dict)
    interval: int = 0
    history: tuple[dict[str, float], ...] = ()
    moves: tuple[Move, ...] = ()
    seconds: float = 0.0
    failures: int = 0
    error: str = ""

    @property
    def name(self) -> str:
        """As people see it."""
        return f"{self.number:03d}"

    @property
    def is_over(self) -> bool:
        """Whether it is not run again: it came to its end, or was stopped early."""
        return self.status in (FINISHED, STOPPED)

    def at(self, interval: int) -> Mapping[str, float] | None:
        """The figures of the evaluation of that interval."""
        return next((row for row in self.history if row["interval"] == interval), None)

    def row(self) -> dict[str, Any]:
        """As one row of a table."""
        about = {
            "trial": self.name,
            "status": self.status,
            "interval": self.interval,
            "seconds": self.seconds,
            "failures": self.failures,
            "moves": len(self.moves),
        }
        values = {f"config.{name}": cell(value) for name, value in self.values.items()}
        return {**about, **values, **self.figures, "error": self.error}

    @classmethod
    def from_json(cls, text: str) -> TrialResult:
        """Reads what `to_json` wrote. Raises: ValueError, KeyError, TypeError."""
        values = json.loads(text)
        moves = tuple(Move(**move) for move in values["moves"])
        return cls(**{**values, "history": tuple(values["history"]), "moves": moves})

    def to_json(self) -> str:
        """As a file's text."""
        return json.dumps(asdict(self), indent=1) + "\n"


def cell(value: Any) -> Any:
    """A value as a column of a table can hold it."""
    return value if isinstance(value, bool | int | float | str) else json.dumps(value)


def table_rows(results: Sequence[TrialResult]) -> list[dict[str, Any]]:
    """All results as rows whose columns each hold values of one kind."""
    rows = [result.row() for result in results]
    for name in dict.fromkeys(name for row in rows for name in row):
        kinds = {type(row[name]) for row in rows if name in row}
        if len(kinds) > 1 and not kinds <= {int, float}:
            for row in rows:
                row[name] = str(row[name]) if name in row else None
    return rows


def write_result(where: RunDir, result: TrialResult) -> None:
    """Keeps a result. Raises: ConfigError where the storage can't be written."""
    where.write(f"{TRIALS}/{result.name}.json", result.to_json())


def read_results(where: RunDir, num_trials: int) -> list[TrialResult]:
    """The results that were kept, by number. Raises: ConfigError naming a file that is none."""
    found = []
    for number in range(num_trials):
        name = f"{TRIALS}/{number:03d}.json"
        if where.exists(name):
            try:
                found.append(TrialResult.from_json(where.read(name)))
            except (ValueError, KeyError, TypeError) as err:
                raise ConfigError(
                    f"{where.path(name)}: not a trial's result: {err}; remove it to run that trial "
                    "again"
                ) from err
    return found


def loss_of(figures: Mapping[str, float], goal: Objective) -> float:
    """The figure with its sign such that less is better; infinite where it is missing."""
    value = figures.get(goal.figure, math.nan)
    if math.isnan(value):
        return math.inf
    return value if goal.goal == "min" else -value


def pareto_front(results: Sequence[TrialResult], goals: Sequence[Objective]) -> list[TrialResult]:
    """Finished trials of which no other is better in one figure and as good in all others; ordered
    by the first. With one objective: the best.
    """
    able = [r for r in results if r.status == FINISHED]
    points = {r.number: tuple(loss_of(r.figures, goal) for goal in goals) for r in able}
    front = [
        result
        for result in able
        if all(map(math.isfinite, points[result.number]))
        and not any(_dominates(points[o.number], points[result.number]) for o in able)
    ]
    return sorted(front, key=lambda r: (points[r.number], r.number))


def _dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and tuple(a) != tuple(b)


def latest_common(results: Sequence[TrialResult]) -> tuple[int, list[TrialResult]]:
    """The latest interval at which at least two thirds of the trials were measured, and those:
    figures of trials that were stopped early compare with others' there only.
    """
    measured = [{int(row["interval"]) for row in r.history} for r in results]
    intervals = sorted(set().union(*measured)) if measured else []
    for interval in reversed(intervals):
        there = [r for r, own in zip(results, measured, strict=True) if interval in own]
        if 3 * len(there) >= 2 * len(results):
            return interval, there
    return 0, []
