"""What a search found: one result per trial; the best one, or the Pareto front. No Ray.

    trials/003.json     one result; written again with every evaluation
    trials/003/         its run; 003-1 after its first exploit (pbt), 003-s2 of its third seed

These files are the only record of a search: the same command continues from them, the points that
TPE chooses and the rungs of ASHA follow from them. Nothing is read from Tune's own files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from actors.wire import ConfigError
from jobs.tune.search import TRIALS, trial_name
from jobs.tune.space import Objective, Point, Value
from orchestrator.run_dir.run_dir import RunDir

RUNNING, FINISHED, STOPPED, FAILED = "running", "finished", "stopped early", "failed"


@dataclass(frozen=True)
class Exploit:
    """PBT's step of one trial: it went on from a better trial's checkpoint, with perturbed values.

    Attributes:
        interval: of the trial when it was replaced.
        donor: the better trial.
        values: from then on, by dotted name.
    """

    interval: int
    donor: int
    values: dict[str, Value]


@dataclass(frozen=True)
class TrialResult:
    """The result of one trial.

    Attributes:
        number: counted from 0; names its runs.
        point: the varied settings, by dotted name.
        values: the point, and the settings that follow from it by the constraints.
        status: running, finished, stopped early, or failed.
        figures: its last held-out figures.
        interval: of those.
        history: the figures of every evaluation, each with its interval.
        moves: exploits of PBT, in their order.
        seconds: of all its attempts together.
        failures: times that it failed.
        error: cause of the last failure, in one line.
    """

    number: int
    point: Point
    values: dict[str, Value]
    status: str = RUNNING
    figures: dict[str, float] = field(default_factory=dict)
    interval: int = 0
    history: tuple[dict[str, float], ...] = ()
    moves: tuple[Exploit, ...] = ()
    seconds: float = 0.0
    failures: int = 0
    error: str = ""

    @property
    def name(self) -> str:
        """The number as people see it."""
        return trial_name(self.number)

    @property
    def is_over(self) -> bool:
        """Whether it is not run again: it finished or was stopped early."""
        return self.status in (FINISHED, STOPPED)

    def at(self, interval: int) -> Mapping[str, float] | None:
        """The figures of the evaluation of that interval."""
        return next((row for row in self.history if row["interval"] == interval), None)

    def row(self) -> dict[str, Value]:
        """One row of a table."""
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
        moves = tuple(Exploit(**move) for move in values["moves"])
        return cls(**{**values, "history": tuple(values["history"]), "moves": moves})

    def to_json(self) -> str:
        """As a file's text."""
        return json.dumps(asdict(self), indent=1) + "\n"


class TrialResults:
    """The results of a search's trials by number: in memory and, written at once, as JSON files.

    Args:
        where: the search's directory.
        results: of an earlier start.
    """

    def __init__(self, where: RunDir, results: Sequence[TrialResult] = ()) -> None:
        self._where = where
        self._by_number = {result.number: result for result in results}

    @classmethod
    def read(cls, where: RunDir, num_trials: int) -> TrialResults:
        """The results that are in the files. Raises: ConfigError naming a file that is damaged."""
        found = []
        for number in range(num_trials):
            name = f"{TRIALS}/{trial_name(number)}.json"
            if where.exists(name):
                try:
                    found.append(TrialResult.from_json(where.read(name)))
                except (ValueError, KeyError, TypeError) as err:
                    raise ConfigError(
                        f"{where.path(name)}: not a trial's result: {err}; remove it to run that "
                        "trial again"
                    ) from err
        return cls(where, found)

    @property
    def all(self) -> list[TrialResult]:
        """All results so far, by number."""
        return [self._by_number[number] for number in sorted(self._by_number)]

    @property
    def num_over(self) -> int:
        """Trials that are not run again."""
        return sum(result.is_over for result in self.all)

    def get(self, number: int) -> TrialResult | None:
        """The result of a trial, if it was begun."""
        return self._by_number.get(number)

    def keep(self, result: TrialResult) -> None:
        """Keeps a result. Raises: ConfigError, StorageError where its file can't be written; in
        memory it is kept all the same.
        """
        self._by_number[result.number] = result
        self._where.write(f"{TRIALS}/{result.name}.json", result.to_json())


def cell(value: Value) -> Value:
    """A value as a column of a table can hold it."""
    return value if isinstance(value, bool | int | float | str) else json.dumps(value)


def table_rows(results: Sequence[TrialResult]) -> list[dict[str, Value]]:
    """All results as rows whose columns each hold values of one kind."""
    rows = [result.row() for result in results]
    for name in dict.fromkeys(name for row in rows for name in row):
        kinds = {type(row[name]) for row in rows if name in row}
        if len(kinds) > 1 and not kinds <= {int, float}:
            for row in rows:
                row[name] = str(row[name]) if name in row else None
    return rows


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
        comparable = [r for r, own in zip(results, measured, strict=True) if interval in own]
        if 3 * len(comparable) >= 2 * len(results):
            return interval, comparable
    return 0, []
