"""A lock that processes of any machine take in turn: one small file beside what it guards.

The file says who holds it: process, machine, since when and for what. It is created only where
there is none, so one of two gets it; the other waits with a message, and is refused after a while.
A lock whose process is gone, or that another machine has held for too long, is taken away. Any
fsspec URL.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

import psutil
from fsspec.implementations.local import LocalFileSystem

from actors.storage import locate, move_file, remove, storage_errors
from actors.wire import ConfigError

POLL_S = 0.2
STALE_S = 600.0  # of a lock of another machine, whose processes can't be looked at
PATIENCE_S = 120.0  # a tell of thousands of associations takes less


class LockedError(ConfigError):
    """Another process holds a lock for longer than one waits."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock.

    Attributes:
        token: random; two holders never share it.
        pid, began, host: of the process; `began` is when it started, since a pid is used again.
        since: time.time() when the lock was taken.
        doing: what it is held for, in a word or two.
    """

    token: str
    pid: int
    began: float
    host: str
    since: float
    doing: str

    @classmethod
    def here(cls, doing: str) -> Holder:
        """This process, now."""
        pid = os.getpid()
        began = psutil.Process(pid).create_time()
        return cls(secrets.token_hex(8), pid, began, socket.gethostname(), time.time(), doing)

    def is_stale(self, now: float) -> bool:
        """Whether it can't be holding the lock any more."""
        if self.host != socket.gethostname():
            return now - self.since > STALE_S
        try:
            return abs(psutil.Process(self.pid).create_time() - self.began) > 1.0
        except psutil.NoSuchProcess:
            return True
        except psutil.Error:  # another user's
            return False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} ({self.doing})"


@contextmanager
def locked(
    url: str,
    doing: str,
    say: Callable[[str], None] = lambda text: None,
    patience_s: float = PATIENCE_S,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Holder]:
    """Holds the lock `url` during the block.

    Args:
        url: of the lock's file, in a folder that exists.
        doing: what for.
        say: called once with a message where it has to be waited for.
        patience_s: for how long.
        sleep: waits so many seconds.

    Raises:
        LockedError: another process holds it for longer than that; names it.
        StorageError: its storage is away or full.
    """
    with storage_errors(url, "the lock can't be taken"):
        fs, path = locate(url)
        mine = Holder.here(doing)
        _take(fs, path, url, mine, say, patience_s, sleep)
    try:
        yield mine
    finally:
        with suppress(Exception):  # what was done is done; a lock left behind is found to be stale
            if _holder(fs, path) == mine:
                remove(fs, path)


def refuse_lost(url: str, mine: Holder) -> None:
    """Raises: LockedError: another process took the lock away, since it looked stale to it."""
    with storage_errors(url, "the lock can't be read"):
        if _holder(*locate(url)) != mine:
            raise LockedError(
                f"{url}: this lock was taken away by another process while {mine.doing} went on; "
                "nothing was changed; run the command again"
            )


def _take(
    fs: Any,
    path: str,
    url: str,
    mine: Holder,
    say: Callable[[str], None],
    patience_s: float,
    sleep: Callable[[float], None],
) -> None:
    content = json.dumps(asdict(mine)).encode()
    deadline, has_said = time.monotonic() + patience_s, False
    while not _create(fs, path, content):
        holder = _holder(fs, path)
        if holder is not None and holder.is_stale(time.time()):
            _break(fs, path, holder)
            continue
        who = "another process" if holder is None else str(holder)
        if time.monotonic() >= deadline:
            raise LockedError(
                f"{url}: {who} has held this lock for longer than {patience_s:.0f} s; run the "
                "command again when it is done, or remove that file if nothing of the kind runs"
            )
        if not has_said:
            say(f"waiting for {who}, which is changing the same writes")
            has_said = True
        sleep(POLL_S)


def _create(fs: Any, path: str, content: bytes) -> bool:
    """Creates the file where there is none; False where there is one."""
    try:
        if isinstance(fs, LocalFileSystem):  # fsspec's own `create` looks first, and then writes
            with fs.open(path, "xb") as file:
                file.write(content)
        else:
            fs.pipe_file(path, content, mode="create")
    except FileExistsError:
        return False
    except OSError:  # of object stores: a condition that failed, by whatever number
        fs.invalidate_cache()
        if not fs.exists(path):
            raise
        return False
    return True


def _holder(fs: Any, path: str) -> Holder | None:
    """Who holds it; None: nobody, or the file is just being written."""
    fs.invalidate_cache()
    try:
        return Holder(**json.loads(fs.cat_file(path)))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _break(fs: Any, path: str, stale: Holder) -> None:
    """Takes a stale lock away. Of two that do so at once one moves the file; where it turns out to
    be another's, which was quicker, it is put back.
    """
    aside = f"{path}.{secrets.token_hex(4)}"
    try:
        move_file(fs, path, aside)
    except FileNotFoundError:
        return
    if (moved := _holder(fs, aside)) is not None and moved != stale:
        _create(fs, path, json.dumps(asdict(moved)).encode())
    with suppress(FileNotFoundError):
        remove(fs, aside)
