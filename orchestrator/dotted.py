"""Nested values by dotted keys, as configs and summaries are spoken of. Pure functions."""

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
