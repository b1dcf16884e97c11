"""The reference of all settings, docs/config.md, made from the fields themselves.

`python -m orchestrator.settings.reference docs/config.md` writes it (`make docs`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from actors.settings.fields import Mark, Setting, marked_keys, marks_of, meaning, settings_of
from orchestrator.settings.config import Config

HEAD = """\
# All settings

A config is a YAML file. A dotted key such as `data.optimizer.lr` is the field `lr` in the section
`optimizer` in the section `data`; `*` stands for every entry of a list. Each can also be given on
the command line: `tandem train CONFIG data.optimizer.lr=1e-3`. An unknown key is refused, and the
nearest known one is named. `tandem init` writes a config with these explanations.

A default with * is that of a fresh model, and of one below 10 M parameters. Left unset beside a
larger `data.layer.pretrained`, the setting gets a value by what of that model trains and by its
size; `tandem check` shows it, and the run's config.yaml has it.

`make docs` makes this page from the fields themselves.
"""
TAIL = (
    (Mark.RESUMABLE, "What a resume may change", "Nothing that is computed depends on these "
     "settings and sections, except for rounding. With any other change a resume is refused."),
    (Mark.SET_BY_SEARCH, "What a search sets itself", "`tandem tune` sets these; a search file can "
     "neither set nor vary them."),
    (Mark.PERTURBABLE, "What a search with `scheduler: pbt` can vary", "Population based training "
     "changes settings while a pair trains, which is possible for these. With the other schedulers "
     "a search can vary every setting that it does not set itself."),
)  # fmt: skip
SCALARS = {bool: "true or false", int: "integer", float: "number", str: "text", Any: "any value"}
BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}  # of numbers, by their names in pydantic


def reference() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_sections(), *_lists()])


def _sections() -> Iterator[str]:
    """A table for each section, in the order of a resolved config; the top level first."""
    sections: dict[str, list[Setting]] = {"": []}
    for setting in settings_of(Config, entries=True):
        sections.setdefault(setting.key.rpartition(".")[0], []).append(setting)
    for name, rows in sections.items():
        yield f"## {f'`{name}`' if name else 'Top level'}\n"
        yield f"{first_sentence(rows[0].section if name else Config)}\n"
        yield "| key | type | default | meaning |"
        yield "|---|---|---|---|"
        yield from map(_row, rows)
        yield ""


def _row(setting: Setting) -> str:
    field = setting.field
    cells = (f"`{setting.key}`", type_in_words(field), default_in_words(field), meaning(field))
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _lists() -> Iterator[str]:
    for mark, title, text in TAIL:
        keys = ", ".join(f"`{key}`" for key in marked_keys(Config, mark))
        yield f"## {title}\n\n{text}\n\n{keys}\n"


def type_in_words(field: FieldInfo) -> str:
    """What may be written, e.g. `integer ≥ 1`."""
    bounds = [
        f"{sign} {bound}"
        for constraint in field.metadata
        for name, sign in BOUNDS.items()
        if (bound := getattr(constraint, name, None)) is not None
    ]
    return f"{_kind(field.annotation)} {', '.join(bounds)}".strip()


def _kind(annotation: Any) -> str:
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(inside[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inside)
    if origin in (Union, UnionType):
        return " or ".join(_kind(kind) for kind in inside if kind is not NoneType)
    if origin is dict:
        return "keys and values"
    if origin is tuple:
        number = "" if inside[-1] is ... else f"{len(inside)} "
        return f"list of {number}{_several(inside[0])}"
    return SCALARS[annotation]


def _several(kind: Any) -> str:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "sections"
    return {"text": "texts"}.get(word := _kind(kind), f"{word}s")


def default_in_words(field: FieldInfo) -> str:
    """The default as YAML, `unset` for null."""
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    star = " \\*" if Mark.FITTED in marks_of(field) else ""
    return "unset" if default is None else f"`{in_yaml(default)}`{star}"


def first_sentence(section: type[BaseModel]) -> str:
    """What a section is."""
    return " ".join((section.__doc__ or "").split("\n\n")[0].split())


def in_yaml(value: object) -> str:
    """A value as YAML in one line."""
    listed = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(listed, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.strip().removesuffix("...").strip()


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference(), encoding="utf-8")
