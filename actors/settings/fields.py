"""What a setting says about itself besides type, default and description, and how it is read.

A field carries it in its type, `storage: Annotated[str, Mark.RESUMABLE] = Field(…)`; on a section
it holds for every field inside. No torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo


class Mark(Enum):
    """Properties that a field has or does not have."""

    RESUMABLE = "resumable"
    """A resume may change it: nothing that is computed depends on it, except for rounding."""
    SET_BY_SEARCH = "set by search"
    """A search sets it itself; a search file can neither set nor vary it."""
    PERTURBABLE = "perturbable"
    """May change at a checkpoint: no shape, order of the corpus or schedule depends on it."""
    FITTED = "fitted"
    """Left unset beside a pretrained data layer, it gets a value by what of it trains and by its
    size (`actors.settings.fitted`)."""
    ADVANCED = "advanced"
    """Rarely changed: `tandem init` writes it only with --all."""


class PathTo(Enum):
    """The field holds paths to this; relative ones start at the folder of the config file."""

    CORPUS = "corpus"
    TEMPLATES = "templates"
    SPOOL = "spool"
    RUN = "run"
    MODEL = "model"
    TOKENIZER = "tokenizer"
    GENERAL = "general text"
    LESSONS = "lessons"
    CHAT_TEMPLATE = "chat template"

    @property
    def may_be_on_hub(self) -> bool:
        """Whether the value may also be a name on the Hugging Face hub."""
        return self in (PathTo.MODEL, PathTo.TOKENIZER)


@dataclass(frozen=True)
class OnlyWith:
    """The field means something only where another one has a certain value."""

    key: str
    value: str


@dataclass(frozen=True)
class Setting:
    """One field of a config.

    Attributes:
        key: its dotted name; `*` stands for every entry of a list.
        field: its definition.
        section: the class that defines it.
        marks: its own and those of the sections around it.
    """

    key: str
    field: FieldInfo
    section: type[BaseModel]
    marks: frozenset[Mark]

    @property
    def path_to(self) -> PathTo | None:
        """What lies under its paths; None: it holds none."""
        return next((m for m in self.field.metadata if isinstance(m, PathTo)), None)


def settings_of(
    model: type[BaseModel],
    entries: bool = False,
    prefix: str = "",
    inherited: frozenset[Mark] = frozenset(),
) -> Iterator[Setting]:
    """Every leaf field of a config, in order.

    Args:
        model: the config's class.
        entries: also the fields of the entries of lists.
        prefix, inherited: the name and the marks of the section that `model` is.
    """
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        marks = inherited | marks_of(field)
        if section := section_of(field):
            yield from settings_of(section, entries, f"{key}.", marks)
            continue
        yield Setting(key, field, model, marks)
        entry = next(iter(get_args(field.annotation)), None)
        if entries and isinstance(entry, type) and issubclass(entry, BaseModel):
            yield from settings_of(entry, entries, f"{key}.*.", marks)


def marks_of(field: FieldInfo) -> frozenset[Mark]:
    """A field's own marks."""
    return frozenset(m for m in field.metadata if isinstance(m, Mark))


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The class of a field that is a section; None: it is a leaf."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def only_with(field: FieldInfo) -> OnlyWith | None:
    """Where the field means something; None: everywhere."""
    return next((m for m in field.metadata if isinstance(m, OnlyWith)), None)


def marked_keys(model: type[BaseModel], mark: Mark, prefix: str = "") -> Iterator[str]:
    """Dotted names of the sections and fields that carry the mark, a whole section by its own."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        if mark in marks_of(field):
            yield key
        elif section := section_of(field):
            yield from marked_keys(section, mark, f"{key}.")


def meaning(field: FieldInfo) -> str:
    """What a field means, in sentences: where it has a meaning at all, and its description."""
    where = only_with(field)
    text = (field.description or "").rstrip(".") + "."
    return f"Only with `{where.key}: {where.value}`. {text}" if where else text
