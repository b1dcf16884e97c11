"""Keeps what a search's trials come to, as Tune tells of it: in memory, and as a file per trial.

A file that can't be written is a warning; it is written again with the trial's next news. Called by
`tune`.
"""

from __future__ import annotations

import pickle
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.tune import Callback

from actors.wire import ConfigError, StorageError, one_line
from jobs.tune.results import (
    FAILED,
    FINISHED,
    RUNNING,
    STOPPED,
    Move,
    TrialResult,
    write_result,
)
from jobs.tune.spec import Search
from jobs.tune.trial import DONOR, FINAL, GENERATION, GIVEN, INTERVAL, NUMBER, POINT
from orchestrator.errors import root_cause
from orchestrator.run_dir.run_dir import RunDir

FIGURES = ("heldout.", "accuracy.", "spread.")
ANSI = re.compile(r"\x1b\[[0-9;]*m")  # Ray colours what it writes
NO_CAUSE = "Ray Tune kept no cause; see the trial's run directory"


class SearchRecord(Callback):  # type: ignore[misc]
    """Results by number, and who is told of each change.

    Args:
        search: the trials are of.
        where: its directory.
        before: results of an earlier start.
        told: what happened to a trial, in a word or a sentence, and its result now.
        warn: told about files that could not be written.
    """

    def __init__(
        self,
        search: Search,
        where: RunDir,
        before: Sequence[TrialResult],
        told: Callable[[str, TrialResult], None],
        warn: Callable[[str], None],
    ) -> None:
        self._search, self._where, self._told, self._warn = search, where, told, warn
        self._results = {result.number: result for result in before}
        self._began: dict[int, float] = {}  # when a trial's present try started
        self._spent: dict[int, float] = {}  # seconds of the tries before it

    def __getstate__(self) -> dict[str, Any]:
        """Tune keeps its callbacks with its state, which a search never goes on from."""
        return {}

    @property
    def results(self) -> list[TrialResult]:
        """All trials so far, by number."""
        return [self._results[number] for number in sorted(self._results)]

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process is there: for the first time, again, or with other values."""
        given = trial.config[GIVEN]
        number, point = given[NUMBER], given[POINT]
        values = self._search.values(point)
        known = self._results.get(number, TrialResult(number, point, values))
        self._began[number], self._spent[number] = time.monotonic(), known.seconds
        if given.get(GENERATION, 0) > len(known.moves):
            move = Move(known.interval, given[DONOR], values)
            known = replace(known, point=point, values=values, moves=(*known.moves, move))
            what = f"goes on from {given[DONOR]:03d}"
        else:
            what = "goes on" if number in self._results else "starts"
        self._keep(what, replace(known, status=RUNNING))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial measured itself."""
        known = self._result(trial)
        figures = {
            name: float(value)
            for name, value in result.items()
            if name.startswith(FIGURES) and isinstance(value, float)
        }
        interval = int(result[INTERVAL])
        seconds = self._seconds(known.number)
        row = {**figures, INTERVAL: interval, "seconds": round(seconds, 3)}
        before = tuple(r for r in known.history if r[INTERVAL] < interval)  # a retry measures again
        self._keep(
            "ended" if result[FINAL] else "measured",
            replace(
                known,
                figures=figures,
                interval=interval,
                history=(*before, row),
                seconds=seconds,
                status=FINISHED if result[FINAL] else RUNNING,
            ),
        )

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial came to its end, or was stopped early."""
        known = self._result(trial)
        status = FINISHED if known.status == FINISHED else STOPPED
        self._keep(status, replace(known, status=status, seconds=self._seconds(known.number)))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial failed and is tried again."""
        self._fail(trial, RUNNING, "failed and is tried again")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial failed for good."""
        self._fail(trial, FAILED, FAILED)

    def _fail(self, trial: Any, status: str, what: str) -> None:
        known = self._result(trial)
        failed = replace(
            known,
            status=status,
            failures=known.failures + 1,
            error=cause_of(trial),
            seconds=self._seconds(known.number),
        )
        self._keep(f"{what}: {failed.error}", failed)

    def _result(self, trial: Any) -> TrialResult:
        given = trial.config[GIVEN]
        fresh = TrialResult(given[NUMBER], given[POINT], self._search.values(given[POINT]))
        return self._results.get(given[NUMBER], fresh)

    def _seconds(self, number: int) -> float:
        began = self._began.get(number)
        gone = time.monotonic() - began if began is not None else 0.0
        return self._spent.get(number, 0.0) + gone

    def _keep(self, what: str, result: TrialResult) -> None:
        self._results[result.number] = result
        try:
            write_result(self._where, result)
        except (ConfigError, StorageError) as err:
            self._warn(f"{err}; the search goes on, and it is written again with the trial's news")
        self._told(what, result)


def cause_of(trial: Any) -> str:
    """What a trial failed with last, in one line, without the calls that led there.

    From the files that Tune has just written for it on this machine. What Tune offers itself reads
    the trial's storage, to which they are copied later or never.
    """
    text = ANSI.sub("", _read(trial.error_file).decode("utf-8", "replace"))
    newest = text.rpartition("Failure # ")[2].partition("\n")[2]
    error = _unpickled(_read(trial.pickled_error_file))
    # An error that is none of Ray's has no pickle, and the one there is of an earlier failure.
    if error is not None and ANSI.sub("", str(error)).strip() == newest.strip():
        return one_line(root_cause(error))
    lines = newest.strip().splitlines()
    return lines[-1].strip() if lines else NO_CAUSE


def _read(path: str | None) -> bytes:
    """A file's bytes; none where there is no such file."""
    try:
        return Path(path).read_bytes() if path else b""
    except FileNotFoundError:
        return b""


def _unpickled(data: bytes) -> BaseException | None:
    """The error; None where it can't be read, as one of a package that is not installed here."""
    try:
        error = cloudpickle.loads(data)
    except (pickle.UnpicklingError, EOFError, ImportError, AttributeError, TypeError, ValueError):
        return None
    return error if isinstance(error, BaseException) else None
