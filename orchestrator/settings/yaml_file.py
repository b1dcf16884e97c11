"""Reads YAML files of keys and values, and applies `a.b=value` overrides to them. Of the settings
it knows only which hold paths.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

import yaml

from actors.sources.text_file import EncodingError, read_text
from actors.storage import storage_errors
from actors.wire import ConfigError, TandemError
from orchestrator.settings.config_paths import anchor_paths
from orchestrator.settings.dotted import nest, pick

MERGED = "tag:yaml.org,2002:merge"  # `<<`: takes over the keys of another mapping


KINDS = {  # in plain words, what YAML may have in place of keys and values
    "NoneType": "nothing",
    "str": "text",
    "list": "a list",
    "int": "a number",
    "float": "a number",
    "bool": "a word",
}


class _Loader(yaml.SafeLoader):
    """YAML whose numbers may be written 1e-3, which YAML 1.1 takes for text, and whose keys are
    named once: of two values the first one would be lost.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuses a key that is there twice. Raises: yaml.MarkedYAMLError."""
        seen: dict[str, yaml.Node] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == MERGED:
                continue
            if (first := seen.setdefault(key.value, key)) is not key:
                raise yaml.MarkedYAMLError(
                    f"{key.value} is there twice",
                    first.start_mark,
                    "expected one value; leave one of them out",
                    key.start_mark,
                )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _parse(text: str) -> object:
    return yaml.load(text, Loader=_Loader)  # a SafeLoader


def read_yaml(path: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A YAML file's keys and values, with dotted overrides.

    Raises: ConfigError; StorageError where the storage can't be reached.
    """
    try:
        with storage_errors(f"config {path}", "can't be read"):
            text = read_text(path)
    except TandemError:
        raise
    except EncodingError as err:
        raise ConfigError(f"config {path}: {err}") from err
    except FileNotFoundError as err:
        raise ConfigError(
            f"config {path}: no such file; give a YAML file (tandem init PATH writes one of a run)"
        ) from err
    except IsADirectoryError as err:
        raise ConfigError(f"config {path}: is a folder; give the YAML file in it") from err
    except Exception as err:  # clients of remote storage have errors of their own
        raise ConfigError(f"config {path}: can't be read: {err}") from err
    raw = parse_yaml(text, path)
    override_all(raw, overrides)
    return raw


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """The keys and values of a file's text. Raises: ConfigError naming the source."""
    try:
        raw = _parse(text)
    except yaml.YAMLError as err:
        raise ConfigError(f"config {source}: not YAML: {err}") from err
    if not isinstance(raw, dict):
        kind = type(raw).__name__
        raise ConfigError(f"config {source}: expected keys and values, got {KINDS.get(kind, kind)}")
    return raw


def override_all(values: dict[str, Any], overrides: Sequence[str]) -> None:
    """Sets dotted keys in place. Raises: ConfigError naming the override."""
    for override in overrides:
        _override(values, override)


def _override(values: dict[str, Any], override: str) -> None:
    """Sets one dotted key; a value that is there, also a whole section, is replaced."""
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(
            f"override {override!r}: expected key=value, e.g. seed=1 or data.optimizer.lr=1e-3"
        )
    try:
        value = _parse(text)
    except yaml.YAMLError as err:
        raise ConfigError(f"override {override!r}: the value is not YAML: {err}") from err
    nested = nest(key, value)
    anchor_paths(nested, os.getcwd())  # an override's paths do not start at the file's folder
    *parents, leaf = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"override {override!r}: {parent} already has a plain value")
    values[leaf] = pick(nested, key)
