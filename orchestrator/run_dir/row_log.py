"""The rows of a run that is running, as lines of JSON: what is measured is added, nothing that is
written is written again.

    metrics/000000000.jsonl   rows from the run's first; on local storage it grows
    metrics/000000120.jsonl   rows from number 120 on: objects of remote stores can't grow

Each line has `kind`, `interval` or `evaluation`, beside the row's own columns. A file is named by
the number of its first row, so that one whose rows are in an earlier file already (left behind when
parts were joined) is recognised and skipped. When a run ends its rows become `metrics.parquet` and
`evaluations.json`, and the log is removed; a resume starts it with the rows of its checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from actors.wire import ConfigError
from orchestrator.run_dir.metrics import Row
from orchestrator.run_dir.parquet import from_parquet
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.settings.file_names import EVALUATIONS, METRICS, METRICS_LOG

INTERVAL, EVALUATION = "interval", "evaluation"
MOST_PARTS = 100  # then they are joined: a reader asks for each
Kinds = tuple[list[Row], list[Row]]  # of intervals, and of evaluations


class RowLog:
    """Writes the log; one thread's own.

    Args:
        run_dir: the run's.
        intervals, evaluations: rows of a run that goes on.
    """

    def __init__(
        self, run_dir: RunDir, intervals: Sequence[Row] = (), evaluations: Sequence[Row] = ()
    ) -> None:
        self._run_dir = run_dir
        self._rows = [(INTERVAL, row) for row in intervals]
        self._rows += [(EVALUATION, row) for row in evaluations]
        self._num_written: int | None = None  # None: all are to be written
        self._num_parts = 0

    def add(self, kind: str, row: Row) -> None:
        """Takes a row; `write` writes it."""
        self._rows.append((kind, row))

    def rows(self) -> Kinds:
        """All rows, in the order in which they came."""
        return (
            [row for kind, row in self._rows if kind == INTERVAL],
            [row for kind, row in self._rows if kind == EVALUATION],
        )

    def write(self) -> None:
        """Writes the rows that came since the last call; all of them after a write that failed,
        which may have left half a line.

        Raises:
            ConfigError, StorageError: as `RunDir.write`.
        """
        num, done = len(self._rows), self._num_written
        if done == num:
            return
        self._num_written = None
        if done is None or self._num_parts >= MOST_PARTS:
            self._run_dir.write(_part(0), self._lines(0))
            for name in self._run_dir.list_files(METRICS_LOG):
                if (old := f"{METRICS_LOG}/{name}") != _part(0):
                    self._run_dir.remove(old)
            self._num_parts = 1
        elif self._run_dir.can_append:
            self._run_dir.append(_part(0), self._lines(done))
        else:
            self._run_dir.write(_part(done), self._lines(done))
            self._num_parts += 1
        self._num_written = num

    def remove(self) -> None:
        """Removes the log: its rows are elsewhere. Raises: ConfigError, StorageError."""
        self._run_dir.remove(METRICS_LOG)

    def _lines(self, start: int) -> str:
        lines = (json.dumps({"kind": kind, **row})
                 for kind, row in self._rows[start:])  # fmt: skip
        return "".join(f"{line}\n" for line in lines)


def _part(first: int) -> str:
    return f"{METRICS_LOG}/{first:09d}.jsonl"


def read_rows(run_dir: RunDir) -> Kinds:
    """The rows of a run: of its log while it runs or where its driver died, else of the files that
    a run leaves at its end.

    Raises:
        ConfigError, StorageError: they can't be read.
        ValueError: they are damaged.
    """
    if lines := _logged(run_dir):
        found: Kinds = ([], [])
        for line in lines:
            row = json.loads(line)
            found[row.pop("kind") == EVALUATION].append(row)
        return found
    intervals = from_parquet(run_dir.read_bytes(METRICS)) if run_dir.exists(METRICS) else []
    return intervals, (json.loads(run_dir.read(EVALUATIONS)) if run_dir.exists(EVALUATIONS) else [])


def _logged(run_dir: RunDir) -> list[str]:
    """Lines of the log; a last one that is being written is left out."""
    lines: list[str] = []
    for name in sorted(run_dir.list_files(METRICS_LOG)):
        stem, _, ending = name.partition(".")
        if ending != "jsonl" or int(stem) != len(lines):
            continue
        try:
            text = run_dir.read(f"{METRICS_LOG}/{name}")
        except ConfigError:
            if run_dir.exists(f"{METRICS_LOG}/{name}"):
                raise
            continue  # joined with the first since the folder was listed
        lines += text.split("\n")[:-1]
    return lines
