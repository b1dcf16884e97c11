"""Any fsspec URL as a file system, and what has to be done in one by exact names. No torch.

A name without a scheme is a path of this machine, whatever else is in it: fsspec alone would take
`a::b` for a chain of file systems and `data:b` for a document.
"""

from __future__ import annotations

import os
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

MAGIC = "*?["  # what makes a name a pattern to fsspec


def is_local(url: str) -> bool:
    """Whether a URL or path is on a file system of this machine."""
    return "://" not in url or url.startswith(("file://", "local://"))


def locate(url: str, **options: Any) -> tuple[Any, str]:
    """The file system of a URL or path, and the path in it; local ones absolute.

    Raises:
        ImportError, ValueError: a protocol that is unknown, or whose package is missing.
    """
    if not is_local(url):
        fs, root = fsspec.core.url_to_fs(url, **options)
        return fs, str(root)
    path = url.partition("://")[2] if "://" in url else url
    return LocalFileSystem(**options), os.path.abspath(os.path.expanduser(path))


def writable(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it.

    Only local ones have folders that must be made first; others don't know the option.

    Raises:
        ImportError, ValueError: a protocol that is unknown, or whose package is missing.
    """
    return locate(url, **({"auto_mkdir": True} if is_local(url) else {}))


def move_file(fs: Any, source: str, target: str) -> None:
    """Moves one file. fsspec's own `mv` takes a name with brackets for a pattern."""
    if isinstance(fs, LocalFileSystem) or not _is_magic(source + target):
        fs.mv(source, target)
        return
    fs.cp_file(source, target)
    fs.rm_file(source)


def remove(fs: Any, path: str) -> None:
    """Removes a file, or a folder with all that is in it; by its exact name, as `move_file`.

    Raises:
        FileNotFoundError: there is none.
    """
    if isinstance(fs, LocalFileSystem) or not _is_magic(path):
        fs.rm(path, recursive=True)
        return
    files = fs.find(path)
    if not files:
        raise FileNotFoundError(path)
    for file in files:
        fs.rm_file(file)


def _is_magic(name: str) -> bool:
    return any(c in name for c in MAGIC)
