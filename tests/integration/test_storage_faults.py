"""Storage that answers 503 or cuts connections: runs on S3 go on and write their results."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import ray
from moto.server import ThreadedMotoServer

from actors.wire import ConfigError, StorageError, TandemError
from orchestrator.console import Console
from orchestrator.run import train
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.settings.config import load_config
from tests.conftest import start_ray
from tests.integration.faulty_proxy import CUT, UNAVAILABLE, FaultyProxy

FAULT_S = 6.0  # longer than the client's own tries
LONG = pytest.mark.long
BOTH = pytest.mark.parametrize("mode", [UNAVAILABLE, CUT])
SETTINGS = ("storage=s3://faults/runs", "checkpoints={every: 1, keep_last: 9}")


@pytest.fixture(scope="module")
def proxy(own_tmp: Path) -> Iterator[FaultyProxy]:
    """S3 behind a proxy, where boto finds it, here and in processes started later."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    proxy = FaultyProxy(*server.get_host_and_port())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.url)
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_MAX_ATTEMPTS", "2")
        fsspec.filesystem("s3").clear_instance_cache()
        fsspec.filesystem("s3").mkdir("faults")  # moto keeps those of other tests in this process
        yield proxy
        fsspec.filesystem("s3").clear_instance_cache()
    proxy.close()
    server.stop()


@pytest.fixture(scope="module")
def ray_behind_proxy(proxy: FaultyProxy, own_tmp: Path) -> Iterator[None]:
    """A Ray whose workers find S3 as this process does: theirs is the environment of its start."""
    ray.shutdown()
    start_ray(own_tmp)
    yield
    ray.shutdown()


def run(workplace: Path, name: str, *overrides: str, resume: bool = False) -> tuple[Any, str]:
    """The summary of a run, and what a person was told."""
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, quiet=False, file=nowhere, width=300)
        settings = [*SETTINGS, f"name={name}", "evaluation.every=0", *overrides]
        config = load_config(str(workplace / "tiny.yaml"), settings)
        summary = train(config, console, resume=resume).summary
    return summary, console.export_text()


@BOTH
def test_a_write_waits_for_storage_that_is_away(proxy: FaultyProxy, mode: str) -> None:
    told: list[str] = []
    run_dir = RunDir(f"s3://faults/files/{mode}", 60.0, told.append)
    with proxy.failing(mode):
        back = threading.Timer(FAULT_S, proxy.set, ["pass"])
        back.start()
        run_dir.write("summary.json", "{}")
        back.join()
    assert proxy.num_faults
    assert run_dir.read("summary.json") == "{}"
    assert len(told) == 1
    assert "it is tried again for 60 s (deadlines.storage_s)" in told[0]


@BOTH
def test_storage_that_stays_away_is_an_error_that_names_the_file(
    proxy: FaultyProxy, mode: str
) -> None:
    run_dir = RunDir("s3://faults/files/never", 2.0)
    began = time.monotonic()
    with proxy.failing(mode), pytest.raises(StorageError, match=r"summary.json: can't be written"):
        run_dir.write("summary.json", "{}")
    assert time.monotonic() - began < 60


def test_a_bucket_that_is_not_there_is_told_at_once(proxy: FaultyProxy) -> None:
    began = time.monotonic()
    with pytest.raises(ConfigError, match="can't be written"):
        RunDir("s3://nowhere/runs", 60.0).write("summary.json", "{}")
    assert time.monotonic() - began < 30


@LONG
@pytest.mark.usefixtures("ray_behind_proxy")
@BOTH
@pytest.mark.parametrize(
    "file", ["config.yaml", "checkpoints/000001/manifest.json", "export/export.json"]
)
@pytest.mark.ray  # a driver of its own, against a failing store
def test_a_run_outlives_faults_at_its_start_in_checkpoints_and_at_its_end(
    proxy: FaultyProxy, workplace: Path, mode: str, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The storage goes away just before (or, for exports, while) that file is written."""
    name = f"faulty-{mode}-{file.split('.')[0].replace('/', '-')}"
    write, failed = RunDir._replace, threading.Event()

    def fail() -> None:
        failed.set()
        proxy.set(mode)
        threading.Timer(FAULT_S, proxy.set, ["pass"]).start()

    def replace(self: RunDir, target: str, data: bytes) -> None:
        trigger = "report.html" if file.startswith("export") else file
        if target.endswith(trigger) and not failed.is_set():
            fail()
        write(self, target, data)

    monkeypatch.setattr(RunDir, "_replace", replace)
    summary, told = run(workplace, name)
    proxy.set("pass")
    assert failed.is_set()
    assert "it is tried again for 120 s" in told
    fs = fsspec.filesystem("s3")
    fs.invalidate_cache()
    assert summary["checkpoints"]["written"] >= 1
    for left in ("summary.json", "report.html", "metrics.parquet", "export/export.json"):
        assert fs.exists(f"faults/runs/{name}/{left}"), left
    written = json.loads(fs.cat_file(f"faults/runs/{name}/summary.json"))
    assert written["digest"] == summary["digest"]


@pytest.mark.ray  # a driver of its own, against a failing store
@LONG
@pytest.mark.usefixtures("ray_behind_proxy")
@BOTH
def test_a_resume_waits_for_storage_and_takes_the_newest_pair(
    proxy: FaultyProxy, workplace: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"resumed-{mode}"
    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.processes.ray_runtime.RayCluster.export", _broken_export)
        with pytest.raises(TandemError, match="for the test"):
            run(workplace, name)
    fs = fsspec.filesystem("s3")
    fs.invalidate_cache()
    proxy.set(mode)
    threading.Timer(FAULT_S, proxy.set, ["pass"]).start()
    summary, told = run(workplace, name, resume=True)
    assert "resuming after interval 3" in told
    assert "is tried again" in told
    assert summary["status"].startswith("finished")


def _broken_export(self: object, directory: str) -> dict[str, str]:
    raise TandemError("for the test")
