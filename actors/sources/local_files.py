"""Files of this machine behind a folder or a pattern.

Links are followed, to folders too: in the cache of the Hugging Face hub every name is a link to a
blob. A cycle of links is followed once; a link to nothing is an error that names it. Pipes, sockets
and devices are left out of folders and refused by their own names: reading one may wait for ever.
An exact name takes precedence over a pattern: `notes [2024].txt` is that file if it exists.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fsspec.utils import glob_translate

from actors.storage import MAGIC, no_file
from actors.wire import CorpusError

Identity = tuple[int, int]  # device and inode


@dataclass(frozen=True)
class LocalFile:
    """A file that was found.

    Attributes:
        name: relative to the folder that was searched.
        path: name with that folder.
        size: bytes.
    """

    name: str
    path: str
    size: int


def split_pattern(
    path: str, exists: Callable[[str], bool] = os.path.lexists, magic: str = MAGIC
) -> tuple[str, str | None]:
    """The exact beginning of a path, and the pattern below it; None: all of it is exact.

    A part with brackets, stars or question marks is exact if something of that name exists.

    Args:
        path: with slashes.
        exists: whether a name is that of a file or folder.
        magic: the characters that make a part a pattern.
    """
    parts = path.split("/")
    for number, part in enumerate(parts):
        name = "/".join(parts[: number + 1])
        if any(c in part for c in magic) and not exists(name):
            return "/".join(parts[:number]) or "/", "/".join(parts[number:])
    return path, None


def files_below(folder: str, left_out: Callable[[str], bool]) -> list[LocalFile]:
    """Every file below a folder, sorted by name.

    Args:
        folder: where to look.
        left_out: whether a file or folder of that relative name is skipped.

    Raises:
        CorpusError: a link leads nowhere. OSError: a folder can't be listed.
    """
    found = [*_walk(folder, lambda name: not left_out(name))]
    return sorted((_required(*entry) for entry in found), key=lambda file: file.path)


def files_matching(folder: str, pattern: str) -> list[LocalFile]:
    """The files below a folder that a pattern matches, sorted; `**` is any number of folders.

    Raises:
        CorpusError: a link that it matches leads nowhere. OSError: a folder can't be listed.
    """
    parts = pattern.split("/")
    matches = re.compile(glob_translate(pattern)).match
    heads = []  # by depth: pattern of the folders that can hold a match
    for depth in range(1, len(parts)):
        if "**" in parts[:depth]:
            break
        heads.append(re.compile(glob_translate("/".join(parts[:depth]))))
    deepest = None if "**" in parts else len(parts)

    def wanted(name: str, is_folder: bool) -> bool:
        if not is_folder:
            return bool(matches(name))
        depth = name.count("/") + 1
        if deepest is not None and depth >= deepest:
            return False
        return depth > len(heads) or bool(heads[depth - 1].match(name))

    found = [
        (name, path, state)
        for name, path, state in _walk(folder, lambda name: True, wanted)
        # `.#name`, a link to nothing, is the lock of an editor.
        if state is not None or not name.rpartition("/")[2].startswith(".")
    ]
    return sorted((_required(*entry) for entry in found), key=lambda file: file.path)


def _walk(
    folder: str,
    is_seen: Callable[[str], bool],
    wanted: Callable[[str, bool], bool] = lambda name, is_folder: True,
) -> Iterator[tuple[str, str, os.stat_result | None]]:
    """Name, path and `stat` of each regular file below a folder; None for a link to nothing."""
    top = os.stat(folder)
    todo: list[tuple[str, tuple[Identity, ...]]] = [("", ((top.st_dev, top.st_ino),))]
    while todo:
        below, above = todo.pop()
        with os.scandir(os.path.join(folder, below)) as entries:
            for entry in entries:
                name = f"{below}{entry.name}"
                if not is_seen(name):
                    continue
                try:
                    state = entry.stat()
                except OSError as err:
                    if entry.is_symlink():
                        if wanted(name, False):
                            yield name, entry.path, None
                    elif not isinstance(err, FileNotFoundError):  # removed since it was listed
                        raise
                    continue
                if stat.S_ISDIR(state.st_mode):
                    identity = (state.st_dev, state.st_ino)
                    if identity not in above and wanted(name, True):
                        todo.append((f"{name}/", (*above, identity)))
                elif stat.S_ISREG(state.st_mode) and wanted(name, False):
                    yield name, entry.path, state


def _required(name: str, path: str, state: os.stat_result | None) -> LocalFile:
    if state is None:
        raise _broken_link(path)
    return LocalFile(name, path, state.st_size)


def refuse_unreadable(path: str) -> None:
    """Raises: CorpusError: the path is a link to nothing or itself, or a pipe, socket or device."""
    if os.path.islink(path) and not os.path.exists(path):
        raise _broken_link(path)
    if found := no_file(path):
        raise CorpusError(f"{path} {found}")


def _broken_link(path: str) -> CorpusError:
    return CorpusError(
        f"{path}: a link to {os.readlink(path)}, which does not exist; restore that file, or "
        "remove the link"
    )


def is_one_file(path: str, other: str) -> bool:
    """Whether two names are of one file, by symbolic or hard links.

    Equal inodes alone prove nothing: some network file systems give several files the same one.
    """
    if os.path.realpath(path) == os.path.realpath(other):
        return True
    return os.path.samefile(path, other) and os.stat(path).st_nlink > 1
