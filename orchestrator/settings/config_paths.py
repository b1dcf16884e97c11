"""Which settings are paths, and where relative ones lie. No torch. Called by `config`, and by what
reads files that name a config.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from actors.tokenizers.pretrained import looks_local

PATH_FIELDS = (  # `*`: of every entry
    ("corpus", "paths"),
    ("corpus", "sources", "*", "paths"),
    ("corpus", "templates"),
    ("corpus", "spool"),
    ("memory", "layer", "start_from"),
)
PATH_OR_HUB_FIELDS = (("tokenizer", "pretrained"), ("data", "layer", "pretrained"))


def folder_of(path: str) -> str:
    """The folder of a file, absolute or with its scheme."""
    return posixpath.dirname(path) if "://" in path else str(Path(path).resolve().parent)


def beside(folder: str, path: str) -> str:
    """A path as a file in that folder means it: URLs and absolute ones stay."""
    return path if "://" in path or os.path.isabs(path) else f"{folder}/{path}"


def url_under(storage: str, name: str) -> str:
    """The directory of that name; local ones absolute, since workers live in other directories."""
    root = storage if "://" in storage else os.path.abspath(storage)
    return f"{root.rstrip('/')}/{name}"


def anchor_paths(values: dict[str, Any], folder: str) -> None:
    """Makes local paths absolute; anything with a scheme stays, and so do names of the hub."""

    def path(value: Any) -> Any:
        value = os.fspath(value) if isinstance(value, os.PathLike) else value
        if not isinstance(value, str) or "://" in value or os.path.isabs(value):
            return value
        if value.startswith("~"):
            return os.path.expanduser(value)
        return posixpath.normpath(f"{folder}/{value}")

    def path_or_hub_name(value: Any) -> Any:
        anchored = path(value)
        if isinstance(value, str) and (looks_local(value) or os.path.exists(anchored)):
            return anchored
        return value

    for keys in PATH_FIELDS:
        change_path(values, keys, path)
    for keys in PATH_OR_HUB_FIELDS:
        change_path(values, keys, path_or_hub_name)


def change_path(values: Any, keys: Sequence[str], change: Callable[[Any], Any]) -> None:
    """Changes what stands under `keys`, a plain value or each of a list, where it is there."""
    key, *rest = keys
    if key == "*":
        for entry in values if isinstance(values, list | tuple) else []:
            change_path(entry, rest, change)
    elif isinstance(values, dict) and key in values:
        if rest:
            change_path(values[key], rest, change)
        else:
            value = values[key]
            several = isinstance(value, list | tuple)
            values[key] = [*map(change, value)] if several else change(value)
