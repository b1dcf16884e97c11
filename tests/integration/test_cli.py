"""The `tandem` command. In a process of its own where a run or a signal needs one, else on the
session's Ray.
"""

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

import psutil
import pytest
from typer.testing import CliRunner

from jobs.cli import app
from tests.integration.tiny import REFLECTED, UNREFLECTED, actor_processes

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 240.0


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "jobs.cli", *arguments]


def tandem(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S
    )


def tandem_here(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command inside this process."""
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def config(workplace: Path) -> str:
    return str(workplace / "tiny.yaml")


@pytest.fixture(scope="module")
def finished(workplace: Path) -> tuple[subprocess.CompletedProcess[str], Path]:
    """A run on an embedded Ray, whose memory is known to reflect the final data layer."""
    done = tandem("train", str(workplace / "tiny.yaml"), "name=cli", *REFLECTED)
    return done, workplace / "runs" / "cli"


def summary_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "summary.json").read_text()))


def test_a_run_whose_memory_reflects_the_final_version_exits_with_0(
    finished: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    done, run = finished
    assert done.returncode == 0, done.stderr
    assert summary_of(run)["reflects_final"] is True
    assert f"{run}/report.html" in done.stdout
    assert "(raylet)" not in done.stdout  # its own processes it ended itself


@pytest.mark.usefixtures("shared_ray")
def test_a_run_whose_memory_does_not_reflect_the_final_version_exits_with_3(
    config: str, workplace: Path
) -> None:
    code, _, stderr = tandem_here("train", config, "name=unreflected", *UNREFLECTED)
    assert code == 3, stderr
    summary = summary_of(workplace / "runs" / "unreflected")
    assert (summary["status"], summary["reflects_final"]) == ("finished_unreflected", False)


def test_a_mistyped_key_exits_with_2_names_the_nearest_and_leaves_no_run(
    config: str, workplace: Path
) -> None:
    done = tandem("train", config, "name=typo", "losses.hlep=1")
    assert done.returncode == 2
    assert "unknown key losses.hlep; did you mean losses.help?" in done.stderr
    assert not (workplace / "runs" / "typo").exists()


def test_a_run_that_is_there_already_exits_with_2_and_stays_as_it_was(
    config: str, workplace: Path
) -> None:
    there = workplace / "runs" / "there"
    there.mkdir(parents=True)
    (there / "summary.json").write_text("{}")
    code, _, stderr = tandem_here("train", config, "name=there")
    assert code == 2
    assert f"{there} exists already" in stderr
    assert [(p.name, p.read_text()) for p in there.iterdir()] == [("summary.json", "{}")]


@pytest.fixture
def broken_facts(workplace: Path, tmp_path: Path) -> Path:
    """The facts with a third line that is cut off."""
    lines = (workplace / "facts.jsonl").read_text().splitlines()
    path = tmp_path / "broken.jsonl"
    path.write_text("\n".join([*lines[:2], lines[2][:20], *lines[3:]]))
    return path


def refused(config: str, workplace: Path, *overrides: str) -> str:
    """What the command says of a mistake: exit code 2, no traceback, no run directory."""
    code, _, stderr = tandem_here("train", config, "name=refused", *overrides)
    assert code == 2
    assert not (workplace / "runs" / "refused").exists()
    assert stderr.startswith("error: ")
    return stderr


@pytest.mark.usefixtures("shared_ray")
def test_more_cpus_than_there_are_are_refused_with_asked_and_available(
    config: str, workplace: Path
) -> None:
    said = refused(config, workplace, "data.workers.cpus=64")
    assert "CPU: asked 65 (data 1 x 64, memory 1 x 1), available 2" in said


@pytest.mark.usefixtures("shared_ray")
def test_gpus_that_are_not_there_are_refused(config: str, workplace: Path) -> None:
    assert "GPU: asked 9000" in refused(config, workplace, "memory.workers.gpus=9000")


@pytest.mark.usefixtures("shared_ray")
def test_a_corpus_that_is_not_there_is_refused_by_its_path(config: str, workplace: Path) -> None:
    said = refused(config, workplace, f"corpus.paths=[{workplace}/none.jsonl]")
    assert f"{workplace}/none.jsonl: no such file" in said


@pytest.mark.usefixtures("shared_ray")
def test_a_malformed_line_is_refused_by_file_and_line_number(
    config: str, workplace: Path, broken_facts: Path
) -> None:
    said = refused(config, workplace, f"corpus.paths=[{broken_facts}]")
    assert f"{broken_facts}, line 3: not JSON" in said


@pytest.mark.usefixtures("shared_ray")
def test_a_read_layer_that_the_model_does_not_have_is_refused(config: str, workplace: Path) -> None:
    said = refused(config, workplace, "data.layer.read_layers=[0, 9]")
    assert "read_layers" in said
    assert "9" in said


def test_a_ring_that_can_not_fit_the_object_store_is_refused(config: str, workplace: Path) -> None:
    large = ("memory.layer.slots_side=512", "memory.layer.dim=128")
    done = tandem("train", config, "name=refused", "ray.object_store_mib=80", *large)
    assert done.returncode == 2, done.stderr
    assert "the object store is too small" in done.stderr
    assert "ray.object_store_mib" in done.stderr
    assert not (workplace / "runs" / "refused").exists()


def test_evaluate_recomputes_the_same_figures_from_the_exports_alone(
    finished: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    _, run = finished
    code, stdout, stderr = tandem_here("evaluate", str(run), "--json")
    assert code == 0, stderr
    found, summary = json.loads(stdout), summary_of(run)
    assert len(found["heldout"]) >= 8
    expected = {name: summary["heldout"][name] for name in found["heldout"]}
    assert found["heldout"] == pytest.approx(expected, rel=1e-5)
    for same in ("accuracy", "accuracy_seen", "num_probes", "digest", "reflects_final"):
        assert found[same] == summary[same]


def test_ask_prints_the_three_voices_and_lambda_token_by_token(
    finished: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    _, run = finished
    arguments = ("ask", str(run), "The capital of Baran is", "--tokens", "--max-tokens", "4")
    code, stdout, stderr = tandem_here(*arguments)
    assert code == 0, stderr
    rows = [line for line in stdout.splitlines() if line.startswith(("┃", "│"))]
    heads = [cell.strip() for cell in rows[0].strip("┃").split("┃")]
    assert [h for h in heads if h not in ("p", "λ")] == [
        "data layer alone",
        "with memory",
        "memory alone",
    ]
    assert 1 <= len(rows) - 1 <= 4
    shares = [row.strip("│").split("│")[heads.index("λ")].strip() for row in rows[1:]]
    assert all(0 <= float(share) <= 1 for share in shares if share)
    assert any(shares)


@pytest.mark.parametrize("job", [("evaluate",), ("ask",)])
def test_a_folder_that_is_no_run_is_refused(job: tuple[str], tmp_path: Path) -> None:
    prompt = ("hello",) if job == ("ask",) else ()
    code, _, stderr = tandem_here(*job, str(tmp_path / "none"), *prompt)
    assert code == 2
    assert str(tmp_path / "none") in stderr


@pytest.mark.usefixtures("shared_ray")
def test_a_loss_that_is_no_number_exits_with_1_and_names_group_step_and_last_good_version(
    config: str, workplace: Path
) -> None:
    wild = ("data.optimizer.lr=1e30", "data.optimizer.clip_norm=1e30")
    code, _, stderr = tandem_here("train", config, "name=wild", *wild)
    assert code == 1
    summary = summary_of(workplace / "runs" / "wild")
    assert summary["status"] == "failed"
    assert summary["cause"] in stderr
    for part in ("data rank 0", "is nan at step", "last good state is version"):
        assert part in summary["cause"]


@pytest.fixture
def training(config: str, workplace: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A run that would take hours, in a process group of its own, once it trains."""
    run = workplace / "runs" / "endless"
    with subprocess.Popen(
        command("train", config, "name=endless", "intervals=100000", "evaluation.every=0"),
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + PATIENCE_S
        while not (run / "config.yaml").exists():  # written when both groups are ready
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline, "the run did not start"
            try:
                process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
        yield process, run
        if process.poll() is None:
            process.kill()


def test_ctrl_c_ends_a_run_with_130_a_summary_and_no_process_left(
    training: tuple[subprocess.Popen[str], Path],
) -> None:
    process, run = training
    root = psutil.Process(process.pid)
    children = root.children(recursive=True)
    assert len(actor_processes(root)) == 2
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole process group
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    summary = summary_of(run)
    assert summary["status"] == "interrupted"
    assert "SIGINT" in summary["cause"]
    _, left = psutil.wait_procs(children, timeout=15)
    assert left == []
