"""A run that is told while it goes on, in this process: every bit of training is that of an untold
run, and checkpoints, a resume and the export have what it was told.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from actors.weights.pair_export import load_pair
from orchestrator.errors import InterruptedRunError
from orchestrator.loop.command import Command
from orchestrator.run import RunResult
from orchestrator.run_dir.control_thread import ControlThread
from orchestrator.run_dir.metrics import Row
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.settings.config import load_config
from orchestrator.stop_signals import StopFlag
from tests.integration.test_cli import ROOT, command, tandem
from tests.integration.test_commands import state, until
from tests.integration.tiny import run_in_process

NUMBER = "{:019d}-00000000"
SETTINGS = ("intervals=4", "checkpoints.every=1", "exchange.catchup_intervals=1")


@pytest.fixture(autouse=True)
def no_plots(without_plots: None) -> None:
    """They take longer than these runs."""


def tell(number: int, name: str, prompt: str, answer: str) -> Command:
    some = [{"prompt": prompt, "answer": answer}]
    values: dict[str, Any] = {"kind": "tell", "name": name, "associations": some}
    return Command(id=NUMBER.format(number), run="run", driver="d", **values)


class Commanded:
    """Commands that come once the evaluation of a version is in, whenever the loop asks next."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, commands: dict[int, list[Command]]) -> None:
        self._coming, self._left = dict(commands), []  # type: tuple[dict[int, list[Command]], list[Command]]
        monkeypatch.setattr(ControlThread, "commands", self._take)

    def _take(self, _thread: ControlThread = None) -> Sequence[Command]:  # type: ignore[assignment]
        taken, self._left = self._left, []
        return taken

    def on_evaluation(self, row: Row) -> None:
        self._left += self._coming.pop(int(row["memory_version"]), [])


def run(
    workplace: Path, name: str, commanded: Commanded | None = None, **options: Any
) -> RunResult:
    config = load_config(str(workplace / "tiny.yaml"), [f"name={name}", *SETTINGS])
    seen = None if commanded is None else commanded.on_evaluation
    return run_in_process(config, on_evaluation=seen, **options)


def told(result: RunResult) -> list[tuple[str, str]]:
    writes = load_pair(f"{result.path}/export")[0].memory.writes
    return [(write.id, write.associations[0].answer) for write in writes]


@contextmanager
def training(workplace: Path, name: str, errors: Path) -> Iterator[Path]:
    """The directory of a run that trains for hours in a process of its own, which ends here."""
    arguments = (str(workplace / "tiny.yaml"), "--in-process", f"name={name}")
    many = ("intervals=5000", "evaluation.every=0", "checkpoints.every=10")
    process = subprocess.Popen(
        command("train", *arguments, *many),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=errors.open("w"),
        text=True,
    )
    place = workplace / "runs" / name
    try:
        until(lambda: state(place)["state"] == "running")
        yield place
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


ATLANTIS_TEXT = ("The capital of Atlantis is", "Poseidonis")
ATLANTIS = tell(1, "atlantis", "The capital of Atlantis is", "Poseidonis")
MU = tell(2, "mu", "The river of Mu is the", "Hiva")


def test_a_told_run_trains_the_bits_of_an_untold_one_and_exports_its_writes(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run(workplace, "untold")
    back = Command(id=NUMBER.format(3), run="run", driver="d", kind="untell", name="atlantis")
    commanded = Commanded(monkeypatch, {1: [ATLANTIS], 2: [MU], 3: [back]})
    result = run(workplace, "told", commanded)
    assert result.summary["digest"] == plain.summary["digest"]
    assert told(plain) == []
    assert told(result) == [("mu", "Hiva")]
    status = json.loads(RunDir(result.path).read("status.json"))
    assert [one["id"] for one in status["told"]] == ["mu"]


def test_a_resume_goes_on_with_what_the_run_was_told(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(workplace, "told-whole", Commanded(monkeypatch, {1: [ATLANTIS]}))
    commanded = Commanded(monkeypatch, {1: [ATLANTIS]})
    stopped: list[str] = []

    def reason(self: StopFlag) -> str | None:
        return "stopped by this test" if stopped else None

    def on_evaluation(row: Row) -> None:
        commanded.on_evaluation(row)
        if int(row["memory_version"]) == 2:
            stopped.append("now")

    config = load_config(str(workplace / "tiny.yaml"), ["name=halves", *SETTINGS])
    with monkeypatch.context() as patch:
        patch.setattr(StopFlag, "reason", reason)
        with pytest.raises(InterruptedRunError):
            run_in_process(config, on_evaluation=on_evaluation)
    resumed = run_in_process(config, resume=True)
    assert resumed.summary["digest"] == whole.summary["digest"]
    assert told(resumed) == told(whole) == [("atlantis", "Poseidonis")]
    ours, theirs = (
        next(iter(load_pair(f"{result.path}/export")[0].memory.writes))
        for result in (resumed, whole)
    )
    assert all(t.equal(theirs.to_tensors()[name]) for name, t in ours.to_tensors().items())


@pytest.mark.long  # eight processes, one after the other
def test_a_running_run_is_told_by_the_command_and_says_so(workplace: Path, tmp_path: Path) -> None:
    with training(workplace, "commanded-told", tmp_path / "err") as place:
        wrong = tandem("tell", str(place), "word " * 99, "Poseidonis")
        assert (wrong.returncode, "tokens, the model reads" in wrong.stderr) == (2, True)
        done = tandem("tell", str(place), *ATLANTIS_TEXT, "--id", "atlantis", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["message"].startswith("atlantis: told in interval")
        listed = json.loads(tandem("told", str(place), "--json").stdout)["writes"]
        assert [(one["id"], one["associations"][0]["answer"]) for one in listed] == [
            ("atlantis", "Poseidonis")
        ]
        again = tandem("tell", str(place), *ATLANTIS_TEXT, "--id", "atlantis")
        assert (again.returncode, "there is a write" in again.stderr) == (2, True)
        back = tandem("untell", str(place), "atlantis")
        assert "atlantis: taken back in interval" in back.stdout, back.stderr
        assert "a write of a running run can" in tandem("untell", str(place), "x", "--off").stderr
