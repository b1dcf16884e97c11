"""Sends a search's trials to TensorBoard, MLflow and Weights & Biases through Tune's own callbacks.

    Tune's loop -> Relayed (a queue) -> a thread per tracker -> Tune's callback -> the tracker

A tracker that is slow or away never holds the search up: its thread waits, and what fails there is
one warning. Called by `tune`.
"""

from __future__ import annotations

import copy
import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray.tune import Callback

from jobs.tune.spec import Search, SearchTrackers

TENSORBOARD, MLFLOW, WANDB = "tensorboard", "mlflow", "wandb"


@contextmanager
def tracker_callbacks(search: Search, warn: Callable[[str], None]) -> Iterator[list[Callback]]:
    """Callbacks for Tune, one per tracker that the search names; ended with the block.

    Args:
        search: whose trackers.
        warn: told once of each tracker that fails.
    """
    limit_s = search.spec.trackers.timeout_s
    relayed = [Relayed(name, make, limit_s, warn) for name, make in _makers(search)]
    try:
        yield list(relayed)
    finally:
        for one in relayed:
            one.close()


def _makers(search: Search) -> list[tuple[str, Callable[[], Callback]]]:
    """The trackers that the search names, each with what makes Tune's callback for it."""
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
    # The library's only way to say so; what a person set stays.
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
    named = {"entity": entity} if entity else {}
    limit_s = int(trackers.timeout_s)
    return WandbLoggerCallback(
        project=project, group=search.spec.name, upload_timeout=limit_s, **named
    )


class Relayed(Callback):  # type: ignore[misc]
    """One of Tune's callbacks on a thread of its own.

    Args:
        name: of the tracker.
        make: makes the callback, on that thread.
        timeout_s: longest that `close` waits for what is left.
        warn: told once when it fails; then the tracker is left alone.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Callback],
        timeout_s: float,
        warn: Callable[[str], None],
    ) -> None:
        self._name, self._make, self._timeout_s, self._warn = name, make, timeout_s, warn
        self._queue: queue.SimpleQueue[tuple[str, dict[str, Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"{name} of trials", daemon=True)
        self._thread.start()

    def __getstate__(self) -> dict[str, Any]:
        """Tune keeps its callbacks with its state, which a search never goes on from."""
        return {}

    def close(self) -> None:
        """Passes what is left on; gives up after the time-out, with a warning."""
        self._queue.put(None)
        self._thread.join(self._timeout_s)
        if self._thread.is_alive():
            self._warn(
                f"trackers.{self._name}: did not take all figures within {self._timeout_s:g} s of "
                "the search's end and was given up; raise trackers.timeout_s, or look at its server"
            )

    def setup(self, stop: Any = None, num_samples: Any = None, total_num_samples: Any = None,
              **info: Any) -> None:  # fmt: skip
        """The search starts."""
        self._pass("setup", info)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process is there."""
        self._pass("on_trial_start", {"trial": trial})

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial measured itself."""
        self._pass("on_trial_result", {"trial": trial, "result": copy.copy(result)})

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial came to its end, or was stopped early."""
        self._pass("on_trial_complete", {"trial": trial})

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial failed for good."""
        self._pass("on_trial_error", {"trial": trial})

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """The search ended."""
        self._pass("on_experiment_end", {"trials": trials})

    def _pass(self, hook: str, given: dict[str, Any]) -> None:
        self._queue.put((hook, given))

    def _work(self) -> None:
        try:
            callback = self._make()
            while (item := self._queue.get()) is not None:
                hook, given = item
                of_trial = hook.startswith("on_trial")
                where = {"iteration": 0, "trials": []} if of_trial else {}
                getattr(callback, hook)(**where, **given)
        except BaseException as err:  # whatever a tracker's library raises is a warning
            lines = str(err).strip().splitlines() or [type(err).__name__]
            self._warn(
                f"trackers.{self._name}: {lines[0]}; the search goes on without it, and its own "
                "files hold all figures"
            )
