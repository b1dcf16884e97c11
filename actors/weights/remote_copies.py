"""Copies on this machine of checkpoints and exports that lie elsewhere, shared by its processes.

    TMPDIR/tandem-models-UID/KEY/        a copy; KEY is made of URL, names and versions of the files
    TMPDIR/tandem-models-UID/KEY.lock    held by who downloads it, and by those who read it

The first process downloads, the others wait for it; so do later calls of one process. A copy that
nobody reads is removed when another one is made an hour after it was last used.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from actors.wire import ConfigError

KEPT_S = 3600.0


@contextmanager
def shared_copy(fs: Any, source: str, names: Sequence[str]) -> Iterator[Path]:
    """A folder with copies of these files, to read.

    Args:
        fs: fsspec file system of the files.
        source: folder on it.
        names: of the files, relative to that.

    Raises:
        ConfigError: there is no place for copies. Else what the file system raises.
    """
    root = _own_folder()
    files = {name: f"{source}/{name}" for name in names}
    versions = [f"{name}\0{fs.ukey(path)}" for name, path in sorted(files.items())]
    url = str(fs.unstrip_protocol(source))
    key = hashlib.sha256("\n".join([url, *versions]).encode()).hexdigest()[:32]
    place = root / key
    with open(root / f"{key}.lock", "ab") as lock:
        while True:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not place.exists():
                _remove_unused(root)
                _download(fs, files, place)
            # In between, another process may remove the copy.
            fcntl.flock(lock, fcntl.LOCK_SH)
            if place.exists():
                break
        try:
            yield place
        finally:
            os.utime(lock.fileno())


def _own_folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"tandem-models-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise PermissionError("it belongs to someone else")
    except OSError as err:
        raise ConfigError(
            f"{folder}: can't hold copies of remote models: {err}; set TMPDIR to a folder of yours"
        ) from err
    return folder


def _download(fs: Any, files: dict[str, str], place: Path) -> None:
    """Makes the copy; one that was interrupted is not taken for a whole one."""
    partial = place.with_suffix(".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        for name, path in files.items():
            local = partial / name
            local.parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(path, str(local))
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    partial.rename(place)


def _remove_unused(root: Path) -> None:
    """Removes copies that nobody reads and that were not used for a while."""
    for place in root.iterdir():
        lock = place.with_suffix(".lock")
        if not place.is_dir() or not lock.exists():
            continue
        if time.time() - lock.stat().st_mtime < KEPT_S:
            continue
        with open(lock, "ab") as handle:
            if _is_free(handle):
                shutil.rmtree(place, ignore_errors=True)


def _is_free(lock: IO[bytes]) -> bool:
    """Whether nobody holds the lock; then it is held until the file is closed."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
