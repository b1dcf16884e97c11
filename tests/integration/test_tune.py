"""Searches of real runs: stopped early, failing, side by side, killed and gone on with, moved."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import ray
import yaml
from ray.util import placement_group_table

from actors.wire import ConfigError
from jobs.tune.search import load_search
from jobs.tune.tune import as_yaml, run_search
from orchestrator.console import Console
from orchestrator.run import train
from orchestrator.run_dir.handover import hand_over, take_over
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.settings.config import load_config
from orchestrator.settings.file_names import SUMMARY
from tests.integration.tiny import actor_processes, run_in_process

LONG = pytest.mark.long
GONE_S = 30.0  # for the processes of a trial that was ended; the machine may be busy
DEADLINE_S = 300.0
BASE = {"intervals": 4, "evaluation.every": 2, "checkpoints.every": 1}
LIGHT = {"data.workers.cpus": 0.25, "memory.workers.cpus": 0.25}
HELP, AGREEMENT = "heldout.help_loss", "heldout.recall_agreement"


def write_search(workplace: Path, name: str, **values: Any) -> Path:
    search = {
        "base": str(workplace / "tiny.yaml"),
        "storage": str(workplace / "searches"),
        "name": name,
        "set": BASE,
        "objectives": [f"min {HELP}"],
        **values,
    }
    path = workplace / f"{name}.yaml"
    path.write_text(yaml.safe_dump(search))
    return path


def run(path: Path, *overrides: str) -> tuple[bool, Path]:
    """Whether a trial came to its end, and the search's directory."""
    found = run_search(str(path), overrides, Console(quiet=True))
    return found, path.parent / "searches" / path.stem


def results(folder: Path) -> dict[int, dict[str, Any]]:
    files = sorted((folder / "trials").glob("*.json"))
    return {result["number"]: result for f in files for result in [json.loads(f.read_text())]}


def what_is_left() -> list[str]:
    """Processes and reservations that a search should not leave."""
    trials = [
        p for p in psutil.Process().children(recursive=True)
        if "ImplicitFunc" in " ".join(_title(p))
    ]  # fmt: skip
    left = [str(p) for p in [*actor_processes(psutil.Process()), *trials]]
    groups = placement_group_table().values()
    left += [str(g) for g in groups if g["state"] != "REMOVED"]
    free, there = ray.available_resources(), ray.cluster_resources()
    left += [f"CPU {free.get('CPU')}"] if free.get("CPU") != there["CPU"] else []
    return left


def _title(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.fixture
def leaves_nothing(shared_ray: None) -> Iterator[None]:
    yield
    until = time.monotonic() + GONE_S
    while (left := what_is_left()) and time.monotonic() < until:
        time.sleep(0.2)
    assert left == []


@pytest.mark.ray  # a search starts its own Ray
@pytest.mark.long  # failed once in four runs; back in make test once that is understood
@pytest.mark.usefixtures("leaves_nothing")
def test_of_three_trials_on_a_cluster_that_holds_one_each_comes_to_what_it_deserves(
    workplace: Path,
) -> None:
    """The first learns, the second hardly moves and is stopped early, the third breaks."""
    path = write_search(
        workplace,
        "three",
        algorithm="grid",
        space={"data.optimizer.lr": {"grid": [2e-3, 1e-9, 1e30]}},
        grace_intervals=2,
        trackers={"tensorboard": True},
    )
    found, folder = run(path)
    trials = results(folder)
    assert found
    assert [t["status"] for t in trials.values()] == ["finished", "stopped early", "failed"]
    assert (trials[1]["interval"], trials[2]["failures"]) == (2, 2)  # tried again once
    assert "data" in trials[2]["error"]
    assert not (folder / "trials" / "001" / SUMMARY).exists()
    best = load_config(str(folder / "best.yaml"))
    assert (best.data.optimizer.lr, best.name) == (2e-3, "three-000")
    rows = pq.read_table(folder / "results.parquet").to_pylist()
    assert [(row["trial"], row["status"]) for row in rows] == [
        ("000", "finished"),
        ("001", "stopped early"),
        ("002", "failed"),
    ]
    run_summary = json.loads((folder / "trials" / "000" / SUMMARY).read_text())
    assert rows[0][HELP] == run_summary["heldout"]["help_loss"]
    assert "<svg" in (folder / "report.html").read_text()
    assert list(folder.glob("tune/0/000/events.*"))
    handed = json.loads(next(folder.glob("tune/0/000/checkpoint_*/pair.json")).read_text())
    assert handed["run"] == str(folder / "trials" / "000")


@pytest.mark.ray  # a search starts its own Ray
@LONG
@pytest.mark.usefixtures("leaves_nothing")
def test_a_trial_that_fails_at_once_leaves_its_cause_in_every_result(workplace: Path) -> None:
    path = write_search(
        workplace,
        "broken",
        algorithm="grid",
        space={"data.optimizer.lr": {"grid": [1.0e30]}},
        scheduler="none",
        max_failures=0,
    )
    said = io.StringIO()
    folder = path.parent / "searches" / "broken"
    assert not run_search(str(path), [], Console(file=said, width=300))
    cause = json.loads((folder / "trials" / "000" / SUMMARY).read_text())["cause"]
    assert "data" in cause
    assert results(folder)[0]["error"] == cause
    assert f"trial 000 failed: {cause}" in said.getvalue()
    assert f"\nfailed: {cause}\n" in said.getvalue()
    assert said.getvalue().endswith(f"report: {folder}/report.html\n")
    (row,) = pq.read_table(folder / "results.parquet").to_pylist()
    assert row["error"] == cause
    assert escape(cause) in (folder / "report.html").read_text()


@pytest.mark.ray  # a search starts its own Ray
@LONG
@pytest.mark.usefixtures("leaves_nothing")
def test_light_trials_run_side_by_side_and_their_front_is_that_of_brute_force(
    workplace: Path,
) -> None:
    path = write_search(
        workplace,
        "light",
        set={**BASE, **LIGHT},
        space={"losses.own": {"uniform": [0.2, 0.8]}, "losses.recall": {"loguniform": [0.1, 10]}},
        constraints=["losses.own + losses.help = 1"],
        objectives=[f"min {HELP}", f"max {AGREEMENT}"],
        scheduler="none",
        trials=4,
        at_once=3,
    )
    found, folder = run(path)
    trials = results(folder)
    assert found
    assert {t["status"] for t in trials.values()} == {"finished"}
    for number, trial in trials.items():
        config = load_config(str(folder / "trials" / f"{number:03d}" / "config.yaml"))
        assert config.losses.own + config.losses.help == pytest.approx(1.0, abs=1e-9)
        assert config.losses.own == trial["point"]["losses.own"]
    spans = [_span(folder / "trials" / f"{n:03d}") for n in trials]
    most = max(sum(a <= start < b for a, b in spans) for start, _ in spans)
    assert most == 3
    points = {n: (t["figures"][HELP], -t["figures"][AGREEMENT]) for n, t in trials.items()}
    front = {
        n for n, p in points.items()
        if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points.values())
    }  # fmt: skip
    written = pq.read_table(folder / "pareto.parquet").to_pylist()
    assert {int(row["trial"]) for row in written} == front
    assert {int(f.stem) for f in (folder / "pareto").glob("*.yaml")} == front


def _span(folder: Path) -> tuple[float, float]:
    """When a run began and ended."""
    return (folder / "config.yaml").stat().st_mtime, (folder / SUMMARY).stat().st_mtime


@pytest.mark.ray  # a search starts its own Ray
@LONG
@pytest.mark.usefixtures("leaves_nothing")
def test_seeds_give_each_point_a_mean_and_a_spread(workplace: Path) -> None:
    path = write_search(
        workplace,
        "seeds",
        algorithm="random",
        space={"losses.own": {"uniform": [0.2, 0.8]}},
        scheduler="none",
        trials=1,
        seeds=2,
    )
    found, folder = run(path)
    assert found
    figures = results(folder)[0]["figures"]
    runs = [json.loads(f.read_text()) for f in sorted(folder.glob(f"trials/*/{SUMMARY}"))]
    losses = [run["heldout"]["help_loss"] for run in runs]
    assert [run["seed"] for run in runs] == [0, 1]
    assert figures[HELP] == pytest.approx(sum(losses) / 2)
    assert figures[f"spread.{HELP}"] == pytest.approx(abs(losses[0] - losses[1]) / 2**0.5)


@pytest.mark.ray  # a search starts its own Ray
@LONG
def test_a_search_whose_driver_is_killed_goes_on_with_the_same_command(
    workplace: Path, own_tmp: Path
) -> None:
    space = {"losses.own": {"uniform": [0.2, 0.8]}}
    path = write_search(workplace, "killed", space=space, algorithm="random", scheduler="none",
                        trials=2, set={**BASE, "intervals": 6})  # fmt: skip
    command = [sys.executable, "-m", "jobs.cli", "tune", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    folder = workplace / "searches" / "killed"
    pair = folder / "trials" / "001" / "checkpoints" / "000002" / "manifest.json"
    _await(pair, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = results(folder)
    assert (before[0]["status"], before[1]["status"]) == ("finished", "running")
    first = (folder / "trials" / "000" / SUMMARY).stat().st_mtime_ns
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    after = results(folder)
    assert [t["status"] for t in after.values()] == ["finished", "finished"]
    assert [t["point"] for t in after.values()] == [t["point"] for t in before.values()]
    assert (folder / "trials" / "000" / SUMMARY).stat().st_mtime_ns == first
    assert "trial 001 goes on" in again.stdout
    assert "trial 000" not in again.stdout

    alone = load_config(str(folder / "trials" / "001" / "config.yaml"), ["name=alone"])
    undisturbed = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "train", str(folder / "trials/001/config.yaml"),
         "name=alone"], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert undisturbed.returncode in (0, 3), undisturbed.stderr
    whole = json.loads(Path(alone.run_url, SUMMARY).read_text())
    resumed = json.loads((folder / "trials" / "001" / SUMMARY).read_text())
    assert resumed["digest"] == whole["digest"]


@pytest.mark.ray  # a search starts its own Ray
@LONG
def test_ctrl_c_ends_the_trials_and_says_how_to_go_on(workplace: Path, own_tmp: Path) -> None:
    path = write_search(workplace, "ctrl-c", space={"losses.own": {"uniform": [0.2, 0.8]}},
                        algorithm="random", scheduler="none", trials=2,
                        set={**BASE, "intervals": 200})  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", "tune", str(path)], stderr=subprocess.PIPE, text=True,
        stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    folder = workplace / "searches" / "ctrl-c"
    _await(folder / "trials" / "000" / "checkpoints" / "000001" / "manifest.json", process)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130, told
    assert "the same command goes on" in told
    assert results(folder)[0]["status"] == "running"
    _, alive = psutil.wait_procs(family, timeout=GONE_S)
    assert alive == []


def _await(path: Path, process: subprocess.Popen[Any]) -> None:
    until = time.monotonic() + DEADLINE_S
    while not path.exists():
        assert process.poll() is None, "the search ended too early"
        assert time.monotonic() < until, f"{path} did not come"
        time.sleep(0.02)


def test_a_pair_that_is_handed_over_goes_on_to_the_bit(workplace: Path, tmp_path: Path) -> None:
    settings = ["intervals=4", "checkpoints={every: 1, keep_last: 9}", "evaluation.every=0"]
    path = str(workplace / "tiny.yaml")
    donor = load_config(path, [*settings, "name=donor"])
    whole = run_in_process(donor).summary
    hand_over(RunDir(donor.run_url), 2, tmp_path, whole=True)

    same = load_config(path, [*settings, "name=heir"])
    assert take_over(tmp_path, same) == 2
    assert run_in_process(same, resume=True).summary["digest"] == whole["digest"]

    moved = load_config(path, [*settings, "name=moved", "losses.own=0.3", "data.optimizer.lr=1e-3"])
    take_over(tmp_path, moved)
    summary = run_in_process(moved, resume=True).summary
    assert summary["digest"] != whole["digest"]
    assert summary["data"]["steps"] == whole["data"]["steps"]


@pytest.mark.ray  # a search starts its own Ray
@LONG
@pytest.mark.usefixtures("leaves_nothing")
def test_a_population_moves_its_worst_to_its_best_and_resumes_to_the_bit(
    workplace: Path, tmp_path: Path
) -> None:
    path = write_search(
        workplace,
        "population",
        set={**BASE, **LIGHT, "intervals": 8, "checkpoints.keep_last": 20},
        space={"data.optimizer.lr": {"choice": [1e-9, 2e-3]}, "losses.own": {"uniform": [0.2, 2]}},
        algorithm="random",
        scheduler="pbt",
        grace_intervals=2,
        trials=3,
        seed=2,
    )
    found, folder = run(path)
    trials = results(folder)
    assert found
    assert {t["status"] for t in trials.values()} == {"finished"}
    moved = [(n, i, move) for n, t in trials.items() for i, move in enumerate(t["moves"], 1)]
    assert moved
    checked = 0
    for number, generation, move in moved:
        place = folder / "trials" / f"{number:03d}-{generation}"
        config = load_config(str(place / "config.yaml"))
        assert config.losses.own == move["values"]["losses.own"]
        for handed in folder.glob("tune/0/*/checkpoint_*"):
            checked += _went_on_from(handed, place, config, tmp_path / handed.name)
    assert checked >= 1


def _went_on_from(handed: Path, place: Path, config: Any, scratch: Path) -> bool:
    """Trains again from a pair that a donor handed over, where this run began with it."""
    pairs = sorted((place / "checkpoints").iterdir())
    given = handed / "checkpoints" / pairs[0].name
    part = "data-000.safetensors"
    if not given.exists() or (given / part).read_bytes() != (pairs[0] / part).read_bytes():
        return False
    summary = place / SUMMARY
    if not summary.exists():
        return False  # it was moved again before its end
    again = load_config(str(place / "config.yaml"), [f"storage={scratch}", "name=again"])
    take_over(handed, again)
    expected = json.loads(summary.read_text())["digest"]
    assert train(again, resume=True).summary["digest"] == expected
    shutil.rmtree(scratch)
    return True


@pytest.mark.usefixtures("shared_ray")
@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"space": {"memory.workers.num_workers": {"choice": [1, 9]}},
             "set": {**BASE, "memory.batch_size": 9}},
            r"CPU: asked 10 \(data 1 x 1, memory 9 x 1\), available 2",
        ),
        (
            {"space": {"losses.own": {"uniform": [0.2, 0.8]}},
             "set": {**BASE, "corpus.paths": ["nowhere.jsonl"]}},
            r"nowhere.jsonl",
        ),
    ],
)  # fmt: skip
def test_what_can_not_work_is_refused_before_anything_starts(
    workplace: Path, values: dict[str, Any], message: str
) -> None:
    path = write_search(workplace, "refused", **values)
    with pytest.raises(ConfigError, match=message):
        run(path)
    assert not (workplace / "searches" / "refused").exists()


@pytest.mark.usefixtures("shared_ray")
def test_another_search_under_the_same_name_is_refused_with_what_differs(workplace: Path) -> None:
    folder = workplace / "searches" / "same"
    space = {"losses.own": {"uniform": [0.2, 0.8]}}
    path = write_search(workplace, "same", space=space)
    os.makedirs(folder)
    search = load_search(str(path))
    (folder / "search.yaml").write_text(as_yaml(search))
    (folder / "base.yaml").write_text(search.base.to_yaml())
    with pytest.raises(ConfigError, match=r"holds another search \(seed was 0, now 3\)"):
        run(path, "seed=3")
    write_search(workplace, "same", space=space, set={**BASE, "intervals": 9})
    with pytest.raises(ConfigError, match=r"intervals was 4, now 9"):
        run(path)
