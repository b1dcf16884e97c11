"""Sends a run's figures to Weights & Biases and MLflow, where the config asks for it.

    Recorder.record -> Tracker.record -> background thread -> pipe -> tracker_process

Each tracker is a process of its own: its library's threads, prompts, exit handlers and network
failures stay in there, and the end of a run waits for it no longer than `trackers.timeout_s`.
A tracker that fails is one warning, never the end of a run.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from actors.wire import ConfigError
from orchestrator.background import Background
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
    """One tracker's process and the thread that passes rows to it.

    Args:
        kind: `wandb` or `mlflow`.
        opening: the process's first message, see `tracker_process`.
        timeout_s: longest that the run's end waits for it.
        warn: called once when the tracker fails, and at the end if it lost rows.
    """

    def __init__(self, kind: str, opening: dict[str, Any], timeout_s: float, warn: Warn) -> None:
        self._kind, self._timeout_s, self._warn = kind, timeout_s, warn
        self._lost: list[int] = []  # numbers of rows; three threads append
        self._warned = False
        self._deadline = math.inf
        self._process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.reporting.tracker_process", kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # the libraries' own talk
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # Ctrl-C is the run's to handle; and it is killed as a group
        )
        self._writer = Background(f"{kind} writer", self._failed)
        self._listener = Background(f"{kind} listener", self._failed)
        self._writer.put(lambda: self._send(opening))
        self._listener.put(self._listen)

    def record(self, kind: str, row: Row) -> None:
        """Takes a row (`interval` or `evaluation`) and returns at once."""
        if self._writer.num_waiting >= QUEUED_ROWS:
            self._lost.append(1)
            return
        axis, figures, step = figures_of(kind, row)
        message = {"axis": axis, "figures": figures, "step": step, "at": time.time()}
        self._writer.put(lambda: self._send(message))

    def end(self, status: str) -> None:
        """Takes the run's status and returns at once; from now on the time-out runs."""
        self._deadline = time.monotonic() + self._timeout_s
        self._writer.put(lambda: self._send({"status": status}))
        self._writer.put(self._close_pipe)

    def close(self) -> None:
        """Waits for what `end` left; gives up after the time-out, with a warning."""
        try:
            self._process.wait(max(0.0, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._warn(
                f"trackers.{self._kind}: did not take all figures within {self._timeout_s:g} s of "
                "the run's end and was given up; raise trackers.timeout_s, or look at its server"
            )
        finally:
            with contextlib.suppress(OSError):  # nothing left is the usual case
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for thread in (self._writer, self._listener):
            thread.close(1.0)
        if num_lost := sum(self._lost):
            self._warn(f"trackers.{self._kind}: {num_lost} rows were lost")

    def _send(self, message: dict[str, Any]) -> None:
        """To the pipe. A process that is gone takes nothing more, which `_listen` reports."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            self._lost.append("figures" in message)

    def _close_pipe(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # what is left in it, of a process that is gone
            self._process.stdin.close()

    def _listen(self) -> None:
        """The process's failures: the first is a warning, all lose rows."""
        for failure in self._failures():
            self._lost.append(int(failure["lost"]))
            self._warn_once(
                f"{failure['message']}; training goes on, and it is tried again now and then"
            )

    def _failed(self, err: Exception) -> None:
        self._warn_once(f"{err!r}; training goes on without it")

    def _warn_once(self, message: str) -> None:
        if not self._warned:
            self._warn(f"trackers.{self._kind}: {message}")
        self._warned = True

    def _failures(self) -> Iterator[dict[str, Any]]:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                yield json.loads(line)
        if (code := self._process.wait()) not in (0, -signal.SIGKILL):  # killed: that was `close`
            yield {"message": f"its process ended with {code}", "lost": 0}
