"""The driver dies or is told to go: nothing is left behind, and `--resume` goes on to the bit."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from orchestrator.settings.config import load_config
from tests.integration.tiny import actor_processes, run_in_process

pytestmark = pytest.mark.usefixtures("shared_ray")
LONG = pytest.mark.long

SETTINGS = ("intervals=8", "checkpoints.every=2", "evaluation.every=0")
PATIENCE_S = 180.0
GONE_S = 5.0
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
MANY = "intervals=60"  # so that a signal comes before the last of them
numbers = itertools.count()


@dataclass
class Driver:
    """A run in a process of its own, and its family."""

    name: str
    folder: Path
    command: list[str]
    process: subprocess.Popen[str]

    def wait_for(self, there: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not there():
            assert self.process.poll() is None, f"the run ended before {what}"
            assert time.monotonic() < deadline, f"{what} did not come"
            time.sleep(0.005)

    def wait_for_checkpoint(self, interval: int) -> None:
        manifest = self.folder / "checkpoints" / f"{interval:06d}" / "manifest.json"
        self.wait_for(manifest.exists, f"checkpoint {interval}")

    def end(self, signum: signal.Signals) -> list[psutil.Process]:
        """Sends a signal; returns the driver's family as it was just before."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signum)
        return family

    def resume(self, *options: str) -> dict[str, Any]:
        again = [*self.command, "--resume", *options]
        done = subprocess.run(again, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 3), done.stderr
        return self.summary()

    def summary(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "summary.json").read_text()))


def title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def left(family: list[psutil.Process]) -> list[str]:
    """Those of a family that are still there; but for Ray's agents, which take a while to see that
    their node is gone.
    """
    there = [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    return [text for p in there if not (text := title(p)).startswith(AGENTS)]


@pytest.fixture
def start(workplace: Path, request: pytest.FixtureRequest) -> Callable[..., Driver]:
    def begin(*overrides: str, **environment: str) -> Driver:
        name = f"driver-{next(numbers)}"
        command = [sys.executable, "-m", "jobs.cli", "train", str(workplace / "tiny.yaml")]
        command += [*SETTINGS, f"name={name}", *overrides]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **environment},
        )
        request.addfinalizer(process.kill)
        return Driver(name, workplace / "runs" / name, command, process)

    return begin


@pytest.fixture(scope="module")
def digest(workplace: Path) -> Callable[..., dict[str, str]]:
    """The digests of an undisturbed run, by its overrides; each is run once, in this process."""
    known: dict[tuple[str, ...], dict[str, str]] = {}

    def found(*overrides: str) -> dict[str, str]:
        if overrides not in known:
            settings = [*SETTINGS, f"name=driver-{next(numbers)}", *overrides]
            config = load_config(str(workplace / "tiny.yaml"), settings)
            known[overrides] = dict(run_in_process(config).summary["digest"])
        return known[overrides]

    return found


def test_after_a_driver_was_killed_nothing_is_left_and_it_is_resumed_to_the_bit(
    start: Callable[..., Driver], digest: Callable[..., dict[str, str]]
) -> None:
    driver = start()
    driver.wait_for_checkpoint(2)
    family = driver.end(signal.SIGKILL)
    assert driver.process.wait() == -signal.SIGKILL
    time.sleep(GONE_S)
    assert left(family) == []
    assert driver.resume("--in-process")["digest"] == digest()


@LONG
def test_a_driver_killed_while_it_writes_a_pair_is_resumed_from_the_one_before(
    start: Callable[..., Driver], digest: Callable[..., dict[str, str]]
) -> None:
    driver = start()
    torn = driver.folder / "checkpoints" / "000004"
    driver.wait_for(torn.exists, "the first file of checkpoint 4")
    driver.process.send_signal(signal.SIGKILL)
    assert driver.process.wait() == -signal.SIGKILL
    assert driver.resume()["digest"] == digest()


@LONG
def test_a_driver_killed_on_a_cluster_leaves_no_actor_and_no_placement_group(
    start: Callable[..., Driver],
) -> None:
    address = ray.get_runtime_context().gcs_address
    driver = start(RAY_ADDRESS=address)
    driver.wait_for_checkpoint(2)
    driver.process.send_signal(signal.SIGKILL)
    driver.process.wait()
    time.sleep(GONE_S)
    table = ray.util.placement_group_table().values()
    assert [row for row in table if row["state"] != "REMOVED"] == []
    assert actor_processes(psutil.Process()) == []  # of this Ray; others may run beside it


@LONG
def test_sigterm_leaves_a_checkpoint_from_which_the_run_goes_on_to_the_bit(
    start: Callable[..., Driver], digest: Callable[..., dict[str, str]]
) -> None:
    driver = start("checkpoints.every=100", MANY)
    driver.wait_for((driver.folder / "config.yaml").exists, "the start of the training")
    time.sleep(1.0)
    family = driver.end(signal.SIGTERM)
    output, _ = driver.process.communicate(timeout=PATIENCE_S)
    assert driver.process.returncode == 130, output
    assert driver.summary()["status"] == "interrupted"
    assert "stopped by SIGTERM" in driver.summary()["cause"]
    (saved,) = (driver.folder / "checkpoints").iterdir()
    assert (saved / "manifest.json").exists()
    time.sleep(GONE_S)
    assert left(family) == []
    assert driver.resume("--in-process")["digest"] == digest(MANY)
