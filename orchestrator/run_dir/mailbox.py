"""Commands to a running run as small files in its directory, and the replies beside them.

    mailbox/ID.json          a command; taken once, removed with its last reply
    mailbox/ID.reply.json   its state so far

Works on any storage, since files are written whole. A file that is not a command, or is one for
another run or driver, gets a reply, is removed, and does nothing else.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator

from pydantic import ValidationError

from actors.wire import ConfigError
from orchestrator.loop.command import ACCEPTED, ID_PATTERN, REFUSED, Command, Reply
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.settings.file_names import MAILBOX
from orchestrator.settings.mistakes import explain

LARGEST_BYTES = 4 << 20  # most have a few hundred; a tell may hold thousands of wordings
KEPT_REPLIES = 50


class Mailbox:
    """One run's mailbox.

    Args:
        run_dir: of the run.
    """

    def __init__(self, run_dir: RunDir) -> None:
        self._run_dir = run_dir
        self._taken: set[str] = set()
        self._replied: list[str] = []

    def post(self, command: Command) -> None:
        """Puts a command where the driver finds it. Raises: ConfigError where it can't be
        written.
        """
        self._run_dir.write(_command(command.id), command.model_dump_json() + "\n")

    def withdraw(self, command_id: str) -> None:
        """Removes a command that has no reply."""
        self._run_dir.remove(_command(command_id))

    def reply_to(self, command_id: str) -> Reply | None:
        """The newest reply to a command; None while there is none.

        Raises: ConfigError where it can't be read, or is not a reply.
        """
        if not self._run_dir.exists(_reply(command_id)):
            return None
        text = self._run_dir.read(_reply(command_id))
        try:
            return Reply.model_validate_json(text, strict=True)
        except ValidationError as err:
            where = self._run_dir.path(_reply(command_id))
            raise ConfigError(f"{where}: not a reply: {'; '.join(explain(err, _unknown))}") from err

    def empty(self) -> None:
        """Removes all commands and replies: they were for an earlier driver."""
        self._run_dir.remove(MAILBOX)

    def take(self, run: str, driver: str) -> Iterator[Command]:
        """Commands that came since the last call, in the order in which they were sent.

        Args:
            run, driver: whose commands these must be; others get a reply here.

        Raises: ConfigError where the storage can't be read or written.
        """
        for name, num_bytes in sorted(self._run_dir.list_files(MAILBOX).items()):
            command_id, _, ending = name.partition(".")
            if ending != "json" or not re.match(ID_PATTERN, command_id):
                continue
            if command_id in self._taken:
                continue
            try:
                command = self._read(command_id, num_bytes)
                _refuse_foreign(command, run, driver)
            except ConfigError:  # the storage, not the file
                raise
            except ValueError as err:
                self.reply(Reply(id=command_id, state=REFUSED, message=str(err)))
                self._taken.add(command_id)
                continue
            self._taken.add(command_id)
            yield command

    def _read(self, command_id: str, num_bytes: int) -> Command:
        """Raises: ValueError saying why it is not a command."""
        if num_bytes > LARGEST_BYTES:
            raise ValueError(f"not a command: {num_bytes} bytes, at most {LARGEST_BYTES}")
        content = self._run_dir.read_bytes(_command(command_id))
        try:
            command = Command.model_validate_json(content, strict=True)
        except ValidationError as err:
            raise ValueError(f"not a command: {'; '.join(explain(err, _unknown))}") from err
        if command.id != command_id:
            raise ValueError(f"not a command: its id is {command.id}, its file's {command_id}")
        return command

    def reply(self, reply: Reply) -> None:
        """Writes the reply to a command. Raises: ConfigError where it can't be written."""
        self._run_dir.write(_reply(reply.id), reply.model_dump_json() + "\n")
        if reply.state == ACCEPTED:
            return
        self._run_dir.remove(_command(reply.id))
        self._replied.append(reply.id)
        while len(self._replied) > KEPT_REPLIES:
            self._run_dir.remove(_reply(self._replied.pop(0)))


def new_id() -> str:
    """A command's name: the time at which it is sent, and a random part."""
    return f"{time.time_ns():019d}-{secrets.token_hex(4)}"


def _refuse_foreign(command: Command, run: str, driver: str) -> None:
    """Raises: ValueError where the command is meant for someone else."""
    if command.run != run:
        raise ValueError(f"it is for run {command.run}, and this is run {run}")
    if command.driver != driver:
        raise ValueError(f"it is for driver {command.driver}, and this is driver {driver}")


def _command(command_id: str) -> str:
    return f"{MAILBOX}/{command_id}.json"


def _reply(command_id: str) -> str:
    return f"{MAILBOX}/{command_id}.reply.json"


def _unknown(key: str) -> str | None:
    return None
