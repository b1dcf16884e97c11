"""Writes a run's metrics while it runs: Parquet, TensorBoard, evaluations, trackers. On its own
thread, off the driver's loop.

A write that fails is a warning, never the end of training. Called by `run`.
"""

from __future__ import annotations

import io
import json
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from actors.wire import StorageError
from orchestrator.reporting.trackers import Tracker, figures_of
from orchestrator.run_dir.metrics import Metrics, Row
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.settings.file_names import EVALUATIONS, EVENTS, METRICS

WRITE_EVERY_S = 15.0


class Recorder:
    """A thread that takes rows and keeps the run directory's metrics up to date.

    Args:
        run_dir: where to write.
        metrics: the rows so far; later ones are told by `record`, since the driver appends to it.
        warn: told about writes that failed.
        trackers: get every row too, and are closed with the recorder.
    """

    def __init__(
        self,
        run_dir: RunDir,
        metrics: Metrics,
        warn: Callable[[str], None],
        trackers: Sequence[Tracker] = (),
    ) -> None:
        self._run_dir = run_dir
        self._trackers = trackers
        self._intervals, self._evaluations = list(metrics.intervals), list(metrics.evaluations)
        self._warn = warn
        self._queue: queue.SimpleQueue[tuple[str, Row] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        self._thread.start()

    def record(self, kind: str, row: Row) -> None:
        """Takes a row (`interval` or `evaluation`) and returns at once."""
        self._queue.put((kind, row))
        for tracker in self._trackers:
            tracker.record(kind, row)

    def close(self, status: str = "finished") -> None:
        """Writes what is left, tells the trackers the run's status, and ends the thread."""
        closing = [
            threading.Thread(target=tracker.close, args=(status,)) for tracker in self._trackers
        ]
        for thread in closing:  # their time-outs run at the same time
            thread.start()
        self._queue.put(None)
        for thread in (self._thread, *closing):
            thread.join()

    def _work(self) -> None:
        make_writer = _summary_writer()  # an import that the run's start doesn't wait for
        with tempfile.TemporaryDirectory(prefix="tandem-events-") as folder:
            writer = make_writer(folder, flush_secs=5)
            next_write = time.monotonic() + WRITE_EVERY_S
            while (item := self._queue.get()) is not None:
                kind, row = item
                (self._intervals if kind == "interval" else self._evaluations).append(row)
                _to_tensorboard(writer, kind, row)
                if time.monotonic() > next_write:
                    self._write(writer, folder)
                    next_write = time.monotonic() + WRITE_EVERY_S
            self._write(writer, folder)
            writer.close()

    def _write(self, writer: Any, folder: str) -> None:
        try:
            writer.flush()
            for path in sorted(Path(folder).iterdir()):
                self._run_dir.upload(str(path), f"{EVENTS}/{path.name}")
            self._run_dir.write(METRICS, to_parquet(self._intervals))
            self._run_dir.write(
                EVALUATIONS, json.dumps(self._evaluations, indent=1, ensure_ascii=False)
            )
        except (StorageError, OSError, ValueError) as err:
            self._warn(
                f"metrics could not be written ({err}); training goes on and they are tried again"
            )


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


def to_parquet(rows: list[Row]) -> bytes:
    """Rows, as many as there are now, as one Parquet file; columns that a row lacks are null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pa.table({name: [row.get(name) for row in rows] for name in names})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def _to_tensorboard(writer: Any, kind: str, row: Row) -> None:
    _, figures, step = figures_of(kind, row)
    for name, value in figures.items():
        writer.add_scalar(name, value, step)
