from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.wire import ConfigError
from jobs.control import await_reply, run_checkpoint, run_resume, run_scale, run_stop
from jobs.status import as_values, run_list, run_status
from orchestrator.console import Console
from orchestrator.loop.command import Command, Reply
from orchestrator.run_dir.mailbox import Mailbox
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.run_dir.status import look
from orchestrator.settings.file_names import CONFIG, STATUS, SUMMARY
from tests.unit.orchestrator.run_dir.test_status import GONE, HERE, a_status
from tests.unit.orchestrator.scripted import a_config


@pytest.fixture
def running(tmp_path: Path) -> RunDir:
    """The directory of a run whose driver is this process."""
    run_dir = RunDir(str(tmp_path / "runs" / "run"))
    run_dir.write_json(STATUS, a_status(HERE))
    run_dir.write(CONFIG, a_config(storage=str(tmp_path / "runs")).to_yaml())
    return run_dir


class Replying:
    """A driver that takes one command and replies to it as it is told."""

    def __init__(self, run_dir: RunDir, *replies: tuple[str, str]) -> None:
        self._run_dir, self._replies = run_dir, replies
        self.commands: list[Command] = []
        self._thread = threading.Thread(target=self._work, daemon=True)

    def _work(self) -> None:
        box = Mailbox(self._run_dir)
        while not self.commands:
            self.commands += box.take("run", "d")
        for state, message in self._replies:
            box.reply(Reply(id=self.commands[0].id, state=state, message=message))  # type: ignore[arg-type]

    def __enter__(self) -> Replying:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._thread.join(10)


def told(work: Callable[[Console], None]) -> str:
    out = io.StringIO()
    work(Console(file=out, width=200))
    return out.getvalue()


def test_a_scale_waits_until_it_is_done_and_says_so(running: RunDir) -> None:
    with Replying(running, ("accepted", "workers: data 1 -> 3"), ("done", "it is so")) as driver:
        said = told(lambda console: run_scale(running.url, 3, None, 5.0, console, False))
    (command,) = driver.commands
    assert (command.kind, command.sizes, command.wait_s) == ("resize", {"data": 3}, 5.0)
    assert said.endswith("done: it is so\n")


def test_what_is_refused_is_an_error_with_the_reason(running: RunDir) -> None:
    with (
        Replying(running, ("refused", "CPU: asked 1 more, available 0 of 2")),
        pytest.raises(ConfigError, match="refused: CPU: asked 1 more, available 0 of 2"),
    ):
        told(lambda console: run_scale(running.url, None, 9, 5.0, console, False))


def test_with_no_wait_the_acceptance_is_enough(running: RunDir) -> None:
    with Replying(running, ("accepted", "a checkpoint of interval 4")):
        said = told(lambda console: run_checkpoint(running.url, console, True))
    assert said == "accepted: a checkpoint of interval 4\n"


def test_a_stop_says_how_to_go_on(running: RunDir) -> None:
    with Replying(running, ("done", "stopped by a command")):
        said = told(lambda console: run_stop(running.url, console, False))
    assert said.splitlines()[-1] == f"continue with: tandem resume {running.url}"


def test_a_run_in_one_process_goes_on_in_one(running: RunDir) -> None:
    running.write_json(STATUS, a_status(replace(HERE, in_process=True)))
    with Replying(running, ("done", "stopped by a command")):
        said = told(lambda console: run_stop(running.url, console, False))
    again = f"tandem resume {running.url} --in-process"
    assert said.splitlines()[-1] == f"continue with: {again}"
    running.write_json(STATUS, a_status(replace(GONE, in_process=True)))
    with pytest.raises(ConfigError, match=f"it died. Continue with: {again}"):
        told(lambda console: run_stop(running.url, console, False))


def test_a_scale_without_a_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="--data-workers N, --memory-workers M"):
        run_scale("runs/x", None, None, 60.0, Console(quiet=True), False)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (None, "it is only starting"),
        (a_status(HERE, ended="finished_unreflected"), "it has ended as finished unreflected"),
        (a_status(GONE), r"it died\. Continue with: tandem resume"),
    ],
)
def test_a_run_that_nobody_drives_gets_no_command(
    running: RunDir, status: dict[str, Any] | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.run_dir.status.LOOK_AGAIN_REFRESHES", 0.0)
    if status is None:
        running.remove(STATUS)
    else:
        running.write_json(STATUS, status)
    with pytest.raises(ConfigError, match=reason):
        run_stop(running.url, Console(quiet=True), False)
    assert running.list_files("mailbox") == {}


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    for work in (
        lambda console: run_stop(str(tmp_path), console, False),
        lambda console: run_resume(str(tmp_path), [], console),
        lambda console: run_status(str(tmp_path), console, False, False),
    ):
        with pytest.raises(ConfigError, match=r"no run \(config.yaml is missing\); runs under"):
            work(Console(quiet=True))


def test_a_mistyped_run_is_named(running: RunDir) -> None:
    mistyped = f"{running.url}s"
    with pytest.raises(ConfigError, match=rf"did you mean {running.url}\?"):
        run_resume(mistyped, [], Console(quiet=True))


def test_a_renamed_run_is_not_resumed(running: RunDir, tmp_path: Path) -> None:
    Path(running.url).rename(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"is named run in .*call the directory run"):
        run_resume(str(tmp_path / "other"), [], Console(quiet=True))


def clock(*times: float) -> Callable[[], float]:
    """A clock that shows these, and the last one from then on."""
    left = list(times)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


def test_a_reply_that_does_not_come_is_waited_for_so_long() -> None:
    waits: list[float] = []
    ticks = clock(0.0, 0.0, 1.0, 1.0, 6.0)
    found = await_reply(lambda: None, 5.0, lambda r: True, wait=waits.append, clock=ticks)
    assert found is None
    assert len(waits) == 1


def test_nobody_is_waited_for_who_is_gone() -> None:
    accepted = Reply(id=f"{0:019d}-00000000", state="accepted", message="x")
    ticks = clock(0.0, 0.0, 1.0, 100.0)
    found = await_reply(
        lambda: accepted, 500.0, lambda r: r.state == "done", lambda: False, clock=ticks
    )
    assert found is None


def test_a_page_shows_both_groups_and_every_rank(running: RunDir) -> None:
    said = told(lambda console: run_status(running.url, console, False, False))
    for part in ("running, training; interval 3/9", "own 1.500", "memory 1", "5 MiB", "node"):
        assert part in said
    assert "resized: memory 1 -> 2 after interval 2, paused for 0.20 s" in said


@pytest.mark.parametrize("as_json", [False, True])
def test_a_run_that_has_ended_shows_no_rank_as_training(
    running: RunDir, as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    status = json.loads(running.read(STATUS))
    running.write_json(STATUS, status | {"ended": "failed", "phase": "failed"})
    said = told(lambda console: run_status(running.url, console, as_json, watch=True))
    said += capsys.readouterr().out
    assert "training" not in said
    assert "ended" in said


def test_as_json_a_status_is_one_object(
    running: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    run_status(running.url, Console(), True, False)
    values = json.loads(capsys.readouterr().out)
    assert (values["state"], values["url"]) == ("running", running.url)
    assert values["groups"] == as_values(running.url, look(running))["groups"]


def test_a_status_says_why_a_run_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = RunDir(str(tmp_path / "run"))
    run_dir.write(CONFIG, a_config().to_yaml())
    run_dir.write_json(STATUS, a_status(GONE, ended="failed"))
    cause = "data rank 0: the loss is nan [v1]"
    run_dir.write_json(SUMMARY, {"status": "failed", "cause": cause})
    said = told(lambda console: run_status(run_dir.url, console, False, False))
    assert said.splitlines()[-1] == f"cause: {cause}"
    run_status(run_dir.url, Console(), True, False)
    assert json.loads(capsys.readouterr().out)["cause"] == cause


def test_runs_under_a_folder_are_listed(running: RunDir, tmp_path: Path) -> None:
    (tmp_path / "runs" / "notes").mkdir()
    RunDir(str(tmp_path / "runs" / "fresh")).write(CONFIG, "")
    said = told(lambda console: run_list(str(tmp_path / "runs"), None, console, False))
    rows = [[c.strip() for c in line.split("│")[1:4]] for line in said.splitlines() if "│" in line]
    assert rows == [["fresh", "starting", "–"], ["run", "running", "3/9"]]
