"""Paths in a config: which settings hold some, and from where relative ones start. No torch."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable
from pathlib import Path

from actors.settings.fields import PathTo, settings_of
from actors.settings.run import RunSpec
from actors.tokenizers.pretrained_tokenizer import looks_local


def path_settings() -> dict[str, PathTo]:
    """Dotted keys of the settings that hold paths, with what lies there.

    Only settings of the trainers do; `*` stands for every entry of a list.
    """
    return {s.key: s.path_to for s in settings_of(RunSpec, entries=True) if s.path_to}


def folder_of(path: str) -> str:
    """The folder of a file, absolute or with its scheme."""
    return posixpath.dirname(path) if "://" in path else str(Path(path).resolve().parent)


def without_variables(path: str) -> str:
    """The path itself. Raises: ValueError: it names a variable of the environment."""
    if found := re.search(r"(^|/)(\$\w+|\$\{\w+\})", path):
        raise ValueError(
            f"{found[2]} is a variable, which a config does not replace: a folder of that name "
            "would be made; write the path, or give it on the command line, where the shell does"
        )
    return path


def beside(folder: str, path: str) -> str:
    """A path that a file in that folder names: URLs and absolute paths stay."""
    return path if "://" in path or os.path.isabs(path) else f"{folder}/{path}"


def url_under(storage: str, name: str) -> str:
    """The directory of that name; local ones absolute, since workers run in other directories."""
    root = storage if "://" in storage else os.path.abspath(storage)
    return f"{root.rstrip('/')}/{name}"


def anchor_paths(values: object, folder: str) -> None:
    """Makes local paths absolute, in place; URLs stay, and so do names on the hub."""

    def path(value: object) -> object:
        value = os.fspath(value) if isinstance(value, os.PathLike) else value
        if not isinstance(value, str) or "://" in value or os.path.isabs(value):
            return value
        if value.startswith("~"):
            return os.path.expanduser(value)
        scheme, found, root = folder.rpartition("://")  # whose slashes are no part of the path
        return f"{scheme}{found}{posixpath.normpath(f'{root}/{value}')}"

    def path_or_hub_name(value: object) -> object:
        anchored = path(value)
        if not isinstance(value, str) or not isinstance(anchored, str):
            return value
        return anchored if looks_local(value) or os.path.exists(anchored) else value

    for key, path_to in path_settings().items():
        change_path(values, key, path_or_hub_name if path_to.may_be_on_hub else path)


def loosen_paths(values: object, folder: str) -> None:
    """Makes paths below `folder` relative to it, in place, for a file that lies there: they stay
    right where the folder is moved or copied. Undone by `anchor_paths`.
    """

    def path(value: object) -> object:
        inside = isinstance(value, str) and value.startswith(f"{folder}/")
        return f"./{str(value).removeprefix(f'{folder}/')}" if inside else value

    for key in path_settings():
        change_path(values, key, path)


def change_path(values: object, key: str, change: Callable[[object], object]) -> None:
    """Changes the value under a dotted key, or each of a list of values, where it exists."""
    name, _, rest = key.partition(".")
    if name == "*":
        for entry in values if isinstance(values, list | tuple) else []:
            change_path(entry, rest, change)
    elif isinstance(values, dict) and name in values:
        if rest:
            change_path(values[name], rest, change)
        else:
            value = values[name]
            several = isinstance(value, list | tuple)
            values[name] = [*map(change, value)] if several else change(value)
