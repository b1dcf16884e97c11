"""The process that talks to one tracker: JSON lines on stdin become calls of its library.

    python -m orchestrator.reporting.tracker_process wandb|mlflow

The first line opens (target, experiment, name, folder, timeout_s, config); each further one is a
row (axis, figures, step, at) or the end (status). Failures go to stdout as JSON lines (message,
lost); a server that failed is tried again after a pause.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from actors.formats import first_line
from orchestrator.run_dir.run_status import RunStatus, is_finished
from orchestrator.settings.dotted import leaves

RETRY_S = 30.0
PARAMS_PER_CALL, PARAM_CHARACTERS = 100, 500  # MLflow's limits
Message = dict[str, Any]


class Backend(Protocol):
    """One run in a tracker."""

    def log(self, row: Message) -> None:
        """Sends a row's figures."""

    def end(self, status: str) -> None:
        """Ends the run there."""


class WandbRun:
    """A run of a Weights & Biases project."""

    def __init__(self, opening: Message) -> None:
        import wandb

        entity, _, project = opening["target"].rpartition("/")
        self._run = wandb.init(
            project=project,
            entity=entity or None,
            name=opening["name"],
            dir=opening["folder"],
            config=opening["config"],
            settings=wandb.Settings(
                init_timeout=opening["timeout_s"], console="off", silent=True, disable_git=True
            ),
        )
        for axis in ("data", "memory", "heldout", "accuracy", "accuracy_seen"):
            of = axis if axis in ("data", "memory") else "heldout"  # groups have paces of their own
            self._run.define_metric(f"{axis}/*", step_metric=_axis_name(of))

    def log(self, row: Message) -> None:
        """Sends a row's figures."""
        self._run.log({**row["figures"], _axis_name(row["axis"]): row["step"]})

    def end(self, status: str) -> None:
        """Ends the run there."""
        self._run.finish(exit_code=0 if is_finished(status) else 1)


def _axis_name(axis: str) -> str:
    return f"{axis}/{'version' if axis == 'heldout' else 'step'}"


class MlflowRun:
    """A run of an MLflow experiment."""

    def __init__(self, opening: Message) -> None:
        # The library's only way to say so; what a person set stays.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(max(1, int(opening["timeout_s"]))))
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self._metric = Metric
        self._client = MlflowClient(tracking_uri=opening["target"])
        found = self._client.get_experiment_by_name(opening["experiment"])
        experiment = (
            found.experiment_id if found else self._client.create_experiment(opening["experiment"])
        )
        run = self._client.create_run(experiment, run_name=opening["name"])
        self._id = run.info.run_id
        params = [
            Param(key, str(value)[:PARAM_CHARACTERS]) for key, value in leaves(opening["config"])
        ]
        for start in range(0, len(params), PARAMS_PER_CALL):
            self._client.log_batch(self._id, params=params[start : start + PARAMS_PER_CALL])

    def log(self, row: Message) -> None:
        """Sends a row's figures."""
        at = int(row["at"] * 1000)
        metrics = [self._metric(k, v, at, row["step"]) for k, v in row["figures"].items()]
        self._client.log_batch(self._id, metrics=metrics)

    def end(self, status: str) -> None:
        """Ends the run there."""
        is_killed = status == RunStatus.INTERRUPTED
        ended = "FINISHED" if is_finished(status) else "KILLED" if is_killed else "FAILED"
        self._client.set_terminated(self._id, status=ended)


def relay(
    messages: Iterable[Message],
    start: Callable[[Message], Backend],
    failed: Callable[[str, int], None],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Passes messages on until they end; failures are reported and, after a pause, tried again.

    Args:
        messages: the opening, rows, and the end where the run came to one.
        start: opens the run in the tracker.
        failed: called with the message and the number of rows lost.
        clock: seconds.
    """
    stream = iter(messages)
    opening = next(stream, None)
    if opening is None:
        return
    backend: Backend | None = None
    retry_at = clock()

    def attempt(message: Message | None, lost: int) -> None:
        nonlocal backend, retry_at
        if clock() < retry_at and lost:
            failed("it failed a moment ago", lost)
            return
        try:
            if message is not None and "status" in message:
                if backend is not None:  # a run is not opened only to be ended
                    backend.end(message["status"])
                return
            backend = backend or start(opening)
            if message is not None:
                backend.log(message)
        except Exception as err:  # whatever a tracker's library raises is a warning
            retry_at = clock() + RETRY_S
            failed(first_line(err), lost)

    attempt(None, 0)
    message: Message = {}
    for message in stream:
        attempt(message, 0 if "status" in message else 1)
    if "status" not in message:
        attempt({"status": RunStatus.FAILED}, 0)  # the driver is gone


def main() -> None:
    """Relays stdin to the tracker named on the command line."""
    backends: dict[str, Callable[[Message], Backend]] = {"wandb": WandbRun, "mlflow": MlflowRun}
    start = backends[sys.argv[1]]
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the libraries print is not an answer

    def failed(message: str, lost: int) -> None:
        print(json.dumps({"message": message, "lost": lost}), file=answers, flush=True)

    relay((json.loads(line) for line in sys.stdin), start, failed)


if __name__ == "__main__":
    main()
