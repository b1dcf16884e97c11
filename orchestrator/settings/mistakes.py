"""What is wrong with given settings: a line for each mistake, which begins with where it was made,
the file or an override of the command line.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from actors.wire import ConfigError
from orchestrator.settings.removed import explained
from orchestrator.settings.yaml_file import override_all

Made = TypeVar("Made")
Nearest = Callable[[str], str | None]  # the known key that is most like an unknown one
KINDS = {  # what pydantic names by its own types
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "keys and values",
    "model_type": "keys and values",
    "model_attributes_type": "keys and values",
    "string_type": "text",
    "int_from_float": "a whole number",
}
WORDED = {  # what the patterns of these settings ask for
    "name": "letters, digits, dots, - and _, the first of them a letter or digit",
    "profile": "an interval or a range of them, e.g. 3 or 3-5",
    "checkpoints.best_by": "a figure of heldout. or accuracy., e.g. accuracy.help",
    "recovery.accept_corpus": "the digest that the refusal of the resume names",
    "trackers.wandb": "project or entity/project, without spaces",
}


def make_overridden(
    make: Callable[[dict[str, Any]], Made],
    values: Mapping[str, Any],
    overrides: Sequence[str],
    source: str,
    nearest: Nearest,
) -> Made:
    """What `make` makes of values and overrides.

    Args:
        make: raises a ValidationError for values that it refuses.
        values: of the file.
        overrides: dotted `key=value`.
        source: name of the file in messages.
        nearest: for unknown keys.

    Raises:
        ConfigError: one line per mistake. One that the values have without the overrides is the
            file's; others are those of the overrides of that key, or of all where it has none.
    """
    changed = copy.deepcopy(dict(values))
    override_all(changed, overrides)
    try:
        return make(changed)
    except ValidationError as err:
        mistakes, cause = _mistakes(err, nearest), err
    own: Sequence[tuple[str, str]] = mistakes
    if overrides:
        try:
            make(copy.deepcopy(dict(values)))
            own = ()
        except ValidationError as err:
            own = _mistakes(err, nearest)
    lines = [
        f"{source if mistake in own else _naming(mistake[0], overrides)}: {mistake[1]}"
        for mistake in mistakes
    ]
    raise ConfigError("\n".join(lines)) from cause


def _naming(key: str, overrides: Sequence[str]) -> str:
    """The overrides that a mistake under that key can come from."""

    def concerns(override: str) -> bool:
        given = f"{override.partition('=')[0]}."
        return given.startswith(f"{key}.") or f"{key}.".startswith(given)

    named = [override for override in overrides if concerns(override)] or [*overrides]
    return f"override{'s' if len(named) > 1 else ''} {', '.join(named)}"


def _as_text(given: object) -> str:
    """How to write as text what YAML reads as a number, a date or yes and no."""
    return "" if given is None else '; as text it needs quotes: "…"'


def _as_list(given: object) -> str:
    """How to write one entry as a list of it."""
    return f"; a list of one is [{given}]" if isinstance(given, str | int | float) else ""


def explain(err: ValidationError, nearest: Nearest) -> Iterator[str]:
    """A line for each mistake."""
    return (line for _, line in _mistakes(err, nearest))


def _mistakes(err: ValidationError, nearest: Nearest) -> list[tuple[str, str]]:
    """The dotted key of each mistake, and a line that says what it is."""
    return [
        (key, _line(key, problem, nearest))
        for problem in err.errors()
        for key in [".".join(str(part) for part in problem["loc"])]
    ]


def _line(key: str, problem: Mapping[str, Any], nearest: Nearest) -> str:
    if problem["type"] == "extra_forbidden":
        if (gone := explained(key)) is not None:
            return gone
        near = nearest(key)
        return f"unknown key {key}" + (f"; did you mean {near}?" if near else "")
    if problem["type"] == "missing":
        return f"{key} is missing"
    if problem["type"] == "string_pattern_mismatch" and key in WORDED:
        return f"{key}: expected {WORDED[key]}, got {problem['input']!r}"
    if (kind := KINDS.get(problem["type"])) is not None:
        given = problem["input"]
        hint = _as_text(given) if kind == "text" else _as_list(given) if kind == "a list" else ""
        return f"{key}: should be {kind}, got {given!r}{hint}"
    message = re.sub(r"^(Value error, |Input )", "", problem["msg"])
    got = "" if problem["type"] == "value_error" else f", got {problem['input']!r}"
    return f"{key + ': ' if key else ''}{message}{got}"
