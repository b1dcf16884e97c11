"""Trackers as the run sees them: real processes, with a made-up wandb or the real libraries."""

from __future__ import annotations

import importlib.util
import json
import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from actors.settings.run import DATA
from actors.wire import ConfigError
from orchestrator.reporting.recorder import Recorder
from orchestrator.reporting.trackers import Tracker, check_installed, figures_of, start_trackers
from orchestrator.run_dir.metrics import Metrics
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.settings.config import Config, TrackersSpec, make_config
from tests.unit.orchestrator.interleaved import interrupted_at
from tests.unit.orchestrator.scripted import a_config, a_report, an_evaluation

FAKE_WANDB = """
import json, os, time
LOG = os.environ["FAKE_WANDB_LOG"]
def note(*what):
    with open(LOG, "a") as log:
        log.write(json.dumps(what) + "\\n")
class Settings:
    def __init__(self, **fields):
        pass
class Run:
    def define_metric(self, name, step_metric):
        pass
    def log(self, figures):
        note("log", figures)
        if os.environ.get("FAKE_WANDB_FAILS"):
            raise ConnectionError("no route to host")
    def finish(self, exit_code):
        note("finish", exit_code)
def init(project, entity, name, dir, config, settings):
    print("noise that is no answer")
    note("init", project, entity, name, config["seed"])
    if os.environ.get("FAKE_WANDB_HANGS"):
        time.sleep(600)
    return Run()
"""
PATIENCE_S = 30.0


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in which a made-up wandb, found before any real one, notes its calls."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "wandb.py").write_text(FAKE_WANDB)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    monkeypatch.setenv("FAKE_WANDB_LOG", str(tmp_path / "calls"))
    return tmp_path / "calls"


def noted(calls: Path) -> list[Any]:
    return [json.loads(line) for line in calls.read_text().splitlines()]


def config_with(storage: Path, **trackers: Any) -> Config:
    return a_config(storage=str(storage), trackers=trackers)


def a_row() -> dict[str, Any]:
    return Metrics(0.0).add_interval([a_report(DATA, 1)], 0.0, 1)


def send(config: Config, num_rows: int = 2, status: str = "finished") -> list[str]:
    """So many rows and the end; returns the warnings."""
    warnings: list[str] = []
    (tracker,) = start_trackers(config, warnings.append)
    for _ in range(num_rows):
        tracker.record("interval", a_row())
    tracker.end(status)
    tracker.close()
    return warnings


def test_rows_arrive_under_the_names_of_tensorboard(calls: Path, tmp_path: Path) -> None:
    assert send(config_with(tmp_path, wandb="me/project", timeout_s=PATIENCE_S)) == []
    opened, first, second, finished = noted(calls)
    assert opened == ["init", "project", "me", "run", 0]
    assert (first[1]["data/tokens"], first[1]["data/train.own"]) == (1000, 1.5)
    assert first[1]["data/step"] == 20
    assert second == first
    assert finished == ["finish", 0]


def test_a_run_that_failed_is_a_failed_run_there(calls: Path, tmp_path: Path) -> None:
    send(config_with(tmp_path, wandb="project", timeout_s=PATIENCE_S), status="failed")
    assert noted(calls)[-1] == ["finish", 1]


def test_a_tracker_that_fails_is_one_warning_and_a_count_of_what_was_lost(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WANDB_FAILS", "1")
    failed, lost = send(config_with(tmp_path, wandb="project", timeout_s=PATIENCE_S), num_rows=5)
    assert "trackers.wandb: no route to host; training goes on" in failed
    assert lost == "trackers.wandb: 5 rows were lost"


def test_rows_that_two_threads_lose_at_once_are_both_counted(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.reporting.trackers.QUEUED_ROWS", 0)
    warnings: list[str] = []
    (tracker,) = start_trackers(config_with(tmp_path, wandb="p", timeout_s=1.0), warnings.append)
    lose = partial(tracker.record, "interval", a_row())
    turns = 0
    while interrupted_at(turns, Tracker.record.__code__, lose, lose):
        turns += 1
    tracker.end("finished")
    tracker.close()
    assert turns > 1
    assert warnings[-1] == f"trackers.wandb: {2 * turns + 1} rows were lost"


def test_a_tracker_that_hangs_is_given_up_in_time_and_its_process_ended(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WANDB_HANGS", "1")
    warnings: list[str] = []
    (tracker,) = start_trackers(config_with(tmp_path, wandb="p", timeout_s=1.0), warnings.append)
    deadline = time.monotonic() + PATIENCE_S
    while not calls.exists():  # it hangs from here on
        assert time.monotonic() < deadline
        time.sleep(0.01)
    began = time.monotonic()
    tracker.record("interval", a_row())
    assert time.monotonic() - began < 0.5
    tracker.end("finished")
    tracker.close()
    assert time.monotonic() - began < 8.0
    assert tracker._process.returncode is not None
    (given_up,) = warnings
    assert "was given up; raise trackers.timeout_s" in given_up


def test_a_process_that_ends_by_itself_is_a_warning(tmp_path: Path) -> None:
    warnings: list[str] = []
    tracker = Tracker("nothing", {}, PATIENCE_S, warnings.append)
    tracker.end("finished")
    tracker.close()
    assert "trackers.nothing: its process ended with 1" in warnings[0]


def test_the_recorder_passes_its_rows_on(calls: Path, tmp_path: Path) -> None:
    config = config_with(tmp_path, wandb="project", timeout_s=PATIENCE_S)
    metrics, warnings = Metrics(0.0), []
    trackers = start_trackers(config, warnings.append)
    recorder = Recorder(RunDir(str(tmp_path / "run")), metrics, warnings.append, trackers)
    recorder.record("evaluation", metrics.add_evaluation(an_evaluation(4, 4), False))
    recorder.close("interrupted")
    assert warnings == []
    _, evaluation, finished = noted(calls)
    assert evaluation[1]["heldout/own_loss"] == 2.0
    assert evaluation[1]["heldout/version"] == 4
    assert finished == ["finish", 1]


def test_a_missing_package_is_refused_and_its_extra_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'tandem-memory\[mlflow\]'"):
        check_installed(TrackersSpec(mlflow="http://localhost:1"))
    check_installed(TrackersSpec())


def test_a_password_in_the_uri_is_refused() -> None:
    uri = "http://me:secret@host:5000"
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_PASSWORD") as caught:
        make_config({"corpus": {"paths": ["a"]}, "trackers": {"mlflow": uri}})
    assert "secret" not in str(caught.value)


def test_figures_are_finite_numbers_by_group_and_step() -> None:
    row = a_row() | {"train.own": math.nan}
    axis, figures, step = figures_of("interval", row)
    assert (axis, step) == (DATA, 20)
    assert "data/tokens" in figures
    assert not {"data/train.own", "data/agreement", "data/step", "data/group"} & set(figures)


def test_mlflow_itself_takes_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sqlalchemy", reason="mlflow is not installed (pip install mlflow)")
    pytest.importorskip("mlflow", reason="mlflow is not installed (pip install mlflow)")
    store = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.chdir(tmp_path)
    assert send(config_with(tmp_path, mlflow=store, timeout_s=120.0), num_rows=1) == []
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("tandem")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params["data.optimizer.lr"] == "0.002"
    history = client.get_metric_history(run.info.run_id, "data/train.own")
    assert [(m.value, m.step) for m in history] == [(1.5, 20)]


def test_wandb_itself_takes_a_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed (pip install wandb)")
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "run").mkdir()
    assert send(config_with(tmp_path, wandb="project", timeout_s=120.0)) == []
    (written,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    assert b"data/train.own" in written.read_bytes()
