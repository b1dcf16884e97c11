"""Checks one node before a run is sent to its cluster: packages, storage, paths.

Runs on each node, in a process that imports neither torch nor a trainer.
"""

from __future__ import annotations

import importlib.metadata
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from actors.formats import first_line
from actors.sources import paths as corpus_paths
from actors.storage import remove, writable


@dataclass(frozen=True)
class NodeCheck:
    """What was found on a node.

    Attributes:
        python: version.
        packages: versions by name; None where it isn't installed.
        storage_error: why the storage can't be read or written; empty: it can.
        missing: paths that do not exist.
    """

    python: str
    packages: dict[str, str | None]
    storage_error: str
    missing: tuple[str, ...]


def check_node(
    storage: str, mark: tuple[str, str], paths: Sequence[str], packages: Sequence[str]
) -> NodeCheck:
    """Checks the node that it runs on.

    Args:
        storage: where run directories are made; empty: not checked.
        mark: name and content of a file in it that another node wrote.
        paths: files, folders or globs that must exist.
        packages: distributions whose versions are wanted.
    """
    return NodeCheck(
        python=python_version(),
        packages={name: installed_version(name) for name in packages},
        storage_error=storage_error(storage, mark) if storage else "",
        missing=tuple(path for path in paths if not is_there(path)),
    )


def python_version() -> str:
    """Of this process."""
    return ".".join(map(str, sys.version_info[:3]))


def installed_version(name: str) -> str | None:
    """Of a distribution; None where it isn't installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def write_mark(storage: str) -> tuple[str, str]:
    """Writes a small file to the storage for the other nodes to read; its name and content.

    Raises: whatever the storage's client raises.
    """
    name, content = f".tandem-check-{uuid.uuid4().hex}", uuid.uuid4().hex
    fs, root = writable(storage)
    fs.pipe_file(f"{root}/{name}", content.encode())
    return name, content


def remove_mark(storage: str, name: str) -> None:
    """Removes what `write_mark` wrote."""
    fs, root = writable(storage)
    remove(fs, f"{root}/{name}")


def storage_error(storage: str, mark: tuple[str, str]) -> str:
    """Why this node can't read what another wrote, or can't write itself; empty: it can."""
    name, content = mark
    try:
        fs, root = writable(storage)
        if not fs.exists(f"{root}/{name}"):
            return "a file that the head wrote there is not here: not the same storage"
        if fs.cat_file(f"{root}/{name}").decode() != content:
            return "a file that the head wrote there reads differently here"
        own, _ = write_mark(storage)
        remove(fs, f"{root}/{own}")
    except Exception as err:  # each client of remote storage has exception types of its own
        return first_line(err, with_type=True)
    return ""


def is_there(path: str) -> bool:
    """Whether a path, glob or URL matches anything on this node."""
    try:
        return corpus_paths.is_there(path)
    except Exception:  # as above; the run itself would say what is wrong
        return False
