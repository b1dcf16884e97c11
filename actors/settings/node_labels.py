"""Which nodes a group asks for: Ray's label selectors, checked at birth, and whether a node meets
them. No Ray here; `orchestrator.nodes.placement` hands them to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator

# The syntax of Kubernetes, which Ray has taken over.
_WORD = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_KEY = re.compile(rf"([A-Za-z0-9][A-Za-z0-9.-]{{0,252}}/)?{_WORD}")
_WANTED = re.compile(rf"!?({_WORD}|in\({_WORD}(, ?{_WORD})*\))")


def _well_formed(wanted: dict[str, str]) -> dict[str, str]:
    for key, value in wanted.items():
        if not _KEY.fullmatch(key):
            raise ValueError(
                f"label {key!r} is no label key: letters, digits, '-', '_' and '.', at most 63, "
                "with an optional prefix and '/', e.g. tandem-group"
            )
        if not _WANTED.fullmatch(value):
            raise ValueError(
                f"label {key}: {value!r} is neither a value nor a choice of values; write data, "
                "!data, in(a, b) or !in(a, b)"
            )
    return wanted


NodeLabels = Annotated[dict[str, str], AfterValidator(_well_formed)]


def meets(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether a node with these labels is one that the selectors ask for."""
    return all(_holds(labels.get(key), value) for key, value in wanted.items())


def _holds(label: str | None, wanted: str) -> bool:
    choice = wanted.removeprefix("!")
    values = choice[3:-1].split(",") if choice.startswith("in(") else [choice]
    return (label in {value.strip() for value in values}) != wanted.startswith("!")


def in_words(labels: Mapping[str, str]) -> str:
    """As people write them, e.g. `tandem-group=data`."""
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))
