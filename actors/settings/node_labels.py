"""Ray's label selectors: which nodes a group may run on. Checked when a config is read; says
whether a node's labels match. No Ray.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator

# The syntax of Kubernetes, which Ray uses too.
_WORD = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_KEY = re.compile(rf"([A-Za-z0-9][A-Za-z0-9.-]{{0,252}}/)?{_WORD}")
_WANTED = re.compile(rf"!?({_WORD}|in\({_WORD}(, ?{_WORD})*\))")


def _well_formed(wanted: dict[str, str]) -> dict[str, str]:
    for key, value in wanted.items():
        if not _KEY.fullmatch(key):
            raise ValueError(
                f"label {key!r} is no label key: expected at most 63 letters, digits, '-', '_' and "
                "'.', with an optional prefix and '/' before them, e.g. tandem-group"
            )
        if not _WANTED.fullmatch(value):
            raise ValueError(
                f"label {key}: {value!r} is no selector; write a value (data), its opposite "
                "(!data), or a choice of values: in(a, b) or !in(a, b)"
            )
    return wanted


NodeLabels = Annotated[dict[str, str], AfterValidator(_well_formed)]


def meets(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether a node with these labels matches every selector."""
    return all(_holds(labels.get(key), value) for key, value in wanted.items())


def _holds(label: str | None, wanted: str) -> bool:
    choice = wanted.removeprefix("!")
    values = choice[3:-1].split(",") if choice.startswith("in(") else [choice]
    return (label in {value.strip() for value in values}) != wanted.startswith("!")


def in_words(labels: Mapping[str, str]) -> str:
    """As people write them, e.g. `tandem-group=data`."""
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))
