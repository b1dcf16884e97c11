"""Writes a run's metrics on a thread of its own: while it runs a log of rows and TensorBoard
events, at its end Parquet and evaluations.

A write that fails is a warning, never the end of training.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from actors.wire import StorageError
from orchestrator.background import Background
from orchestrator.reporting.trackers import Tracker, figures_of
from orchestrator.run_dir.metrics import Metrics, Row
from orchestrator.run_dir.parquet import to_parquet
from orchestrator.run_dir.row_log import RowLog
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.run_dir.run_status import RunStatus
from orchestrator.settings.file_names import EVALUATIONS, EVENTS, METRICS

WRITE_EVERY_S = 15.0


class Recorder:
    """A thread that takes rows and keeps the run directory's metrics up to date.

    Args:
        run_dir: where to write.
        metrics: the rows so far; later ones come by `record`, since the driver appends to it.
        warn: called with a message for each write that failed.
        trackers: get every row too, and are closed with the recorder.
    """

    def __init__(
        self,
        run_dir: RunDir,
        metrics: Metrics,
        warn: Callable[[str], None],
        trackers: Sequence[Tracker] = (),
    ) -> None:
        self._run_dir, self._warn, self._trackers = run_dir, warn, trackers
        self._log = RowLog(run_dir, metrics.intervals, metrics.evaluations)
        self._events = tempfile.TemporaryDirectory(prefix="tandem-events-")
        self._writer: Any = None  # tensorboardX's; the thread's own, as is the next
        self._has_new = True
        self._worker = Background(
            "recorder", self._failed, every=self._write, every_s=WRITE_EVERY_S
        )
        self._worker.put(self._open)

    def record(self, kind: str, row: Row) -> None:
        """Takes a row (`interval` or `evaluation`) and returns at once."""
        self._worker.put(lambda: self._take(kind, row))
        for tracker in self._trackers:
            tracker.record(kind, row)

    def close(self, status: RunStatus = RunStatus.FINISHED) -> None:
        """Writes what is left, tells the trackers the run's status, and ends the thread; gives up
        where the storage hangs.
        """
        for tracker in self._trackers:  # their time-outs run at the same time
            tracker.end(status)
        self._worker.put(self._finish)
        patience_s = self._run_dir.patience_s
        if self._worker.close(patience_s, lambda: self._run_dir.num_writes):
            if self._writer is not None:
                self._writer.close()
            self._events.cleanup()
        else:
            self._warn(
                f"{self._run_dir.url} hangs: nothing was written for {patience_s:g} s, so the last "
                "metrics are given up; look at the storage"
            )
        for tracker in self._trackers:
            tracker.close()

    def _open(self) -> None:
        self._writer = _summary_writer()(self._events.name, flush_secs=5)

    def _take(self, kind: str, row: Row) -> None:
        self._log.add(kind, row)
        self._has_new = True
        if self._writer is not None:
            _to_tensorboard(self._writer, kind, row)

    def _write(self) -> None:
        if self._has_new:
            self._log.write()
            self._upload_events()
            self._has_new = False

    def _finish(self) -> None:
        """The log becomes the files that a run leaves; where they can't be written it stays."""
        self._log.write()
        self._upload_events()
        intervals, evaluations = self._log.rows()
        self._run_dir.write(METRICS, to_parquet(intervals))
        self._run_dir.write(EVALUATIONS, json.dumps(evaluations, indent=1, ensure_ascii=False))
        self._log.remove()

    def _upload_events(self) -> None:
        if self._writer is not None:
            self._writer.flush()
        for path in sorted(Path(self._events.name).iterdir()):
            self._run_dir.upload(str(path), f"{EVENTS}/{path.name}")

    def _failed(self, err: Exception) -> None:
        if isinstance(err, (StorageError, OSError, ValueError)):  # ValueError: also ConfigError
            self._warn(
                f"metrics could not be written ({err}); training goes on and they are tried again"
            )
        else:
            self._warn(f"recording metrics failed ({err!r}); training goes on")


def _summary_writer() -> Any:
    """tensorboardX's writer, without the torch that it imports where there is one.

    The driver needs none: 2 s and 300 MB, and loaded by this thread beside Ray's it has ended jobs
    on a cluster ("oneMKL FATAL ERROR: Cannot load libtorch_cpu.so").
    """
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hidden and sys.modules.get("torch") is None:
            del sys.modules["torch"]
    return SummaryWriter


def _to_tensorboard(writer: Any, kind: str, row: Row) -> None:
    _, figures, step = figures_of(kind, row)
    for name, value in figures.items():
        writer.add_scalar(name, value, step)
