"""Disk full, storage away, object store full, the evaluator killed: training goes on to the bit."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from fsspec.implementations.local import LocalFileSystem

from orchestrator.console import Console
from orchestrator.run import RunResult, train
from orchestrator.settings.config import load_config
from tests.integration.tiny import actor_processes, run_in_process

LONG = pytest.mark.long

SETTINGS = ("intervals=4", "checkpoints={every: 1, keep_last: 4}", "evaluation.every=0")
PATIENCE_S = 120.0
LISTED_EVERY_S = 0.2  # the processes of which one may be an evaluator


def run(
    workplace: Path, name: str, trained: Callable[..., RunResult] = run_in_process
) -> tuple[dict[str, Any], str]:
    """The summary of a run, and what a person was told. The driver alone writes to storage, so that
    most need no Ray.
    """
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, quiet=False, file=nowhere, width=200)
        config = load_config(str(workplace / "tiny.yaml"), [*SETTINGS, f"name=storage-{name}"])
        summary = trained(config, console).summary
    return summary, console.export_text()


@pytest.fixture(scope="module")
def undisturbed(workplace: Path) -> dict[str, Any]:
    config = load_config(str(workplace / "tiny.yaml"), [*SETTINGS, "name=storage-undisturbed"])
    return run_in_process(config).summary


@contextmanager
def failing(code: int, when: Callable[[str], bool]) -> Iterator[list[str]]:
    """The driver's writes fail with that error number; yields the paths for which they did."""
    write, failed = LocalFileSystem.pipe_file, []

    def pipe_file(self: LocalFileSystem, path: str, value: bytes, **options: Any) -> Any:
        if when(str(path)):
            failed.append(str(path))
            raise OSError(code, os.strerror(code), str(path))
        return write(self, path, value, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalFileSystem, "pipe_file", pipe_file)
        yield failed


def test_a_full_disk_costs_the_checkpoints_and_not_the_run(
    workplace: Path, undisturbed: dict[str, Any]
) -> None:
    with failing(errno.ENOSPC, lambda path: "/checkpoints/" in path) as failed:
        summary, told = run(workplace, "full-disk")
    assert failed
    assert summary["digest"] == undisturbed["digest"]
    assert summary["checkpoints"]["written"] == 0
    assert "could not be written" in told
    assert "No space left on device" in told
    assert "training goes on" in told


def test_storage_that_is_away_at_the_end_is_waited_for(
    workplace: Path, undisturbed: dict[str, Any]
) -> None:
    ended: list[float] = []

    def away(path: str) -> bool:
        if "report.html" in path:
            ended.append(time.monotonic())
        return bool(ended) and time.monotonic() < ended[0] + 5.0

    with failing(errno.EIO, away) as failed:
        summary, told = run(workplace, "away")
    assert len(failed) >= 3
    assert summary["digest"] == undisturbed["digest"]
    assert (workplace / "runs" / "storage-away" / "summary.json").exists()
    assert "it is tried again for 120 s" in told


@pytest.mark.usefixtures("shared_ray")
def test_an_evaluator_that_is_killed_is_replaced(
    workplace: Path, undisturbed: dict[str, Any]
) -> None:
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        listed, there = 0.0, list[psutil.Process]()
        while not killed and not over.is_set():
            if time.monotonic() > listed + LISTED_EVERY_S:
                there, listed = actor_processes(psutil.Process()), time.monotonic()
            for process in there:
                with suppress(psutil.Error):  # it ended since
                    if "EvaluatorActor.evaluate" in " ".join(process.cmdline()):
                        process.kill()
                        killed.append(process.pid)
            time.sleep(0.001)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        summary, told = run(workplace, "evaluator", train)
    finally:
        over.set()
        killer.join()
    assert killed
    assert "the evaluator died in the final evaluation" in told
    assert summary["digest"] == undisturbed["digest"]
    assert summary["heldout"] == undisturbed["heldout"]


FULL_STORE = """
import json, sys
import numpy as np, ray
from orchestrator.settings.config import load_config
from orchestrator.run import train
ray.init(num_cpus=2, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False)
fillers = [ray.put(np.ones(10 << 20, np.uint8)) for _ in range(int(sys.argv[2]))]
held = [ray.get(ref) for ref in fillers]
result = train(load_config(sys.argv[1], sys.argv[3:]))
from ray._private.internal_api import memory_summary
said = memory_summary(ray.get_runtime_context().gcs_address)  # others may run beside it
print(json.dumps({"digest": result.summary["digest"], "spilled": "Spilled" in said}))
"""


@LONG
@pytest.mark.ray  # an object store of its own, which is filled
def test_an_object_store_that_others_fill_slows_the_run_and_costs_no_bit(workplace: Path) -> None:
    """Ray puts to disk what does not fit; nothing is refused."""
    settings = [*SETTINGS, "memory.layer.slots_side=64", "memory.layer.dim=64"]
    ended = []
    for num in (0, 9):
        command = [sys.executable, "-c", FULL_STORE, str(workplace / "tiny.yaml"), str(num)]
        command += [*settings, f"name=storage-store-{num}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == 0, done.stderr
        ended.append(json.loads(done.stdout.splitlines()[-1]))
    assert ended[0]["digest"] == ended[1]["digest"]
    assert [end["spilled"] for end in ended] == [False, True]
