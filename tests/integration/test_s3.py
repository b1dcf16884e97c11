"""A Parquet corpus and the run directory on an S3 server: killed, resumed, and the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from actors.layers.named_writes import NamedWrites
from actors.sources.paths import list_files
from actors.weights.lock_file import LockedError, locked
from actors.weights.writes_store import WritesStore
from orchestrator.console import Console
from orchestrator.loop.command import Command, Reply
from orchestrator.run_dir.mailbox import Mailbox, new_id
from orchestrator.run_dir.row_log import RowLog, read_rows
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.settings.config import Config, load_config
from tests.integration.tiny import run_in_process
from tests.unit.actors.told import assert_same, made_write

ROOT = Path(__file__).resolve().parents[2]
NOVELS = ROOT.parent / "shared" / "data" / "text"
PATIENCE_S = 240.0


@pytest.fixture(scope="module")
def environment(own_tmp: Path) -> Iterator[dict[str, str]]:
    """The variables by which boto finds the server, here and in the runs' processes."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        fs = fsspec.filesystem("s3", skip_instance_cache=True)
        fs.mkdir("tandem")
        yield {**os.environ, **variables}
    server.stop()


def write_parquet(folder: str, number: int, rows: list[str]) -> None:
    """A file whose column of text has a name of its own, beside another one."""
    fs = fsspec.filesystem("s3", skip_instance_cache=True)
    with fs.open(f"tandem/{folder}/part-{number}.parquet", "wb") as handle:
        pq.write_table(pa.table({"body": rows, "id": range(len(rows))}), handle)


@pytest.fixture(scope="module")
def corpus(environment: dict[str, str], workplace: Path) -> str:
    """The workplace's text as two Parquet files."""
    lines = (workplace / "text.txt").read_text().splitlines()
    for number in range(2):
        rows = [" ".join(lines[i : i + 5]) for i in range(number * 5, len(lines) - 5, 10)]
        write_parquet("corpus", number, rows)
    return "s3://tandem/corpus/*.parquet"


@pytest.fixture(scope="module")
def novels(environment: dict[str, str]) -> str:
    """Two novels as two Parquet files of a row per paragraph."""
    paths = [NOVELS / "Middlemarch_145.txt", NOVELS / "War-and-Peace_2600.txt"]
    if not all(path.exists() for path in paths):
        pytest.skip(f"the novels are not in {NOVELS}")
    for number, path in enumerate(paths):
        write_parquet("novels", number, path.read_text(encoding="utf-8").split("\n\n"))
    return "s3://tandem/novels/*.parquet"


def settings(corpus: str, name: str) -> list[str]:
    text = f"corpus={{kind: text, paths: ['{corpus}'], text_column: body, window: 24, "
    return [
        text + "block_bytes: 512}",
        "storage=s3://tandem/runs",
        f"name={name}",
        "intervals=4",
        "checkpoints.every=1",
        "evaluation.every=0",
    ]


def config_of(workplace: Path, corpus: str, name: str) -> Config:
    return load_config(str(workplace / "tiny.yaml"), settings(corpus, name))


def summary_of(name: str) -> dict[str, Any]:
    fs = fsspec.filesystem("s3", skip_instance_cache=True)
    return dict(json.loads(fs.cat_file(f"tandem/runs/{name}/summary.json")))


@pytest.mark.usefixtures("environment")
def test_a_command_and_its_reply_go_through_a_mailbox_on_s3() -> None:
    url = "s3://tandem/runs/commanded"
    client, driver = Mailbox(RunDir(url)), Mailbox(RunDir(url))
    driver.empty()
    command = Command(id=new_id(), run="commanded", driver="d", kind="resize", data_workers=2)
    assert list(driver.take("commanded", "d")) == []
    client.post(command)
    assert client.reply_to(command.id) is None
    assert list(driver.take("commanded", "d")) == [command]
    for state in ("accepted", "done"):
        driver.reply(Reply(id=command.id, state=state, message="x"))  # type: ignore[arg-type]
        assert client.reply_to(command.id) == Reply(id=command.id, state=state, message="x")  # type: ignore[arg-type]
    assert list(driver.take("commanded", "d")) == []
    assert list(RunDir(url).list_files("mailbox")) == [f"{command.id}.reply.json"]


@pytest.mark.usefixtures("environment")
def test_rows_of_a_running_run_are_numbered_parts_on_s3_and_joined_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("orchestrator.run_dir.row_log.MOST_PARTS", 3)
    run_dir, rows = RunDir("s3://tandem/runs/logged"), [{"interval": i} for i in range(1, 6)]
    log, parts = RowLog(run_dir), []
    for row in rows:
        log.add("interval", row)
        log.write()
        parts.append(len(run_dir.list_files("metrics")))
    assert parts == [1, 2, 3, 1, 2]
    assert read_rows(RunDir("s3://tandem/runs/logged")) == (rows, [])
    log.remove()
    assert read_rows(run_dir) == ([], [])


@pytest.mark.usefixtures("environment")
def test_names_with_brackets_are_exact_on_s3_too() -> None:
    fs = fsspec.filesystem("s3", skip_instance_cache=True)
    for name in ("proj [v1]/a 1.txt", "proj [v1]/a [1].txt", "proj [v1]/b/c.txt", "proj v/a.txt"):
        fs.pipe_file(f"tandem/{name}", name.encode())
    found = {
        entry: [file.key.removeprefix("tandem/") for file in list_files([f"s3://tandem/{entry}"])]
        for entry in ("proj [v1]/a [1].txt", "proj [v1]/a*", "proj [v1]", "proj [v]/*.txt")
    }
    assert found == {
        "proj [v1]/a [1].txt": ["proj [v1]/a [1].txt"],
        "proj [v1]/a*": ["proj [v1]/a 1.txt", "proj [v1]/a [1].txt"],
        "proj [v1]": ["proj [v1]/a 1.txt", "proj [v1]/a [1].txt", "proj [v1]/b/c.txt"],
        "proj [v]/*.txt": ["proj v/a.txt"],
    }
    run, other = RunDir("s3://tandem/runs [v1]/x"), RunDir("s3://tandem/runs v/x")
    for place in (run, other):
        place.write("checkpoints/1/a", "first")
        place.write("checkpoints/1/a", "second")
    assert run.read("checkpoints/1/a") == "second"
    run.remove("checkpoints/1")
    assert (run.list_folders("checkpoints"), other.list_folders("checkpoints")) == ([], ["1"])


def same_bits_after_a_kill(
    environment: dict[str, str], workplace: Path, corpus: str, name: str, *options: str
) -> None:
    """A run is killed and goes on in this process, as another does from the beginning."""
    whole = run_in_process(config_of(workplace, corpus, f"{name}-whole"))
    command = [sys.executable, "-m", "jobs.cli", "train", str(workplace / "tiny.yaml")]
    process = subprocess.Popen(
        [*command, *settings(corpus, f"{name}-stopped"), *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        cwd=ROOT,
    )
    fs = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
    deadline = time.monotonic() + PATIENCE_S
    while not fs.exists(f"tandem/runs/{name}-stopped/checkpoints/000001/manifest.json"):
        assert process.poll() is None, "the run ended before its first checkpoint"
        assert time.monotonic() < deadline, "no checkpoint came"
        time.sleep(0.02)
        fs.invalidate_cache()
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, quiet=False, file=nowhere, width=200)
        run_in_process(config_of(workplace, corpus, f"{name}-stopped"), console, resume=True)
    assert "resuming after interval" in console.export_text()
    assert summary_of(f"{name}-stopped")["digest"] == whole.summary["digest"]
    assert summary_of(f"{name}-whole")["digest"] == whole.summary["digest"]


def test_a_killed_run_on_s3_is_resumed_to_the_bits_of_an_undisturbed_one(
    environment: dict[str, str], corpus: str, workplace: Path
) -> None:
    same_bits_after_a_kill(environment, workplace, corpus, "text", "--in-process")


@pytest.mark.ray  # a driver of its own, which is killed
@pytest.mark.long
def test_so_is_one_on_ray_and_two_novels(
    environment: dict[str, str], novels: str, workplace: Path
) -> None:
    same_bits_after_a_kill(environment, workplace, novels, "novels")


def test_named_writes_are_kept_on_s3_by_one_process_at_a_time(environment: dict[str, str]) -> None:
    fs = fsspec.filesystem("s3", skip_instance_cache=True)
    fs.pipe_file("tandem/told/export/export.json", b'{"checksums": {"memory_layer": {}}}')
    store = WritesStore("s3://tandem/told/export")
    writes = NamedWrites((made_write("atlantis", 1),))
    with store.changing("tell") as change:
        held = pytest.raises(LockedError, match=r"process \d+ on .* \(tell\) has held this lock")
        lock = "s3://tandem/told/export/memory_layer/writes/lock.json"
        with held, locked(lock, "untell", patience_s=0):
            raise AssertionError("two hold it")
        change.keep(writes)
    assert_same(WritesStore("s3://tandem/told/export").read().writes.writes[0], writes.writes[0])
    with store.changing("untell") as change:
        change.keep(NamedWrites())
    assert WritesStore("s3://tandem/told/export").read().removed == ("atlantis",)
    fs.invalidate_cache()
    found = fs.find("tandem/told/export/memory_layer")
    assert [name.rpartition("/")[2] for name in found] == ["manifest.json"]
