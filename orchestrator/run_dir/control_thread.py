"""The driver's thread by which a run is watched and steered: refreshes `status.json`, reads the
mailbox, writes the replies.

The coordinator's loop touches no file: it takes commands from a queue here and hands replies to the
thread. Storage that is away is one warning; training goes on, and everything is tried again.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from typing import Any

from actors.storage import is_local
from actors.wire import ConfigError, StorageError
from orchestrator.background import Background
from orchestrator.loop.command import ACCEPTED, CHECKPOINT, DONE, REFUSED, STOP, Command, Reply
from orchestrator.loop.drain import say_stop
from orchestrator.run_dir.mailbox import Mailbox
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.run_dir.status import TRAINING, Driver, Pulse
from orchestrator.settings.config import Config
from orchestrator.settings.file_names import CONFIG, STATUS, resume_command

EVERY_S, EVERY_REMOTE_S = 1.0, 5.0  # each refresh of a remote file is a paid request
CLOSE_S = 60.0  # for storage that hangs, which must not keep a run from ending

StatusOf = Callable[[Config, Driver, Pulse], dict[str, Any]]


class ControlThread:
    """Keeps the status fresh and carries commands and replies.

    Args:
        run_dir: the run's.
        config: the run as it begins; its name is checked against every command.
        driver: this process.
        status_of: the status at a pulse; called on the thread, too.
        last_checkpoint: the newest interval of which a checkpoint is written.
        warn: called with a message where storage is away.
    """

    def __init__(
        self,
        run_dir: RunDir,
        config: Config,
        driver: Driver,
        status_of: StatusOf,
        last_checkpoint: Callable[[], int | None],
        warn: Callable[[str], None],
    ) -> None:
        self._run_dir, self._driver = run_dir, driver
        self.config = config  # as the run is now
        self._status_of, self._last_checkpoint, self._warn = status_of, last_checkpoint, warn
        self._mailbox = Mailbox(run_dir)
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        # The thread's own, and after its end `close`'s:
        self._unwritten: list[Reply | Config] = []
        self._open: dict[str, Command] = {}  # without a last reply
        self._saving: dict[str, Reply] = {}  # checkpoints that were promised
        self._stop_reason: str | None = None
        self._is_away = self._has_failed = False  # so that each is said once
        self._loop_at = time.time()
        self.phase = TRAINING
        self._refresh()
        self._attempt(self._mailbox.empty)
        self._worker = Background(
            "control", self._failed, every=self._turn, every_s=self._driver.every_s
        )
        self._worker.put(self._turn)

    @property
    def is_alive(self) -> bool:
        """Whether the thread still works."""
        return self._worker.is_alive

    def commands(self) -> Sequence[Command]:
        """Commands that came since the last call; the coordinator asks once a tick."""
        self._loop_at = time.time()
        commands = []
        while not self._commands.empty():
            commands.append(self._commands.get_nowait())
        return commands

    def stop_reason(self) -> str | None:
        """Why the run should end, where a command says so."""
        return self._stop_reason

    def reply(self, reply: Reply) -> None:
        """Takes a reply to be written, and returns at once."""
        self._worker.put(lambda: self._turn(reply))

    def resized(self, config: Config) -> None:
        """Takes the config as it is from now on, which a resume begins with; returns at once."""
        self.config = config
        self._worker.put(lambda: self._turn(config))

    def close(self, status: str, message: str) -> None:
        """Replies to every open command, writes the last status, and ends the thread.

        Args:
            status: the run's.
            message: what became of it, in a sentence.
        """
        if not self._worker.close(CLOSE_S):
            self._warn(f"{self._run_dir.url} does not answer; the last status is not written")
            return
        self._attempt(self._read_mailbox)
        self._write_all()
        for command in list(self._open.values()):
            if command.kind == STOP:
                reply = Reply(id=command.id, state=DONE, message=message)
            else:
                reply = Reply(id=command.id, state=REFUSED, message=f"the run ended: {message}")
            self._unwritten.append(reply)
        self._write_all()
        self._refresh(status)

    def _turn(self, *to_write: Reply | Config) -> None:
        self._unwritten.extend(to_write)
        self._attempt(self._read_mailbox)
        self._write_all()
        self._refresh()

    def _read_mailbox(self) -> None:
        for command in self._mailbox.take(self.config.name, self._driver.id):
            self._open[command.id] = command
            if command.kind != STOP:
                self._commands.put(command)
                continue
            after = "goes on from the newest checkpoint"
            if not self.config.checkpoints.every:
                after = "begins anew, since the run makes no checkpoints"
            then = resume_command(self._run_dir.url, self._driver.in_process)
            self._stop_reason = self._stop_reason or (
                f"stopped by a command; both groups were ended; {then} {after}"
            )
            text = say_stop(self.config)
            self._unwritten.append(Reply(id=command.id, state=ACCEPTED, message=text))

    def _write_all(self) -> None:
        """Writes what there is to write, in order; what can't be written waits for its next try."""
        last = self._last_checkpoint()
        for promised in list(self._saving.values()):
            if promised.interval is not None and last is not None and last >= promised.interval:
                text = f"the checkpoint of interval {last} is written"
                self._unwritten.append(Reply(id=promised.id, state=DONE, message=text))
                del self._saving[promised.id]
        while self._unwritten and self._attempt(lambda: self._write(self._unwritten[0])):
            del self._unwritten[0]

    def _write(self, item: Reply | Config) -> None:
        if isinstance(item, Config):
            self._run_dir.write(CONFIG, item.to_yaml(item.run_url))
            return
        self._mailbox.reply(item)
        if item.state != ACCEPTED:
            self._open.pop(item.id, None)
        elif item.id in self._open and self._open[item.id].kind == CHECKPOINT:
            self._saving[item.id] = item

    def _refresh(self, ended: str | None = None) -> None:
        pulse = Pulse(time.time(), self._loop_at, ended or self.phase, ended)
        status = self._status_of(self.config, self._driver, pulse)
        self._attempt(lambda: self._run_dir.write_json(STATUS, status))

    def _attempt(self, work: Callable[[], None]) -> bool:
        """Whether it was done; storage that is away is warned of once."""
        try:
            work()
        except (ConfigError, StorageError, OSError) as err:
            if not self._is_away:
                self._warn(f"{err}; training goes on, tandem status and commands wait for it")
            self._is_away = True
            return False
        self._is_away = False
        return True

    def _failed(self, err: Exception) -> None:
        if not self._has_failed:
            self._warn(f"status and commands of this run failed ({err!r}); training goes on")
        self._has_failed = True


def refresh_every_s(url: str) -> float:
    """How often the status of a run there is refreshed."""
    return EVERY_S if is_local(url) else EVERY_REMOTE_S
