"""The `tandem` command: on an embedded Ray in a process of its own where Ray or a signal is what is
tested, else with `--in-process` here.
"""

from __future__ import annotations

import io
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

from jobs.api import load
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
    """A run on an embedded Ray, whose memory is known to have caught up with the data layer."""
    done = tandem("train", str(workplace / "tiny.yaml"), "name=cli", *REFLECTED)
    return done, workplace / "runs" / "cli"


@pytest.fixture(scope="module")
def trained(workplace: Path) -> Path:
    """A run in this process, whose memory has caught up with the data layer."""
    path = str(workplace / "tiny.yaml")
    code, _, stderr = tandem_here("train", path, "--in-process", "name=here", *REFLECTED)
    assert code == 0, stderr
    return workplace / "runs" / "here"


def summary_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "summary.json").read_text()))


@pytest.mark.ray  # an embedded Ray of its own, as a user's command starts it
def test_a_run_whose_memory_has_caught_up_exits_with_0(
    finished: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    done, run = finished
    assert done.returncode == 0, done.stderr
    # neither layer has learned anything: the memory agrees as it did before, and that is hardly
    assert summary_of(run)["status"] == "finished"
    assert summary_of(run)["reflects_final_verdict"] == "hardly"
    assert "memory reflects the final data layer: hardly (" in done.stdout
    assert f"{run}/report.html" in done.stdout
    assert "(raylet)" not in done.stdout  # its own processes it ended itself


def test_a_terminal_without_unicode_and_a_folder_with_brackets_do_not_end_a_run_that_is_done(
    config: str, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii"))
    folder = workplace / "my runs [v1] [red] 100% λ"
    with pytest.raises(SystemExit) as ended:
        app(["train", config, "--in-process", "name=plain", f"storage={folder}"])
    assert ended.value.code in (0, 3)
    said = raw.getvalue().decode("ascii")
    assert f"report: {workplace}/my runs [v1] [red] 100% ?/plain/report.html" in said
    assert "+----" in said


def test_a_run_outlives_the_reader_of_its_progress(
    config: str,
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr("sys.stdout", os.fdopen(writer, "w"))
    with pytest.raises(SystemExit) as ended:
        app(["train", config, "--in-process", "name=unread"])
    assert ended.value.code in (0, 3)
    assert summary_of(workplace / "runs" / "unread")["status"].startswith("finished")
    assert capsys.readouterr().err.count("warning: the output can't be written any more") == 1


def test_a_run_whose_memory_has_not_caught_up_exits_with_3(config: str, workplace: Path) -> None:
    code, _, stderr = tandem_here("train", config, "--in-process", "name=unreflected", *UNREFLECTED)
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


def test_a_corpus_that_is_not_there_is_refused_by_its_path(config: str, workplace: Path) -> None:
    said = refused(config, workplace, "--in-process", f"corpus.paths=[{workplace}/none.jsonl]")
    assert f"{workplace}/none.jsonl: no such file" in said


def test_a_malformed_line_is_refused_by_file_and_line_number(
    config: str, workplace: Path, broken_facts: Path
) -> None:
    said = refused(config, workplace, "--in-process", f"corpus.paths=[{broken_facts}]")
    assert f"{broken_facts}, line 3: not JSON" in said


def test_a_read_layer_that_the_model_does_not_have_is_refused(config: str, workplace: Path) -> None:
    said = refused(config, workplace, "--in-process", "data.layer.read_layers=[0, 9]")
    assert "read_layers" in said
    assert "9" in said


@pytest.mark.long
@pytest.mark.ray  # an embedded Ray of its own, as a user's command starts it
def test_a_ring_that_can_not_fit_the_object_store_is_refused(config: str, workplace: Path) -> None:
    large = ("memory.layer.slots_side=512", "memory.layer.dim=128")
    done = tandem("train", config, "name=refused", "ray.object_store_mib=80", *large)
    assert done.returncode == 2, done.stderr
    assert "the object store is too small" in done.stderr
    assert "ray.object_store_mib" in done.stderr
    assert not (workplace / "runs" / "refused").exists()


def test_evaluate_recomputes_the_same_figures_from_the_exports_alone(
    trained: Path,
) -> None:
    run = trained
    code, stdout, stderr = tandem_here("evaluate", str(run), "--json")
    assert code == 0, stderr
    found, summary = json.loads(stdout), summary_of(run)
    assert len(found["heldout"]) >= 8
    expected = {name: summary["heldout"][name] for name in found["heldout"]}
    assert found["heldout"] == pytest.approx(expected, rel=1e-5)
    for same in ("accuracy", "accuracy_seen", "num_probes", "digest", "reflects_final"):
        assert found[same] == summary[same]


def test_ask_prints_the_three_voices_and_lambda_token_by_token(
    trained: Path,
) -> None:
    run = trained
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


def test_a_loss_that_is_no_number_exits_with_1_and_names_group_step_and_last_good_version(
    config: str, workplace: Path
) -> None:
    wild = ("data.optimizer.lr=1e30", "data.optimizer.clip_norm=1e30")
    code, _, stderr = tandem_here("train", config, "--in-process", "name=wild", *wild)
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


@pytest.mark.ray  # an embedded Ray of its own, as a user's command starts it
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


@pytest.fixture(scope="module")
def new_facts(workplace: Path) -> Path:
    """Facts that the run was not trained on."""
    path = workplace / "new.jsonl"
    rows = [{"relation": "capital", "subject": f"Zor{i}", "object": f"Quel{i}"} for i in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def learned(trained: Path, new_facts: Path) -> tuple[dict[str, Any], Path, dict[str, bytes]]:
    """What the run's memory learned, where that is, and the run's files before it."""
    run = trained
    before = contents(run)
    how = ("--steps", "12", "--lr", "0.03", "--json")  # the run itself hardly moved
    arguments = ("learn", str(run), "--facts", str(new_facts), *how)
    code, stdout, stderr = tandem_here(*arguments)
    assert code == 0, stderr
    return json.loads(stdout), run.with_name("here-learned"), before


def test_learn_leaves_the_run_as_it_was_and_the_result_beside_it(
    trained: Path,
    learned: tuple[dict[str, Any], Path, dict[str, bytes]],
) -> None:
    said, result, before = learned
    assert contents(trained) == before
    assert said["out"] == str(result)
    assert "what the memory learned" in (result / "report.html").read_text()
    assert json.loads((result / "learned.json").read_text()) == said


def test_learn_says_what_was_learned_and_lost_with_the_data_layer_frozen(
    trained: Path,
    learned: tuple[dict[str, Any], Path, dict[str, bytes]],
) -> None:
    said, result, _ = learned
    new, old = said["new"], said["old"]
    assert new["after"]["heldout"]["self_loss"] < new["before"]["heldout"]["self_loss"]
    for corpus in (new, old):
        assert corpus["after"]["accuracy"].keys() == {"own", "help", "memory", "baseline"}
        assert corpus["after"]["heldout"]["own_loss"] == corpus["before"]["heldout"]["own_loss"]
    assert said["facts"] == {"given": 6, "in_run": 0, "contradicting": 0, "among_themselves": 0}
    digest, run_digest = summary_of(result)["digest"], summary_of(trained)["digest"]
    assert said["port"] is None  # the port is all that trains of some models, not of this one
    assert digest["data"] == run_digest["data"]
    assert digest["memory"] != run_digest["memory"]
    assert old["before"]["accuracy"] == summary_of(trained)["accuracy"]


def test_evaluate_ask_and_load_take_what_learn_left(
    learned: tuple[dict[str, Any], Path, dict[str, bytes]],
) -> None:
    said, result, _ = learned
    code, stdout, stderr = tandem_here("evaluate", str(result), "--json")
    assert code == 0, stderr
    found, summary = json.loads(stdout), summary_of(result)
    expected = {name: said["old"]["after"]["heldout"][name] for name in found["heldout"]}
    assert len(expected) >= 8
    assert found["heldout"] == pytest.approx(expected, rel=1e-5)
    for same in ("accuracy", "accuracy_seen", "digest", "reflects_final"):
        assert found[same] == summary[same]
    code, stdout, _ = tandem_here("ask", str(result), "The capital of Zor1 is", "--max-tokens", "2")
    assert (code, "memory alone" in stdout) == (0, True)
    assert load(result).ask("The capital of Zor1 is", max_new_tokens=1) is not None


def test_learn_twice_with_one_seed_gives_the_same_bits(
    trained: Path,
    new_facts: Path,
    tmp_path: Path,
) -> None:
    digests = []
    for name in ("a", "b"):
        arguments = ("--steps", "3", "--seed", "5", "--old-from", "corpus")
        arguments += ("--out", str(tmp_path / name))
        code, _, stderr = tandem_here("learn", str(trained), "--facts", str(new_facts), *arguments)
        assert code == 0, stderr
        digests.append(summary_of(tmp_path / name)["digest"])
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "either --facts FILE or --text CORPUS"),
        (("--facts", "NEW", "--text", "NEW"), "either --facts FILE or --text CORPUS"),
        (("--facts", "NONE"), "NONE: no such file"),
        (("--facts", "BROKEN"), "BROKEN, line 3: not JSON"),
        (("--facts", "NEW", "--out", "RUN"), "RUN exists already; choose another --out"),
        (("--facts", "NEW", "--lr", "0"), "--lr 0: expected a positive number"),
        (("--facts", "NEW", "--stpes", "3"), "--stpes"),
    ],
)
def test_what_learn_can_not_do_is_refused_and_leaves_nothing(
    trained: Path,
    new_facts: Path,
    broken_facts: Path,
    arguments: tuple[str, ...],
    said: str,
    tmp_path: Path,
) -> None:
    run = trained
    out = () if "--out" in arguments else ("--out", str(tmp_path / "refused"))
    names = {"NEW": new_facts, "BROKEN": broken_facts, "NONE": tmp_path / "none.jsonl", "RUN": run}
    before = contents(run)
    given = [str(names.get(argument, argument)) for argument in arguments]
    code, _, stderr = tandem_here("learn", str(run), *given, *out)
    assert code == 2
    for name, path in names.items():
        said = said.replace(name, str(path)) if said.startswith(name) else said
    assert said in stderr
    assert not (tmp_path / "refused").exists()
    assert contents(run) == before


def test_evaluate_learn_compares_two_forks_and_changes_nothing_of_the_run(
    trained: Path, workplace: Path
) -> None:
    run = trained
    before = contents(run)
    arguments = ("--learn", str(workplace / "text.txt"), "--steps", "5", "--json")
    code, stdout, stderr = tandem_here("evaluate", str(run), *arguments)
    assert code == 0, stderr
    found = json.loads(stdout)
    assert contents(run) == before
    assert found["without"]["curve"][0]["own_loss"] == found["with"]["curve"][0]["own_loss"]
    for fork in ("without", "with"):
        assert [row["step"] for row in found[fork]["curve"]] == [0, 3, 5]
        assert found[fork]["data_tokens"] == found["without"]["data_tokens"] > 0
    assert found["without"]["memory_tokens"] == 0 < found["with"]["memory_tokens"]
    assert Path(found["report"]) == run.with_name("here-forks-text.html")
    assert Path(found["report"]).read_text().count("<svg") == 2


def test_options_of_forks_without_a_corpus_are_refused(
    trained: Path,
) -> None:
    code, _, stderr = tandem_here("evaluate", str(trained), "--steps", "5")
    assert code == 2
    assert "--learn CORPUS" in stderr
