from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.loop.command import Command, Reply
from orchestrator.loop.resize_rules import with_sizes
from orchestrator.run_dir.control_thread import ControlThread, refresh_every_s
from orchestrator.run_dir.mailbox import Mailbox, new_id
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.run_dir.status import Driver, Pulse
from orchestrator.settings.config import Config, load_config
from tests.unit.orchestrator.scripted import a_config

PATIENCE_S = 60.0


class Office:
    """The control thread of a run in a folder, turning every 20 ms, and its client's side."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = RunDir(str(folder / "run"))
        self.warnings: list[str] = []
        self.last_checkpoint: int | None = None
        self.box = Mailbox(self.run_dir)
        self.driver = Driver("d", "here", 1, 0.0, 0.0, 0.02)
        self._ticked = threading.Condition()
        self._ticks = 0
        self._is_held = False
        self.thread = ControlThread(
            self.run_dir,
            a_config(),
            self.driver,
            self._status,
            lambda: self.last_checkpoint,
            self.warnings.append,
        )

    def _status(self, config: Config, driver: Driver, pulse: Pulse) -> dict[str, Any]:
        with self._ticked:
            self._ticks += 1
            self._ticked.notify_all()
            self._ticked.wait_for(lambda: not self._is_held)
        return {"phase": pulse.phase, "ended": pulse.ended, "loop_at": pulse.loop_at}

    def tick(self, times: int = 3) -> None:
        """Waits until the thread has gone round so often."""
        with self._ticked:
            until = self._ticks + times
            assert self._ticked.wait_for(lambda: self._ticks >= until, PATIENCE_S)

    @contextmanager
    def held(self) -> Iterator[None]:
        """During the block the thread waits where it touches no file."""
        with self._ticked:
            self._is_held = True
            self.tick(1)
        try:
            yield
        finally:
            with self._ticked:
                self._is_held = False
                self._ticked.notify_all()

    def send(self, kind: str, **values: Any) -> str:
        command = Command(id=new_id(), run="run", driver="d", kind=kind, **values)  # type: ignore[arg-type]
        self.box.post(command)
        self.tick()
        return command.id

    def state(self, command_id: str) -> str | None:
        reply = self.box.reply_to(command_id)
        return reply.state if reply else None


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    office = Office(tmp_path)
    yield office
    if office.thread.is_alive:
        office.thread.close("failed", "the test ended")


def test_a_resize_is_handed_to_the_coordinator_and_its_reply_to_who_asked(office: Office) -> None:
    asked = office.send("resize", data_workers=2)
    (command,) = office.thread.commands()
    assert (command.id, command.sizes) == (asked, {"data": 2})
    assert office.thread.commands() == []
    office.thread.reply(Reply(id=asked, state="done", message="x"))
    office.tick()
    assert office.state(asked) == "done"


def test_a_stop_becomes_a_reason_and_is_done_when_the_run_has_ended(office: Office) -> None:
    assert office.thread.stop_reason() is None
    asked = office.send("stop")
    assert "stopped by a command" in str(office.thread.stop_reason())
    assert office.thread.commands() == []
    assert office.state(asked) == "accepted"
    office.thread.close("interrupted", "stopped at interval 4")
    reply = office.box.reply_to(asked)
    assert reply is not None
    assert (reply.state, reply.message) == ("done", "stopped at interval 4")


@pytest.mark.parametrize(
    ("changes", "says", "then"),
    [
        ({}, "after a checkpoint of both groups, if", "goes on from the newest checkpoint"),
        ({"checkpoints": {"every": 0}}, "at once; it makes no checkpoints", "begins anew"),
        ({"recovery": {"drain_s": 0}}, "at once, without another checkpoint", "goes on from"),
    ],
)
def test_a_stop_promises_no_checkpoint_that_will_not_come(
    office: Office, changes: dict[str, Any], says: str, then: str
) -> None:
    office.thread.resized(a_config(**changes))
    office.tick()
    reply = office.box.reply_to(office.send("stop"))
    assert reply is not None
    assert f"the run stops {says}" in reply.message
    assert then in str(office.thread.stop_reason())


def test_a_checkpoint_is_done_once_it_is_written(office: Office) -> None:
    asked = office.send("checkpoint")
    office.thread.reply(Reply(id=asked, state="accepted", message="x", interval=8))
    office.last_checkpoint = 4
    office.tick()
    assert office.state(asked) == "accepted"
    office.last_checkpoint = 8
    office.tick()
    assert office.state(asked) == "done"


def test_what_the_end_leaves_open_is_refused_with_the_end_as_its_reason(office: Office) -> None:
    asked = office.send("resize", data_workers=2)
    office.thread.close("finished", "the run is finished")
    reply = office.box.reply_to(asked)
    assert reply is not None
    assert (reply.state, reply.message) == ("refused", "the run ended: the run is finished")


def test_the_last_status_says_how_the_run_ended(office: Office) -> None:
    office.thread.close("finished", "the run is finished")
    assert '"ended": "finished"' in office.run_dir.read("status.json")


def test_the_status_says_when_the_loop_last_came_by(office: Office) -> None:
    office.tick()
    before = office.run_dir.read("status.json")
    office.tick()
    assert office.run_dir.read("status.json") == before  # it hangs: only the thread lives
    office.thread.commands()
    office.tick()
    assert office.run_dir.read("status.json") != before


def test_a_resume_begins_with_the_size_that_the_run_was_given(office: Office) -> None:
    office.thread.resized(with_sizes(a_config(), {"memory": 3}))
    office.tick()
    config = load_config(office.run_dir.path("config.yaml"))
    assert config.memory.workers.num_workers == 3


def test_what_was_in_the_mailbox_before_is_not_obeyed(tmp_path: Path) -> None:
    run_dir = RunDir(str(tmp_path / "run"))
    Mailbox(run_dir).post(Command(id=new_id(), run="run", driver="d", kind="stop"))
    office = Office(tmp_path)
    office.tick()
    assert office.thread.stop_reason() is None
    office.thread.close("finished", "the run is finished")


def test_storage_that_is_away_is_told_once_and_tried_again(office: Office, tmp_path: Path) -> None:
    office.tick()
    folder = tmp_path / "run"
    with office.held():
        away = folder.rename(tmp_path / "away")
        folder.write_text("no folder")
    office.tick(6)
    assert len(office.warnings) == 1
    assert "tandem status and commands wait for it" in office.warnings[0]
    office.thread.reply(Reply(id=new_id(), state="accepted", message="x"))
    with office.held():
        folder.unlink()
        away.rename(folder)
    asked = office.send("stop")
    assert office.state(asked) == "accepted"


@pytest.mark.parametrize(
    ("url", "every_s"), [("/runs/a", 1.0), ("file:///runs/a", 1.0), ("s3://bucket/a", 5.0)]
)
def test_remote_files_are_refreshed_more_rarely(url: str, every_s: float) -> None:
    assert refresh_every_s(url) == every_s
