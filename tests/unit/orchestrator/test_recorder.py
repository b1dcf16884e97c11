from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from actors.spec import DATA
from actors.wire import ConfigError
from orchestrator.metrics import Metrics
from orchestrator.recorder import Recorder, to_parquet
from orchestrator.run_dir import RunDir
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
        "import sys; from orchestrator.recorder import _summary_writer; "
        "_summary_writer(); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "False"
