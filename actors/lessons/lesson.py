"""One lesson, in the form in which a run is taught it and keeps it. Reads nothing, no torch.

A file of lessons that a run keeps holds these fields, one JSON object a line; `given_lessons` reads
what people write.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from actors.sources.facts import SUBJECT
from actors.sources.text_file import lines_of

LISTS = ("wordings", "reworded", "neighbours")  # fields that JSON gives back as lists
Form = Literal["fact", "prompt", "choice", "said", "told", "memory"]


@dataclass(frozen=True)
class Lesson:
    """A prompt and the answer that is wanted.

    Attributes:
        prompt, answer: as text; the answer without its closing full stop.
        wordings: other prompts for the same answer that were given with it.
        reworded: other prompts that the memory knows for it, mined from text that it wrote.
        neighbours: prompts whose answers have to stay as they are.
        subject: what it is about, where it says so; documents that name it are not rehearsed.
        relation: of a fact.
        form: in which of the forms it was given.
        bits: how much a person said by giving it; None: not counted yet.
        source: file and line, for messages.
        known: whether the data layer said it before teaching; then it is kept, and not counted.
    """

    prompt: str
    answer: str
    wordings: tuple[str, ...] = ()
    reworded: tuple[str, ...] = ()
    neighbours: tuple[str, ...] = ()
    subject: str | None = None
    relation: str | None = None
    form: Form = "prompt"
    bits: float | None = None
    source: str = ""
    known: bool = False

    @property
    def prompts(self) -> tuple[str, ...]:
        """All prompts that it is taught in."""
        return tuple(dict.fromkeys((self.prompt, *self.wordings, *self.reworded)))

    @property
    def completion(self) -> str:
        """What follows the prompt, as facts are trained on: a space before, one full stop after."""
        return f" {self.answer.strip().rstrip(' .')}."

    @property
    def seed_pattern(self) -> str | None:
        """The prompt with [X] in the place of its subject; None: it has none."""
        if not self.subject or self.subject not in self.prompt:
            return None
        return self.prompt.replace(self.subject, SUBJECT, 1)

    def in_words_of(self, patterns: Iterable[str]) -> Lesson:
        """The lesson with these patterns, with [X], as further wordings of its own."""
        assert self.subject is not None
        found = (pattern.replace(SUBJECT, self.subject) for pattern in patterns)
        known = {self.prompt, *self.wordings}
        return replace(self, reworded=tuple(p for p in dict.fromkeys(found) if p not in known))


def to_lines(lessons: Iterable[Lesson]) -> str:
    """JSON lines of lessons; fields that say nothing are left out."""
    rows = ({k: v for k, v in asdict(lesson).items() if v or k == "bits"} for lesson in lessons)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def from_lines(text: str) -> list[Lesson]:
    """The lessons that `to_lines` wrote."""
    return [_from_row(json.loads(line)) for line in lines_of(text) if line.strip()]


def _from_row(row: dict[str, Any]) -> Lesson:
    lists = {name: tuple(row[name]) for name in LISTS if name in row}
    return Lesson(**{**row, **lists})
