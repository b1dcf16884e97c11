"""Unpacks compressed files to local disk, so that blocks of them can be read by byte ranges.

A compressed stream can't be entered in its middle, and a run reads blocks in shuffled order. So a
file is unpacked as a whole when its first block is needed, and removed when no process uses it any
more. Processes of one machine share the unpacked files. Each holds a shared lock on the files that
it uses; the kernel releases it however the process ends, and the next process to start removes what
a killed one left.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import shutil
import stat
import tempfile
import time
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import Any

from actors.sources.paths import File, reading
from actors.sources.text_file import unpacked
from actors.wire import CorpusError

KEPT = 50  # files that one process keeps open: two streams of 16, 16 of the held-out split
COPY_BYTES = 1 << 20
FREE_BYTES = 256 << 20  # of the disk that are left free
DONE = 0o400  # mode of a complete file; 0o600 while it is written


class Spool:
    """Unpacked copies of compressed files, a few at a time.

    Args:
        folder: where they are written; None: a folder of this user below the temporary one.
        kept: files that stay open.
    """

    def __init__(self, folder: str | None = None, kept: int = KEPT) -> None:
        self._folder = Path(folder or f"{tempfile.gettempdir()}/tandem-spool-{os.getuid()}")
        self._kept = kept
        self._open: OrderedDict[str, int] = OrderedDict()  # file descriptors
        self._paths: dict[str, Path] = {}
        self._ready = False
        self._finalizer = weakref.finalize(self, _close_all, self._open, self._paths)

    def close(self) -> None:
        """Releases every file; the last process to release one removes it."""
        self._finalizer()

    def size(self, file: File) -> int:
        """Bytes of the unpacked file."""
        return os.fstat(self._descriptor(file)).st_size

    def read(self, file: File, start: int, stop: int) -> bytes:
        """The bytes [start, stop) of the unpacked file."""
        return os.pread(self._descriptor(file), stop - start, start)

    def _descriptor(self, file: File) -> int:
        if file.path not in self._open:
            if not self._ready:
                self._prepare()
            name = hashlib.sha256(f"{file.path}\0{file.state}".encode()).hexdigest()
            path = self._folder / name[:32]
            self._open[file.path] = self._acquire(path, file)
            self._paths[file.path] = path
            while len(self._open) > self._kept:
                oldest, descriptor = self._open.popitem(last=False)
                _release(descriptor, self._paths.pop(oldest))
        self._open.move_to_end(file.path)
        return self._open[file.path]

    def _prepare(self) -> None:
        """Creates the folder, and removes what killed processes left in it."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._folder.stat().st_uid != os.getuid():
                raise PermissionError("it belongs to someone else")
            left = [p for p in self._folder.iterdir() if p.is_file()]
        except OSError as err:
            raise CorpusError(
                f"corpus.spool {self._folder}: can't be used to unpack files: {err}; set "
                "corpus.spool to a directory of your own"
            ) from err
        for path in left:
            try:
                _release(os.open(path, os.O_RDONLY), path)
            except FileNotFoundError:
                continue  # another process removed it first
        self._ready = True

    def _acquire(self, path: Path, file: File) -> int:
        """A descriptor of the complete unpacked file, under a shared lock."""
        while True:
            descriptor = os.open(path, os.O_RDONLY | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits while another process writes it
                if _complete(descriptor):
                    return descriptor
                alone = _is_alone(descriptor)
                if alone and _complete(descriptor):
                    fcntl.flock(descriptor, fcntl.LOCK_SH)
                    return descriptor
                if alone and _is_at(descriptor, path):
                    self._unpack(file, path)
                    os.fchmod(descriptor, DONE)
                    fcntl.flock(descriptor, fcntl.LOCK_SH)
                    return descriptor
            except BaseException:
                _release(descriptor, path)
                raise
            os.close(descriptor)  # it was removed, or another one has it: start again
            if not alone:
                time.sleep(random.uniform(0.001, 0.02))

    def _unpack(self, file: File, path: Path) -> None:
        doing = f"can't be unpacked ({file.codec})"
        with reading(file.path, doing), file.open() as packed, open(path, "wb") as out:
            stream = unpacked(packed, str(file.codec))
            while piece := self._next(stream, file):
                self._check_room(file, len(piece))
                out.write(piece)

    @staticmethod
    def _next(stream: Any, file: File) -> bytes:
        try:
            return bytes(stream.read(COPY_BYTES))
        except EOFError as err:
            raise CorpusError(
                f"corpus file {file.path}: the {file.codec} stream ends too early; the file is "
                "truncated: copy it again"
            ) from err
        except OSError as err:
            if "truncated" not in str(err).lower():
                raise
            raise CorpusError(
                f"corpus file {file.path}: the {file.codec} stream ends too early; the file is "
                "truncated: copy it again"
            ) from err

    def _check_room(self, file: File, num_bytes: int) -> None:
        free = shutil.disk_usage(self._folder).free
        if free - num_bytes < FREE_BYTES:
            raise CorpusError(
                f"corpus file {file.path}: no room to unpack it: {free >> 20} MiB left in "
                f"{self._folder}, of which {FREE_BYTES >> 20} stay free; set corpus.spool to a "
                "directory on a larger disk, split the file, or convert it to Parquet, which is "
                "read in parts"
            )


def _complete(descriptor: int) -> bool:
    return stat.S_IMODE(os.fstat(descriptor).st_mode) == DONE


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether `path` still names the open file."""
    try:
        named = os.stat(path)
    except FileNotFoundError:
        return False
    opened = os.fstat(descriptor)
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)


def _release(descriptor: int, path: Path) -> None:
    """Closes the file, and removes it if no other process uses it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(descriptor, path):
            path.unlink(missing_ok=True)
    except BlockingIOError:
        pass  # another process uses it
    finally:
        os.close(descriptor)


def _close_all(descriptors: OrderedDict[str, int], paths: dict[str, Path]) -> None:
    while descriptors:
        name, descriptor = descriptors.popitem()
        _release(descriptor, paths.pop(name))


def _is_alone(descriptor: int) -> bool:
    """Whether nobody else has the file, which is then locked for writing. Not waited for: who has
    written it keeps a shared lock for as long as it is read.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
