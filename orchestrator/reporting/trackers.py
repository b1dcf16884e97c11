"""Sends a run's figures to Weights & Biases and MLflow, where the config asks for it.

    recorder thread -> Tracker.record -> queue -> writer thread -> pipe -> tracker_process

Each tracker is a process of its own: what its library does with threads, prompts, exit handlers and
a network that is gone stays in there, and the end of a run waits for it no longer than it says.
A tracker that fails is one warning, never the end of a run. Called by `run` and `recorder`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from actors.wire import ConfigError
from orchestrator.run_dir.metrics import Row
from orchestrator.settings.config import Config, TrackersSpec

WANDB, MLFLOW = "wandb", "mlflow"
QUEUED_ROWS = 1000  # hours of intervals; past that rows are lost, and a warning says so
NOT_FIGURES = ("interval", "step", "incarnation")
Warn = Callable[[str], None]


def check_installed(trackers: TrackersSpec) -> None:
    """Raises: ConfigError naming the extra of a tracker whose package is missing."""
    for kind in asked(trackers):
        if importlib.util.find_spec(kind) is None:
            raise ConfigError(
                f"trackers.{kind}: the package {kind} is not installed; "
                f"pip install 'tandem-memory[{kind}]', or remove trackers.{kind}"
            )


def asked(trackers: TrackersSpec) -> list[str]:
    """The trackers that the config names."""
    return [kind for kind in (WANDB, MLFLOW) if getattr(trackers, kind) is not None]


def figures_of(kind: str, row: Row) -> tuple[str, dict[str, float], int]:
    """A row's axis (a group's name or `heldout`), its figures by name, and its place on the axis.

    The names are those of the TensorBoard events.
    """
    if kind == "interval":
        axis = str(row["group"])
        names = {name: f"{axis}/{name}" for name in row if name not in NOT_FIGURES}
    else:
        axis = "heldout"
        names = {
            name: name.replace(".", "/")
            for name in row
            if name.startswith(("heldout.", "accuracy"))
        }
    found = {
        shown: float(row[name])
        for name, shown in names.items()
        if isinstance(row[name], int | float) and math.isfinite(row[name])
    }
    return axis, found, int(row["step" if kind == "interval" else "data_version"])


def start_trackers(config: Config, warn: Warn) -> list[Tracker]:
    """The trackers that the config names, started; none waits for its server."""
    folder = None if "://" in config.run_url else config.run_url
    values = config.model_dump(mode="json", by_alias=True)
    return [
        Tracker(
            kind,
            {
                "target": getattr(config.trackers, kind),
                "experiment": config.trackers.mlflow_experiment,
                "name": config.name,
                "folder": folder,
                "timeout_s": config.trackers.timeout_s,
                "config": values,
            },
            config.trackers.timeout_s,
            warn,
        )
        for kind in asked(config.trackers)
    ]


class Tracker:
    """One tracker's process and the queue of rows to it.

    Args:
        kind: `wandb` or `mlflow`.
        opening: what the process is told first, see `tracker_process`.
        timeout_s: longest that `close` takes.
        warn: told once when the tracker fails, and at the end how many rows it lost.
    """

    def __init__(self, kind: str, opening: dict[str, Any], timeout_s: float, warn: Warn) -> None:
        self._kind, self._timeout_s, self._warn = kind, timeout_s, warn
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue(QUEUED_ROWS)
        self._lost: list[int] = []  # numbers of rows; three threads append
        self._warned = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.reporting.tracker_process", kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # the libraries' own talk
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # Ctrl-C is the run's to handle; and it is killed as a group
        )
        self._threads = [
            threading.Thread(target=work, name=f"{kind} {work.__name__}", daemon=True)
            for work in (self._write, self._listen)
        ]
        self._queue.put(opening)
        for thread in self._threads:
            thread.start()

    def record(self, kind: str, row: Row) -> None:
        """Takes a row (`interval` or `evaluation`) and returns at once."""
        axis, figures, step = figures_of(kind, row)
        try:
            self._queue.put_nowait(
                {"axis": axis, "figures": figures, "step": step, "at": time.time()}
            )
        except queue.Full:
            self._lost.append(1)

    def close(self, status: str) -> None:
        """Sends what is left and the run's status; gives up after the time-out, with a warning."""
        deadline = time.monotonic() + self._timeout_s
        with contextlib.suppress(queue.Full):  # then the process is stuck and is killed below
            self._queue.put({"status": status}, timeout=self._timeout_s)
            self._queue.put(None, timeout=max(0.0, deadline - time.monotonic()))
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._warn(
                f"trackers.{self._kind}: did not take all figures within {self._timeout_s:g} s of "
                "the run's end and was given up; raise trackers.timeout_s, or look at its server"
            )
        finally:
            with contextlib.suppress(OSError):  # nothing left is the usual case
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for thread in self._threads:
            thread.join(1.0)
        if num_lost := sum(self._lost):
            self._warn(f"trackers.{self._kind}: {num_lost} rows were lost")

    def _write(self) -> None:
        """Queue to pipe. A process that is gone takes nothing more, which `_listen` reports."""
        pipe = self._process.stdin
        assert pipe is not None
        with contextlib.suppress(OSError), pipe:
            while (message := self._queue.get()) is not None:
                pipe.write(json.dumps(message).encode() + b"\n")
                pipe.flush()
            return
        while (message := self._queue.get()) is not None:
            self._lost.append("figures" in message)

    def _listen(self) -> None:
        """The process's failures: the first is a warning, all lose rows."""
        for failure in self._failures():
            self._lost.append(int(failure["lost"]))
            if not self._warned:
                self._warned = True
                self._warn(
                    f"trackers.{self._kind}: {failure['message']}; training goes on, and it is "
                    "tried again now and then"
                )

    def _failures(self) -> Iterator[dict[str, Any]]:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                yield json.loads(line)
        if (code := self._process.wait()) not in (0, -signal.SIGKILL):  # killed: that was `close`
            yield {"message": f"its process ended with {code}", "lost": 0}
