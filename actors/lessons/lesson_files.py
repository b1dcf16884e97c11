"""The files that a run keeps of what it is taught: its lessons, and the questions of its exam."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from actors.lessons.lesson import Lesson, from_lines
from actors.settings.teach import TeachSpec
from actors.sources.text_file import read_text
from actors.storage import storage_errors
from actors.wire import ConfigError


@dataclass(frozen=True)
class Question:
    """A prompt, and what each voice answered before teaching; never one of a lesson."""

    prompt: str
    own: str
    memory: str


@dataclass(frozen=True)
class Exam:
    """What the answers after teaching are compared with.

    Attributes:
        kept: questions about what is not taught, from text that the memory wrote.
        neighbours: those that the lessons name.
        own_before, memory_before: answers to the lessons as given, in their order.
        told: named writes of the run that are not taught and go on with its memory, as
            `lessons.told` has them in JSON.
        facts: how the lessons came about, for the report.
    """

    kept: tuple[Question, ...] = ()
    neighbours: tuple[Question, ...] = ()
    own_before: tuple[str, ...] = ()
    memory_before: tuple[str, ...] = ()
    told: tuple[Any, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """As a file holds it."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Exam:
        """What `to_json` wrote."""
        raw = json.loads(text)
        for name in ("kept", "neighbours"):
            raw[name] = tuple(Question(**row) for row in raw[name])
        for name in ("own_before", "memory_before", "told"):
            raw[name] = tuple(raw[name])
        return cls(**raw)


def read_kept_lessons(spec: TeachSpec) -> list[Lesson]:
    """The lessons of a run that teaches. Raises: ConfigError: the file is missing or malformed."""
    assert spec.lessons is not None
    try:
        return from_lines(_read("teach.lessons", spec.lessons))
    except (TypeError, ValueError) as err:
        raise ConfigError(
            f"teach.lessons {spec.lessons}: not what `tandem teach` writes ({err}); teach anew"
        ) from err


def read_own_text(spec: TeachSpec) -> list[str]:
    """Documents that the data layer wrote; none where it has no file. Raises: ConfigError as
    `read_kept_lessons`.
    """
    if spec.own_text is None:
        return []
    try:
        return [str(one) for one in json.loads(_read("teach.own_text", spec.own_text))]
    except (TypeError, ValueError) as err:
        raise ConfigError(
            f"teach.own_text {spec.own_text}: not what `tandem teach` writes ({err}); teach anew"
        ) from err


def read_exam(spec: TeachSpec) -> Exam:
    """Its questions; none where it has no file. Raises: ConfigError as `read_kept_lessons`."""
    if spec.exam is None:
        return Exam()
    try:
        return Exam.from_json(_read("teach.exam", spec.exam))
    except (TypeError, ValueError, KeyError) as err:
        raise ConfigError(
            f"teach.exam {spec.exam}: not what `tandem teach` writes ({err}); teach anew"
        ) from err


def _read(what: str, path: str) -> str:
    try:
        with storage_errors(f"{what} {path}", "can't be read"):
            return read_text(path)
    except OSError as err:
        raise ConfigError(f"{what} {path}: can't be read: {err}") from err
