"""A run in a process of its own, commanded by the `tandem` command from others."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.test_cli import PATIENCE_S, ROOT, command, tandem
from tests.integration.tiny import REFLECTED

pytestmark = [
    pytest.mark.long,
    pytest.mark.ray,
]  # Rays of their own: their drivers are stopped and killed
INTERVALS = ("intervals=60", "checkpoints.every=10", "evaluation.every=0")


@pytest.fixture
def runs(workplace: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts runs in processes of their own, and ends what is left of them."""
    started: list[subprocess.Popen[str]] = []

    def start(name: str, *more: str) -> subprocess.Popen[str]:
        arguments = ("train", str(workplace / "tiny.yaml"), f"name={name}", *more)
        process = subprocess.Popen(
            command(*arguments),
            cwd=ROOT,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=(tmp_path / f"{name}.err").open("w"),
            text=True,
        )
        started.append(process)
        until(lambda: state(workplace / "runs" / name)["state"] == "running")
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.2)


def state(run: Path) -> dict[str, Any]:
    """What `tandem status --json` prints; `none` where there is no run yet."""
    done = tandem("status", str(run), "--json")
    return dict(json.loads(done.stdout)) if done.returncode == 0 else {"state": "none"}


def test_a_run_is_watched_saved_stopped_and_resumed_by_commands(
    workplace: Path, runs: Callable[..., subprocess.Popen[str]]
) -> None:
    run = workplace / "runs" / "commanded"
    process = runs("commanded", "intervals=5000", *INTERVALS[1:])
    again = tandem("resume", str(run))
    assert again.returncode == 2
    assert f"is running (process {process.pid} on" in again.stderr
    saved = tandem("checkpoint", str(run))
    assert saved.returncode == 0, saved.stderr
    assert "is written" in saved.stdout
    stopped = tandem("stop", str(run))
    assert stopped.returncode == 0, stopped.stderr
    assert process.wait(60) == 130
    seen = state(run)
    assert seen["state"] == "interrupted"
    assert {rank["host_bytes"] > 0 for g in seen["groups"].values() for rank in g["ranks"]} == {
        True
    }
    assert {rank["phase"] for g in seen["groups"].values() for rank in g["ranks"]} == {"ended"}
    manifests = sorted(p.parent.name for p in (run / "checkpoints").glob("*/manifest.json"))
    assert int(manifests[-1]) >= seen["interval"]  # of the stop
    for late in (("stop",), ("scale", "--data-workers", "2")):
        refused = tandem(late[0], str(run), *late[1:])
        assert refused.returncode == 2
        assert "it has ended as interrupted" in refused.stderr


def test_a_driver_that_was_killed_is_silent_and_its_run_goes_on_by_resume(
    workplace: Path, runs: Callable[..., subprocess.Popen[str]]
) -> None:
    run = workplace / "runs" / "killed"
    process = runs("killed", *INTERVALS, *REFLECTED)
    until(lambda: bool(list((run / "checkpoints").glob("*/manifest.json"))))
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    psutil.wait_procs(children, timeout=30)
    assert state(run)["state"] == "silent"
    refused = tandem("scale", str(run), "--memory-workers", "2")
    assert refused.returncode == 2
    assert f"it died. Continue with: tandem resume {run}" in refused.stderr
    listed = tandem("status", "--storage", str(workplace / "runs"), "--json")
    states = {row["url"]: row["state"] for row in json.loads(listed.stdout)["runs"]}
    assert states[str(run)] == "silent"
    resumed = tandem("resume", str(run))
    assert resumed.returncode == 0, resumed.stderr
    assert state(run)["state"] == "finished"
