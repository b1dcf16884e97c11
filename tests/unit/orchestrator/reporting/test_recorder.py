from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from actors.settings.run import DATA
from actors.wire import ConfigError
from orchestrator.reporting.recorder import Recorder
from orchestrator.run_dir.metrics import Metrics, Row
from orchestrator.run_dir.parquet import to_parquet
from orchestrator.run_dir.row_log import read_rows
from orchestrator.run_dir.run_dir import RunDir
from tests.unit.orchestrator.scripted import a_report, an_evaluation


def record(run_dir: RunDir) -> list[str]:
    """One interval and one evaluation; returns the warnings."""
    metrics, warnings = Metrics(0.0), []
    recorder = Recorder(run_dir, metrics, warnings.append)
    recorder.record("interval", metrics.add_interval([a_report(DATA, 1)], 0.0, 1))
    recorder.record("evaluation", metrics.add_evaluation(an_evaluation(1, 1), False))
    recorder.close()
    return warnings


def test_columns_that_a_row_lacks_are_null() -> None:
    table = pq.read_table(io.BytesIO(to_parquet([{"a": 1, "b": 0.5}, {"a": 2, "c": "x"}])))
    assert table.to_pylist() == [{"a": 1, "b": 0.5, "c": None}, {"a": 2, "b": None, "c": "x"}]


def test_no_rows_are_a_file_too() -> None:
    assert pq.read_table(io.BytesIO(to_parquet([]))).num_rows == 0


def test_closing_writes_metrics_evaluations_and_events(tmp_path: Path) -> None:
    assert record(RunDir(str(tmp_path / "run"))) == []
    table = pq.read_table(tmp_path / "run" / "metrics.parquet")
    assert table.select(["group", "interval", "tokens"]).to_pylist() == [
        {"group": DATA, "interval": 1, "tokens": 1000}
    ]
    (evaluation,) = json.loads((tmp_path / "run" / "evaluations.json").read_text())
    assert evaluation["heldout.own_loss"] == 2.0
    assert len(list((tmp_path / "run" / "events").iterdir())) == 1


class RowOfABusyRun(dict[str, Any]):
    """A row while whose column is read the driver commits another interval."""

    def __init__(self, row: Row, metrics: Metrics) -> None:
        super().__init__(row)
        self._metrics = metrics

    def get(self, name: str, default: object = None) -> object:
        self._metrics.add_interval([a_report(DATA, len(self._metrics.intervals) + 1)], 0.0, 1)
        return super().get(name, default)


def test_intervals_that_are_committed_while_the_file_is_made_are_of_the_next_one(
    tmp_path: Path,
) -> None:
    metrics, warnings = Metrics(0.0), []
    metrics.add_interval([a_report(DATA, 1)], 0.0, 1)
    metrics.intervals[0] = RowOfABusyRun(metrics.intervals[0], metrics)
    recorder = Recorder(RunDir(str(tmp_path / "run")), metrics, warnings.append)
    recorder.record("interval", metrics.add_interval([a_report(DATA, 2)], 0.0, 1))
    recorder.close()
    assert warnings == []
    table = pq.read_table(tmp_path / "run" / "metrics.parquet")
    assert table.column("interval").to_pylist() == [1, 2]
    assert len(metrics.intervals) > 2


def test_rows_of_a_run_that_goes_on_are_written_with_its_own(tmp_path: Path) -> None:
    metrics = Metrics(0.0)
    metrics.add_interval([a_report(DATA, 1)], 0.0, 1)
    metrics.add_evaluation(an_evaluation(1, 1), False)
    recorder = Recorder(RunDir(str(tmp_path / "run")), metrics, lambda text: None)
    recorder.record("interval", metrics.add_interval([a_report(DATA, 2)], 0.0, 1))
    recorder.record("evaluation", metrics.add_evaluation(an_evaluation(2, 2), False))
    recorder.close()
    table = pq.read_table(tmp_path / "run" / "metrics.parquet")
    assert table.column("interval").to_pylist() == [1, 2]
    rows = json.loads((tmp_path / "run" / "evaluations.json").read_text())
    assert [row["data_version"] for row in rows] == [1, 2]


def test_while_a_run_runs_its_rows_are_in_the_log_and_at_its_end_in_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.reporting.recorder.WRITE_EVERY_S", 0.02)
    run_dir, metrics = RunDir(str(tmp_path / "run")), Metrics(0.0)
    recorder = Recorder(run_dir, metrics, lambda text: None)
    recorder.record("interval", metrics.add_interval([a_report(DATA, 1)], 0.0, 1))
    deadline = time.monotonic() + 60
    while read_rows(run_dir)[0] != metrics.intervals:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not run_dir.exists("metrics.parquet")
    recorder.close()
    assert run_dir.exists("metrics.parquet")
    assert not run_dir.exists("metrics")
    assert [row["interval"] for row in read_rows(run_dir)[0]] == [1]


def test_storage_that_hangs_does_not_keep_a_run_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.run_dir.run_dir.HANGS_S", 0.2)
    run_dir, answers = RunDir(str(tmp_path / "run")), threading.Event()
    monkeypatch.setattr(run_dir, "write", lambda name, content: answers.wait(60))
    (warning,) = record(run_dir)
    answers.set()
    assert "hangs: nothing was written for 0.2 s, so the last metrics are given up" in warning


def test_a_write_that_fails_is_a_warning_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = RunDir(str(tmp_path / "run"))

    def full(name: str, content: bytes | str) -> None:
        raise ConfigError(f"{name}: can't be written: no space left")

    monkeypatch.setattr(run_dir, "write", full)
    (warning,) = record(run_dir)
    assert "no space left" in warning


def test_the_driver_writes_its_events_without_importing_torch() -> None:
    script = (
        "import sys; from orchestrator.reporting.recorder import _summary_writer; "
        "_summary_writer(); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "False"
