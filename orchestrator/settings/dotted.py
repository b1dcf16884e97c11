"""Nested values by dotted keys, such as data.optimizer.lr. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and plain values of a nested dict; an empty dict inside it is a plain value."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def nest(key: str, value: object) -> dict[str, object]:
    """A nested dict with one value, under its dotted key."""
    *parents, leaf = key.split(".")
    nested = {leaf: value}
    for parent in reversed(parents):
        nested = {parent: nested}
    return nested


def pick(values: Any, key: str) -> Any:
    """The value under a dotted key. Raises: KeyError."""
    for part in key.split("."):
        values = values[part]
    return values
