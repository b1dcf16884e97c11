"""Runs in this process, without Ray: the bits of a run on Ray, and what only one process can do."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from actors.training.memory_trainer import MemoryTrainer
from actors.wire import ConfigError
from jobs.cli import app
from jobs.exit_codes import BAD_INPUT
from orchestrator.errors import InterruptedRunError
from orchestrator.loop.command import ACCEPTED, CHECKPOINT, DONE, REFUSED, RESIZE, STOP, Command
from orchestrator.run import RunResult, train
from orchestrator.run_dir.mailbox import Mailbox, new_id
from orchestrator.run_dir.metrics import Row
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.run_dir.status import look, read_status
from orchestrator.settings.config import Config, load_config
from orchestrator.settings.file_names import SUMMARY
from tests.integration.tiny import run_in_process

# One evaluation at the start, one in the middle, the final one: on Ray none of them is skipped
# because earlier ones still run, and reflection compares with the one before.
SETTINGS = ("intervals=4", "evaluation.every=2", "checkpoints={every: 1, keep_last: 4}")


def settings(workplace: Path, name: str, *overrides: str) -> Config:
    return load_config(str(workplace / "tiny.yaml"), [*SETTINGS, f"name={name}", *overrides])


@pytest.fixture(scope="module")
def by_ray(workplace: Path, shared_ray: None) -> RunResult:
    return train(settings(workplace, "by-ray"))


@pytest.fixture(scope="module")
def whole(workplace: Path) -> RunResult:
    """An undisturbed run in this process."""
    return run_in_process(settings(workplace, "in-process"))


def rows(result: RunResult) -> list[dict[str, Any]]:
    """The metrics by group and interval, without times."""
    table = pq.read_table(Path(result.path) / "metrics.parquet").to_pylist()
    timed = ("_s", "_at", "per_s")
    return [
        {key: value for key, value in row.items() if not key.endswith(timed) and "_s." not in key}
        for row in sorted(table, key=lambda row: (row["group"], row["interval"]))
    ]


def stopped_at(path: Path, name: str, interval: int) -> None:
    """A run's directory under another name, as a kill after that interval would have left it."""
    target = path.parent / name
    shutil.copytree(path, target)
    (target / SUMMARY).unlink()
    for folder in (target / "checkpoints").iterdir():
        if int(folder.name) != interval:
            shutil.rmtree(folder)
    text = (target / "config.yaml").read_text()
    (target / "config.yaml").write_text(text.replace(f"name: {path.name}\n", f"name: {name}\n"))


def files(result: RunResult) -> set[str]:
    """What a run left, by name; the ending of an event file's name is its own."""
    root = Path(result.path)
    names = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    return {name for name in names if "tfevents" not in name}


def test_a_run_in_process_ends_with_the_bits_of_one_on_ray(
    by_ray: RunResult, whole: RunResult
) -> None:
    assert whole.summary["digest"] == by_ray.summary["digest"]
    for key in ("status", "heldout", "accuracy", "questions", "exchange", "reflects_final_reason"):
        assert whole.summary[key] == by_ray.summary[key], key


def test_every_interval_measures_the_same(by_ray: RunResult, whole: RunResult) -> None:
    assert len(rows(whole)) > 8
    assert rows(whole) == rows(by_ray)


def test_a_run_in_process_leaves_the_same_files(by_ray: RunResult, whole: RunResult) -> None:
    assert files(whole) == files(by_ray)


def test_a_run_that_ray_began_is_resumed_in_process(workplace: Path, by_ray: RunResult) -> None:
    stopped_at(Path(by_ray.path), "ray-then-in-process", 2)
    again = run_in_process(settings(workplace, "ray-then-in-process"), resume=True)
    assert again.summary["digest"] == by_ray.summary["digest"]


def test_a_run_that_one_process_began_is_resumed_on_ray(
    workplace: Path, whole: RunResult, shared_ray: None
) -> None:
    stopped_at(Path(whole.path), "in-process-then-ray", 2)
    again = train(settings(workplace, "in-process-then-ray"), resume=True)
    assert again.summary["digest"] == whole.summary["digest"]


def test_the_command_trains_without_importing_ray(workplace: Path, whole: RunResult) -> None:
    script = (
        "import sys\n"
        "from jobs.cli import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "assert 'torch' in sys.modules\n"
        "assert [name for name in sys.modules if name.partition('.')[0] == 'ray'] == []\n"
    )
    arguments = ["train", str(workplace / "tiny.yaml"), "--in-process", "name=by-command"]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments, *SETTINGS], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Ray" not in done.stdout
    summary = json.loads((workplace / "runs" / "by-command" / "summary.json").read_text())
    assert summary["digest"] == whole.summary["digest"]


def test_what_needs_processes_is_bad_input_and_leaves_no_run(workplace: Path) -> None:
    arguments = ["train", str(workplace / "tiny.yaml"), "--in-process", "name=refused"]
    given = ["exchange.mode=async", "data.workers.num_workers=2"]
    refused = CliRunner().invoke(app, [*arguments, *given])
    assert refused.exit_code == BAD_INPUT
    for text in ("exchange.mode is async", "data.workers.num_workers is 2", "--in-process"):
        assert text in refused.stderr
    assert not (workplace / "runs" / "refused").exists()
    with pytest.raises(ConfigError, match=r"exchange\.mode is async"):
        run_in_process(settings(workplace, "refused", "exchange.mode=async"))


def test_ctrl_c_leaves_a_checkpoint_from_which_the_run_goes_on(
    workplace: Path, whole: RunResult
) -> None:
    def interrupt(row: Row) -> None:
        if row["data_version"] == 0:  # measured after both groups' first interval
            signal.raise_signal(signal.SIGINT)

    config = settings(workplace, "interrupted", "checkpoints.every=100")
    with pytest.raises(InterruptedRunError, match="stopped by SIGINT") as stopped:
        run_in_process(config, on_evaluation=interrupt)
    root = Path(config.run_url)
    assert f"; tandem resume {root} --in-process goes on" in str(stopped.value)
    assert json.loads((root / SUMMARY).read_text())["status"] == "interrupted"
    (saved,) = (root / "checkpoints").iterdir()
    assert 2 <= int(saved.name) < 4
    resumed = run_in_process(config, resume=True)
    assert resumed.summary["digest"] == whole.summary["digest"]


def test_a_second_ctrl_c_ends_the_run_at_once_as_interrupted(workplace: Path) -> None:
    def twice(row: Row) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    config = load_config(str(workplace / "tiny.yaml"), ["name=twice"])
    with pytest.raises(KeyboardInterrupt, match=r"tandem resume .*twice --in-process goes on"):
        run_in_process(config, on_evaluation=twice)
    assert look(RunDir(config.run_url)).state == "interrupted"


def test_what_a_trainer_raises_ends_the_run_as_it_is_with_its_traceback_and_its_cause_is_kept(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = MemoryTrainer.train_step

    def fail_at_step_4(self: MemoryTrainer) -> Any:
        return 1 / 0 if self.step == 4 else step(self)

    monkeypatch.setattr(MemoryTrainer, "train_step", fail_at_step_4)
    config = settings(workplace, "failed")
    with pytest.raises(ZeroDivisionError) as raised:
        run_in_process(config)
    frames = [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
    assert "fail_at_step_4" in frames
    summary = json.loads((Path(config.run_url) / SUMMARY).read_text())
    assert (summary["status"], summary["cause"]) == (
        "failed",
        "ZeroDivisionError: division by zero",
    )
    assert sorted(f.name for f in (Path(config.run_url) / "checkpoints").iterdir()) == ["000001"]


def test_no_deadline_passes_at_a_breakpoint(workplace: Path, whole: RunResult) -> None:
    never = "deadlines={first_interval_s: 0.001, interval_floor_s: 0.001, interval_factor: 1.001}"
    ended = run_in_process(settings(workplace, "slow", never, "deadlines.evaluation_s=0.001"))
    assert ended.summary["digest"] == whole.summary["digest"]


def test_commands_of_the_mailbox_are_carried_out_and_a_resize_is_refused(workplace: Path) -> None:
    config = settings(workplace, "commanded", "intervals=4000", "checkpoints.every=2000")
    run_dir = RunDir(config.run_url)
    box, ids = Mailbox(run_dir), dict[str, str]()

    def post(kind: str, **more: int) -> None:
        ids[kind] = new_id()
        driver = str(read_status(run_dir)["driver"]["id"])
        values = {"id": ids[kind], "run": config.name, "driver": driver, "kind": kind, **more}
        box.post(Command.model_validate(values))

    def ended(kind: str) -> bool:
        reply = box.reply_to(ids[kind])
        return reply is not None and reply.state != ACCEPTED

    def command(row: Row) -> None:
        if not ids:
            post(RESIZE, data_workers=2)
            post(CHECKPOINT)
        elif STOP not in ids and ended(RESIZE) and ended(CHECKPOINT):
            post(STOP)

    with pytest.raises(InterruptedRunError, match="stopped by a command") as stopped:
        run_in_process(config, on_evaluation=command)
    replies = {kind: box.reply_to(number) for kind, number in ids.items()}
    states = {kind: reply.state for kind, reply in replies.items() if reply is not None}
    assert states == {RESIZE: REFUSED, CHECKPOINT: DONE, STOP: DONE}
    assert "one worker of each group" in str(replies[RESIZE])
    assert len(list((Path(config.run_url) / "checkpoints").iterdir())) == 2
    status = read_status(run_dir)
    assert status["ended"] == "interrupted"
    again = look(run_dir).resume_command(run_dir)
    assert again == f"tandem resume {config.run_url} --in-process"
    assert again in str(stopped.value)
    assert status["groups"]["data"]["ranks"][0]["pid"] == status["driver"]["pid"]


def test_torchs_settings_and_generator_are_afterwards_what_they_were(workplace: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    try:
        run_in_process(settings(workplace, "polite", "intervals=1", "evaluation.every=0"))
        assert torch.get_num_threads() == 3
        assert torch.equal(torch.get_rng_state(), state)
    finally:
        torch.set_num_threads(before)
