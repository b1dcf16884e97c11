"""`tandem submit` and `tandem logs` on three nodes of one machine with Ray's token authentication,
from another directory and with the installed package only.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import yaml

from tests.integration.tiny import REFLECTED, UNREFLECTED, write_config, write_corpora

pytestmark = pytest.mark.ray  # a cluster of its own: one with tokens and a job server

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 300.0
SECRET = "hush-" + secrets.token_hex(8)


@dataclass(frozen=True)
class Place:
    """A cluster that asks for a token, and a machine that has only the installed package."""

    dashboard: str
    token: str
    token_file: Path
    folder: Path  # corpora, tiny.yaml and storage
    elsewhere: Path
    package: Path
    ray_tmp: Path

    @property
    def storage(self) -> Path:
        return self.folder / "runs"

    def env(self, **changes: str) -> dict[str, str]:
        dropped = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "RAY_ADDRESS")
        env = {k: v for k, v in os.environ.items() if k not in dropped}
        own = {"HOME": str(self.elsewhere), "PYTHONPATH": str(self.package)}
        return {**env, **own, "RAY_AUTH_TOKEN_PATH": str(self.token_file), **changes}

    def start(self, *arguments: str, **changes: str) -> subprocess.Popen[str]:
        """The command, in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", *arguments, "--address", self.dashboard],
            cwd=self.elsewhere,
            env=self.env(**changes),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def tandem(self, *arguments: str, **changes: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of the command."""
        process = self.start(*arguments, **changes)
        out, err = process.communicate(timeout=PATIENCE_S)
        return process.returncode, out, err

    def submit(self, name: str, *more: str, **changes: str) -> tuple[int, str, str]:
        return self.tandem("submit", "train", str(self.config), f"name={name}", *more, **changes)

    @property
    def config(self) -> Path:
        return self.folder / "tiny.yaml"

    def summary(self, name: str) -> dict[str, Any]:
        return dict(json.loads((self.storage / name / "summary.json").read_text()))


@pytest.fixture(scope="module")
def place(own_tmp: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    source, package = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("package")
    for name in ("actors", "orchestrator", "jobs"):
        left_out = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=left_out)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--no-build-isolation", "--target", str(package), str(source)),
        ],
        check=True,
        capture_output=True,
    )
    folder = tmp_path_factory.mktemp("shared")
    write_corpora(folder)
    write_config(folder)
    token, token_file = secrets.token_hex(32), tmp_path_factory.mktemp("token") / "token"
    token_file.write_text(token)
    elsewhere, ray_tmp = tmp_path_factory.mktemp("elsewhere"), own_tmp / "n"
    ray_tmp.mkdir()
    where = Place("", token, token_file, folder, elsewhere, package, ray_tmp)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = where.env(RAY_AUTH_MODE="token", RAY_TMPDIR=str(ray_tmp), PATH=path, PYTHONPATH=str(ROOT))
    with (own_tmp / "nodes.err").open("w") as errors:
        nodes = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.nodes", "2"],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert nodes.stdin is not None
    assert nodes.stdout is not None
    started = psutil.Process(nodes.pid)
    try:
        line = nodes.stdout.readline()
        assert line, (own_tmp / "nodes.err").read_text()[-2000:]
        yield Place(**{**vars(where), "dashboard": json.loads(line)["dashboard"]})
    finally:
        left = started.children(recursive=True)
        nodes.stdin.close()
        nodes.wait(60)
        _, alive = psutil.wait_procs(left, timeout=20)
        for process in alive:
            process.kill()


def command_line(pid: int) -> str:
    """Of a process, as everyone on the machine sees it."""
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ""


def environment(pid: int) -> str:
    """Of a process, as its owner sees it."""
    try:
        return json.dumps(psutil.Process(pid).environ())
    except (psutil.Error, OSError):
        return ""


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"no {what} after {PATIENCE_S:g} s"
        time.sleep(0.1)


def test_a_submitted_run_is_the_local_one_and_leaves_no_token_anywhere(place: Place) -> None:
    mine = (str(place.config), *REFLECTED)
    process = place.start(
        "submit", "train", *mine, "name=sent", "--env", "TRIAL_SECRET", TRIAL_SECRET=SECRET
    )
    command_lines, drivers = set(), set()
    while process.poll() is None:
        for pid in psutil.pids():
            command_lines.add(line := command_line(pid))
            if line.startswith("python3 -m jobs.cli train"):
                drivers.add(SECRET in environment(pid))
        time.sleep(0.2)
    out, err = process.communicate()
    assert process.returncode == 0, out + err
    assert "3 node(s)" in out
    assert "token accepted" in out
    assert "held out at v3" in out  # the progress of the run
    assert f"report: {place.storage}/sent/report.html" in out

    local = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "train", *mine, "name=local", "--in-process"],
        cwd=place.elsewhere,
        env=place.env(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert local.returncode == 0, local.stderr
    sent, here = place.summary("sent"), place.summary("local")
    for key in ("digest", "heldout", "accuracy", "reflects_final", "status"):
        assert sent[key] == here[key], key

    code, log, err = place.tandem("logs", "sent")
    assert code == 0, err
    assert f"report: {place.storage}/sent/report.html" in log

    assert drivers == {True}  # --env reached the driver
    for secret in (place.token, SECRET):
        assert secret not in out + err + log
        assert not [line for line in command_lines if secret in line]
    logs = next(iter(place.ray_tmp.glob("ray/session_2*/logs")))
    assert (logs / "runtime_env_agent.log").is_file()
    found = [
        str(path)
        for folder in (logs, place.storage)
        for path in folder.rglob("*")
        if path.is_file()
        and (place.token.encode() in (content := path.read_bytes()) or SECRET.encode() in content)
    ]
    assert found == []


def test_a_cluster_with_a_token_refuses_who_has_none(place: Place) -> None:
    code, out, err = place.submit("refused", RAY_AUTH_TOKEN_PATH="")
    assert (code, out) == (2, "")
    assert f"{place.dashboard} requires a token, and none was found here" in err
    assert "RAY_AUTH_TOKEN_PATH" in err


def test_a_cluster_with_a_token_refuses_who_has_a_wrong_one(place: Place) -> None:
    code, out, err = place.submit("refused", RAY_AUTH_TOKEN="wrong-" + SECRET)
    assert (code, out) == (2, "")
    assert f"{place.dashboard} refused the token of RAY_AUTH_TOKEN as wrong" in err
    assert SECRET not in err


@pytest.mark.long
def test_the_exit_code_of_a_run_whose_memory_does_not_reflect_is_handed_on(place: Place) -> None:
    code, out, err = place.submit("unreflected", *UNREFLECTED)
    assert code == 3, out + err
    assert "failed, exit code 3" in out


@pytest.mark.long
def test_everything_that_the_cluster_lacks_is_said_before_the_job_is_sent(place: Place) -> None:
    (place.folder / "there").mkdir()
    code, out, err = place.submit(
        "there",
        "corpus.templates=/nowhere/templates.json",
        "data.workers={cpus: 40}",
        f"storage={place.folder}",
    )
    assert code == 2, out + err
    assert f"run directory {place.folder}/there exists already" in err
    assert "/nowhere/templates.json: neither on this machine nor on node" in err
    assert "there is no room for 1 x data worker (40 CPU)" in err
    assert "submitted" not in out


@pytest.mark.long
def test_a_storage_that_the_cluster_cannot_write_is_named(place: Place) -> None:
    (place.folder / "a-file").write_text("")
    code, _, err = place.submit("nowhere", f"storage={place.folder}/a-file")
    assert code == 2
    assert f"storage {place.folder}/a-file: can't be written from the cluster's head" in err


@pytest.mark.long
def test_ctrl_c_leaves_the_job_and_its_stop_leaves_a_checkpoint(place: Place) -> None:
    from jobs.submit.follow import find_job
    from jobs.submit.job_server import connect

    process = place.start(
        *("submit", "train", str(place.config), "name=left", "intervals=9999"),
        *("checkpoints.every=1", "evaluation.every=0"),
    )
    wait_for(lambda: any((place.storage / "left").glob("checkpoints/*")), "checkpoint")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "detached: job left-" in err

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(place.token_file))
        patch.delenv("RAY_AUTH_TOKEN", raising=False)
        server = connect(place.dashboard, False, lambda text: None)
        job_id = str(find_job(server.jobs(), "left").submission_id)
        assert server.job(job_id).status == "RUNNING"
        server.stop(job_id)
        code, out, err = place.tandem("logs", job_id, "--follow")
    assert code == 130, out + err
    assert "stopping after a checkpoint of interval" in out
    assert place.summary("left")["status"] == "interrupted"

    code, out, err = place.submit("left", "intervals=9999", "--no-wait")
    assert code == 2
    assert "exists already" in err


@pytest.mark.long
def test_a_submitted_search_leaves_its_results_and_a_trial_of_it_is_evaluated(place: Place) -> None:
    search = {
        "base": "tiny.yaml",
        "name": "searched",
        "storage": str(place.folder / "searches"),
        "set": {"intervals": 3, "evaluation.every": 0},
        "space": {"losses.own": {"uniform": [0.2, 0.9]}},
        "objectives": ["min heldout.help_loss"],
        "algorithm": "random",
        "scheduler": "none",
        "trials": 2,
    }
    path = place.folder / "search.yaml"
    path.write_text(yaml.safe_dump(search))
    code, out, err = place.tandem("submit", "tune", str(path))
    assert code == 0, out + err
    assert "2 trials: 2 finished" in out
    folder = place.folder / "searches" / "searched"
    rows = pq.read_table(folder / "results.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["finished", "finished"]
    best = min(rows, key=lambda row: row["heldout.help_loss"])
    assert (folder / "best.yaml").is_file()
    summary = json.loads((folder / "trials" / best["trial"] / "summary.json").read_text())
    assert summary["heldout"]["help_loss"] == best["heldout.help_loss"]

    code, out, err = place.tandem("submit", "evaluate", str(folder / "trials" / best["trial"]))
    assert code == 0, out + err
    assert "help" in out
