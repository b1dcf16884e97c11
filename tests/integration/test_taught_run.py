"""A run that is taught while it goes on, in this process: it learns the lessons beside its corpus,
keeps them to its end, and a resume and a replay give the bits of a run that nobody disturbed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import InterruptedRunError
from orchestrator.loop.command import Command
from orchestrator.run import RunResult
from orchestrator.run_dir.metrics import Row
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.settings.config import load_config
from orchestrator.stop_signals import StopFlag
from tests.integration.test_cli import tandem
from tests.integration.test_told_run import NUMBER, Commanded, training
from tests.integration.tiny import run_in_process

LESSONS = (
    {"prompt": "The capital of Baran is", "answer": "Muvia", "subject": "Baran"},
    {"prompt": "Deste is crossed by the", "answer": "Lonor", "subject": "Deste"},
)
SETTINGS = (
    "intervals=5",
    "checkpoints.every=1",
    "exchange.catchup_intervals=1",
    "evaluation.windows=4",
    "data.steps_per_interval=16",
    "memory.steps_per_interval=16",
    "data.optimizer.lr=0.02",
    "memory.optimizer.lr=0.01",
    "memory.value_lr=0.03",
)


@pytest.fixture(autouse=True)
def no_plots(without_plots: None) -> None:
    """They take longer than these runs."""


def teach(number: int, *lessons: dict[str, str]) -> Command:
    values: dict[str, Any] = {"kind": "teach", "lessons": lessons}
    return Command(id=NUMBER.format(number), run="run", driver="d", **values)


def run(
    workplace: Path,
    name: str,
    commands: dict[int, list[Command]],
    monkeypatch: pytest.MonkeyPatch,
    stop_after: int | None = None,
) -> RunResult:
    """A run that gets these commands once a version is evaluated; stopped after one, resumed."""
    commanded, stopped = Commanded(monkeypatch, commands), []  # type: Commanded, list[str]

    def on_evaluation(row: Row) -> None:
        commanded.on_evaluation(row)
        if int(row["memory_version"]) == stop_after:
            stopped.append("now")

    config = load_config(str(workplace / "tiny.yaml"), [f"name={name}", *SETTINGS])
    if stop_after is None:
        return run_in_process(config, on_evaluation=on_evaluation)
    with monkeypatch.context() as patch:
        patch.setattr(StopFlag, "reason", lambda self: "stopped here" if stopped else None)
        with pytest.raises(InterruptedRunError):
            run_in_process(config, on_evaluation=on_evaluation)
    return run_in_process(config, resume=True)


def evaluations(result: RunResult) -> list[Row]:
    rows: list[Row] = json.loads(RunDir(result.path).read("evaluations.json"))
    return rows


def test_a_taught_run_learns_its_lessons_and_keeps_them_to_its_end(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(workplace, "taught", {1: [teach(1, *LESSONS)]}, monkeypatch)
    rows = evaluations(result)
    assert "heldout.lessons_own" not in rows[1]
    voices = ("own", "help", "memory")
    last = [rows[-1][f"heldout.lessons_{voice}"] for voice in voices]
    assert last == [1.0, 1.0, 1.0]
    status = json.loads(RunDir(result.path).read("status.json"))
    assert status["lessons"]["num"] == 2
    assert len(status["lessons"]["digest"]) == 64


@pytest.mark.long  # three runs
def test_a_resume_goes_on_with_the_lessons_to_the_same_bits(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = {1: [teach(1, LESSONS[0])], 2: [teach(2, LESSONS[1])]}
    whole = run(workplace, "taught-whole", commands, monkeypatch)
    halves = run(workplace, "taught-halves", commands, monkeypatch, stop_after=3)
    assert halves.summary["digest"] == whole.summary["digest"]
    untaught = run(workplace, "untaught", {}, monkeypatch)
    assert untaught.summary["digest"] != whole.summary["digest"]


@pytest.mark.long  # six processes, one after the other
def test_a_running_run_is_taught_by_the_command_and_says_so(
    workplace: Path, tmp_path: Path
) -> None:
    lessons = tmp_path / "lessons.jsonl"
    lessons.write_text("".join(json.dumps(row) + "\n" for row in LESSONS))
    with training(workplace, "commanded-taught", tmp_path / "err") as place:
        wrong = tandem("teach", str(place), "--lessons", str(lessons), "--steps", "9")
        assert (wrong.returncode, "--steps is for a finished one" in wrong.stderr) == (2, True)
        nothing = tandem("teach", str(place), "--told")
        assert (nothing.returncode, "was told nothing" in nothing.stderr) == (2, True)
        done = tandem("teach", str(place), "--lessons", str(lessons), "--json")
        assert done.returncode == 0, done.stderr
        outcome = json.loads(done.stdout)
        assert (outcome["lessons"], outcome["done"]) == (2, True)
        assert "both groups learn them since interval" in outcome["message"]
        status = json.loads(RunDir(str(place)).read("status.json"))
        assert status["lessons"]["num"] == 2
