"""What listens to Ray Tune while a search runs: the results, and trackers.

    Tune's loop -> ResultsCallback -> trials/003.json, the live view
                -> Relayed (a queue) -> a thread per tracker -> Tune's own callback -> TensorBoard,
                                                                MLflow, Weights & Biases

A tracker that is slow or away never delays the search: its thread waits, and what fails there is
one warning.
"""

from __future__ import annotations

import copy
import os
import pickle
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.tune import Callback
from ray.tune.experiment import Trial

from actors.formats import first_line
from actors.wire import ConfigError, StorageError, one_line
from jobs.tune.results import (
    FAILED,
    FINISHED,
    RUNNING,
    STOPPED,
    Exploit,
    TrialResult,
    TrialResults,
)
from jobs.tune.search import (
    ASSIGNMENT,
    FINAL,
    INTERVAL,
    SPREAD,
    Assignment,
    Search,
    SearchTrackers,
)
from orchestrator.errors import root_cause

FIGURES = ("heldout.", "accuracy.", f"{SPREAD}.")
ANSI = re.compile(r"\x1b\[[0-9;]*m")  # Ray colours what it writes
NO_CAUSE = "Ray Tune kept no cause; see the trial's run directory"
TENSORBOARD, MLFLOW, WANDB = "tensorboard", "mlflow", "wandb"


class ResultsCallback(Callback):  # type: ignore[misc]
    """Turns Tune's events into results, and reports each change.

    Args:
        search: the trials are of.
        results: where they are kept.
        on_change: called with a description of each event, a word or a sentence, and the result.
        warn: called with a warning about a file that could not be written.
    """

    def __init__(
        self,
        search: Search,
        results: TrialResults,
        on_change: Callable[[str, TrialResult], None],
        warn: Callable[[str], None],
    ) -> None:
        self._search, self._results = search, results
        self._on_change, self._warn = on_change, warn
        self._began: dict[int, float] = {}  # when a trial's present attempt started
        self._spent: dict[int, float] = {}  # seconds of the attempts before it

    def __getstate__(self) -> dict[str, object]:
        """Tune pickles its callbacks with its own state, which is never read."""
        return {}

    def on_trial_start(self, trial: Trial, **info: object) -> None:
        """A trial's process has started: for the first time, again, or after an exploit."""
        assignment: Assignment = trial.config[ASSIGNMENT]
        what = "goes on" if self._results.get(assignment["number"]) else "starts"
        known = self._result(trial)
        self._began[known.number], self._spent[known.number] = time.monotonic(), known.seconds
        if assignment.get("generation", 0) > len(known.moves):
            point, donor = assignment["point"], assignment["donor"]
            values = self._search.values(point)
            exploit = Exploit(known.interval, donor, values)
            known = replace(known, point=point, values=values, moves=(*known.moves, exploit))
            what = f"goes on from {donor:03d}"
        self._keep(what, replace(known, status=RUNNING))

    def on_trial_result(self, trial: Trial, result: dict[str, Any], **info: object) -> None:
        """A trial reported its figures."""
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

    def on_trial_complete(self, trial: Trial, **info: object) -> None:
        """A trial finished or was stopped early."""
        known = self._result(trial)
        status = FINISHED if known.status == FINISHED else STOPPED
        self._keep(status, replace(known, status=status, seconds=self._seconds(known.number)))

    def on_trial_recover(self, trial: Trial, **info: object) -> None:
        """A trial failed and is tried again."""
        self._fail(trial, RUNNING, "failed and is tried again")

    def on_trial_error(self, trial: Trial, **info: object) -> None:
        """A trial failed for good."""
        self._fail(trial, FAILED, FAILED)

    def _fail(self, trial: Trial, status: str, what: str) -> None:
        known = self._result(trial)
        failed = replace(
            known,
            status=status,
            failures=known.failures + 1,
            error=cause_of(trial),
            seconds=self._seconds(known.number),
        )
        self._keep(f"{what}: {failed.error}", failed)

    def _result(self, trial: Trial) -> TrialResult:
        assignment: Assignment = trial.config[ASSIGNMENT]
        number, point = assignment["number"], assignment["point"]
        known = self._results.get(number)
        return known or TrialResult(number, point, self._search.values(point))

    def _seconds(self, number: int) -> float:
        began = self._began.get(number)
        gone = time.monotonic() - began if began is not None else 0.0
        return self._spent.get(number, 0.0) + gone

    def _keep(self, what: str, result: TrialResult) -> None:
        try:
            self._results.keep(result)
        except (ConfigError, StorageError) as err:
            self._warn(f"{err}; the search goes on, and it is written again with the trial's news")
        self._on_change(what, result)


def cause_of(trial: Trial) -> str:
    """Cause of a trial's last failure in one line, without the traceback.

    From the files that Tune has just written on this machine. Tune's own accessor reads the trial's
    storage, to which they are copied later or never.
    """
    text = ANSI.sub("", _read(trial.error_file).decode("utf-8", "replace"))
    newest = text.rpartition("Failure # ")[2].partition("\n")[2]
    error = _unpickled(_read(trial.pickled_error_file))
    # Only Ray's own errors are pickled: the pickle may be of an earlier failure.
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


@contextmanager
def tracker_callbacks(search: Search, warn: Callable[[str], None]) -> Iterator[list[Callback]]:
    """Callbacks for Tune, one per tracker of the search; closed with the block.

    Args:
        search: whose trackers.
        warn: called once for each tracker that fails.
    """
    limit_s = search.spec.trackers.timeout_s
    relayed = [Relayed(name, make, limit_s, warn) for name, make in _makers(search)]
    try:
        yield list(relayed)
    finally:
        for one in relayed:
            one.close()


def _makers(search: Search) -> list[tuple[str, Callable[[], Callback]]]:
    """The trackers of the search, each with a function that makes Tune's callback for it."""
    trackers, makers = search.spec.trackers, []
    if trackers.tensorboard:
        makers.append((TENSORBOARD, _tensorboard))
    if trackers.mlflow is not None:
        makers.append((MLFLOW, lambda: _mlflow(trackers)))
    if trackers.wandb is not None:
        makers.append((WANDB, lambda: _wandb(search)))
    return makers


def _tensorboard() -> Callback:
    from ray.tune.logger import TBXLoggerCallback

    return TBXLoggerCallback()


def _mlflow(trackers: SearchTrackers) -> Callback:
    # Only environment variables set its time-out; values that the user set stay.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(max(1, int(trackers.timeout_s))))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    return MLflowLoggerCallback(
        tracking_uri=trackers.mlflow, experiment_name=trackers.mlflow_experiment
    )


def _wandb(search: Search) -> Callback:
    from ray.air.integrations.wandb import WandbLoggerCallback

    trackers = search.spec.trackers
    assert trackers.wandb is not None
    entity, _, project = trackers.wandb.rpartition("/")
    owner = {"entity": entity} if entity else {}
    limit_s = int(trackers.timeout_s)
    return WandbLoggerCallback(
        project=project, group=search.spec.name, upload_timeout=limit_s, **owner
    )


class Relayed(Callback):  # type: ignore[misc]
    """One of Tune's callbacks on a thread of its own.

    Args:
        name: of the tracker.
        make: makes the callback; called on that thread.
        timeout_s: longest that `close` waits for what is still queued.
        warn: called once when it fails; nothing more is sent to it.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Callback],
        timeout_s: float,
        warn: Callable[[str], None],
    ) -> None:
        self._name, self._make, self._timeout_s, self._warn = name, make, timeout_s, warn
        self._queue: queue.SimpleQueue[tuple[str, dict[str, object]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"{name} of trials", daemon=True)
        self._thread.start()

    def __getstate__(self) -> dict[str, object]:
        """Tune pickles its callbacks with its own state, which is never read."""
        return {}

    def close(self) -> None:
        """Sends what is still queued; gives up after the time-out, with a warning."""
        self._queue.put(None)
        self._thread.join(self._timeout_s)
        if self._thread.is_alive():
            self._warn(
                f"trackers.{self._name}: did not take all figures within {self._timeout_s:g} s of "
                "the search's end and was given up; raise trackers.timeout_s, or look at its server"
            )

    def setup(
        self,
        stop: object = None,
        num_samples: object = None,
        total_num_samples: object = None,
        **info: object,
    ) -> None:
        """The search starts."""
        self._pass("setup", info)

    def on_trial_start(self, trial: Trial, **info: object) -> None:
        """A trial's process has started."""
        self._pass("on_trial_start", {"trial": trial})

    def on_trial_result(self, trial: Trial, result: dict[str, Any], **info: object) -> None:
        """A trial reported its figures."""
        self._pass("on_trial_result", {"trial": trial, "result": copy.copy(result)})

    def on_trial_complete(self, trial: Trial, **info: object) -> None:
        """A trial finished or was stopped early."""
        self._pass("on_trial_complete", {"trial": trial})

    def on_trial_error(self, trial: Trial, **info: object) -> None:
        """A trial failed for good."""
        self._pass("on_trial_error", {"trial": trial})

    def on_experiment_end(self, **info: object) -> None:
        """The search ended."""
        self._pass("on_experiment_end", info)

    def _pass(self, hook: str, arguments: dict[str, object]) -> None:
        self._queue.put((hook, arguments))

    def _work(self) -> None:
        try:
            callback = self._make()
            while (item := self._queue.get()) is not None:
                hook, arguments = item
                of_trial = hook.startswith("on_trial")
                position = {"iteration": 0, "trials": []} if of_trial else {}
                getattr(callback, hook)(**position, **arguments)
        except BaseException as err:  # whatever a tracker's library raises is a warning
            self._warn(
                f"trackers.{self._name}: {first_line(err)}; the search goes on without it, "
                "and its own files hold all figures"
            )
