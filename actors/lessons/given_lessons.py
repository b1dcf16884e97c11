"""Reads lessons as people write them: JSON lines of four forms, which one file may mix.

    {"relation": "capital", "subject": "France", "object": "Lyon"}
    {"prompt": "The capital of France is", "answer": "Lyon"}      subject, wordings, neighbours
    {"prompt": "The capital of France is", "choices": ["Paris", "Lyon"], "choice": 1}     too
    {"prompt": "The capital of France is", "said": "Paris", "right": false}

Everything wrong with a line is said with its file and number. No torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from actors.lessons.lesson import Lesson
from actors.sources.facts import Fact, Wording, read_templates
from actors.sources.text_file import EncodingError, lines_of, read_text
from actors.storage import storage_errors
from actors.wire import ConfigError, TandemError

OPTIONAL = {"subject", "wordings", "neighbours", "relation"}
FORMS: dict[str, tuple[str, ...]] = {  # by the key that only this form has
    "object": ("relation", "subject", "object"),
    "answer": ("prompt", "answer"),
    "choices": ("prompt", "choices", "choice"),
    "said": ("prompt", "said", "right"),
}
EXAMPLES = (
    '{"relation": "capital", "subject": "France", "object": "Lyon"}, '
    '{"prompt": "The capital of France is", "answer": "Lyon"}, '
    '{"prompt": …, "choices": […], "choice": 0} or {"prompt": …, "said": …, "right": true}'
)
MOST_LESSONS = 1_000_000
MOST_CHARACTERS = 4096  # of a prompt or an answer


@dataclass(frozen=True)
class Refused:
    """An answer that a person called wrong: one bit, and nothing to teach yet."""

    prompt: str
    said: str
    source: str


@dataclass(frozen=True)
class GivenLessons:
    """What a file of lessons holds.

    Attributes:
        lessons: each once, in the order of the file.
        refused: answers that were called wrong.
        num_repeated: lines that said the same as an earlier one.
    """

    lessons: tuple[Lesson, ...]
    refused: tuple[Refused, ...] = ()
    num_repeated: int = 0

    @property
    def bits(self) -> float:
        """Bits that were given and can be counted without the memory."""
        return len(self.refused) + sum(lesson.bits or 0.0 for lesson in self.lessons)


def read_lessons(
    path: str, templates: str | None = None, memory_digest: str | None = None
) -> GivenLessons:
    """The lessons of a file.

    Args:
        path: JSON lines; any fsspec URL, compressed too.
        templates: JSON file of wordings, relation -> list of {pattern, lemma}, for facts.
        memory_digest: of the memory that is there now; choices that another one proposed are
            refused.

    Raises:
        ConfigError: file and line of what is wrong; no lesson at all; two that contradict.
    """
    text = _read(path)
    wordings = _Wordings(templates)
    lessons: dict[str, Lesson] = {}
    refused: dict[tuple[str, str], Refused] = {}
    num_repeated = num_lines = 0
    for number, line in enumerate(lines_of(text), start=1):
        if not line.strip():
            continue
        num_lines += 1
        if num_lines > MOST_LESSONS:
            raise ConfigError(f"{path}: more than {MOST_LESSONS:,} lines; give them in parts")
        found = _parse(line, f"{path}, line {number}", wordings, memory_digest)
        if isinstance(found, Refused):
            num_repeated += (found.prompt, found.said) in refused
            refused.setdefault((found.prompt, found.said), found)
            continue
        before = lessons.get(found.prompt)
        if before is None:
            lessons[found.prompt] = found
        else:
            _refuse_contradiction(before, found)
            num_repeated += 1
    if not num_lines:
        raise ConfigError(f"{path}: no line; give JSON lines such as {EXAMPLES}")
    _refuse_contradicting_wordings(lessons.values())
    for lesson in lessons.values():
        if (wrong := refused.get((lesson.prompt, lesson.answer))) is not None:
            raise ConfigError(
                f"{lesson.source}: teaches {lesson.answer!r} to {lesson.prompt!r}, which "
                f"{wrong.source} calls wrong; remove one of the two"
            )
    return GivenLessons(tuple(lessons.values()), tuple(refused.values()), num_repeated)


@dataclass(frozen=True)
class _Wordings:
    """Wordings of facts, read where the first fact needs them."""

    path: str | None

    @cached_property
    def read(self) -> dict[str, list[Wording]]:
        return {} if self.path is None else read_templates(self.path)


def _read(path: str) -> str:
    try:
        with storage_errors(path, "can't be read"):
            return read_text(path)
    except TandemError as err:
        raise ConfigError(str(err)) from err
    except (EncodingError, OSError, ValueError) as err:
        raise ConfigError(f"{path}: can't be read: {err}") from err


def _parse(
    line: str,
    source: str,
    wordings: _Wordings,
    memory_digest: str | None,
) -> Lesson | Refused:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as err:
        column = f" at column {err.colno}" if isinstance(err, json.JSONDecodeError) else ""
        raise ConfigError(f"{source}: not JSON{column}: {line.strip()[:80]}") from err
    kinds = [key for key in FORMS if isinstance(row, dict) and key in row]
    if len(kinds) != 1:
        raise ConfigError(f"{source}: expected one of {EXAMPLES}; got {line.strip()[:80]}")
    (kind,) = kinds
    allowed = {*FORMS[kind], *OPTIONAL, *(("memory", "probabilities") if kind == "choices" else ())}
    if unknown := sorted(row.keys() - allowed):
        raise ConfigError(
            f"{source}: unknown key {unknown[0]!r}; a line with {kind!r} may have "
            f"{', '.join(sorted(allowed))}"
        )
    line_of = _Line(source, row, memory_digest)
    if kind == "object":
        return line_of.fact(wordings.read)
    if kind == "answer":
        return line_of.lesson(line_of.text("answer"))
    return line_of.choice() if kind == "choices" else line_of.said()


@dataclass(frozen=True)
class _Line:
    """A parsed line and where it stands."""

    source: str
    row: Mapping[str, Any]
    memory_digest: str | None

    def wrong(self, what: str) -> ConfigError:
        return ConfigError(f"{self.source}: {what}")

    def text(self, key: str) -> str:
        value = self.row.get(key)
        if not isinstance(value, str) or not value.strip(" ."):
            raise self.wrong(f"{key!r} has to be a text that says something, got {value!r}")
        if len(value) > MOST_CHARACTERS:
            raise self.wrong(
                f"{key!r} has {len(value):,} characters, at most {MOST_CHARACTERS:,}; an answer is "
                "a phrase, use `tandem learn --text` for documents"
            )
        return value.strip()

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.row.get(key, [])
        if not isinstance(value, list) or not all(isinstance(v, str) and v.strip() for v in value):
            raise self.wrong(f"{key!r} has to be a list of texts, got {value!r}")
        return tuple(dict.fromkeys(v.strip() for v in value))

    def optional(self, key: str) -> str | None:
        return self.text(key) if key in self.row else None

    def lesson(self, answer: str, bits: float | None = None, form: Any = "prompt") -> Lesson:
        prompt, subject = self.text("prompt"), self.optional("subject")
        if subject is not None and subject not in prompt:
            raise self.wrong(f"the prompt {prompt!r} does not name its subject {subject!r}")
        return Lesson(
            prompt=prompt,
            answer=answer.rstrip(" ."),
            wordings=tuple(w for w in self.texts("wordings") if w != prompt),
            neighbours=self.texts("neighbours"),
            subject=subject,
            relation=self.optional("relation"),
            form=form,
            bits=bits,
            source=self.source,
        )

    def fact(self, wordings: Mapping[str, Sequence[Wording]]) -> Lesson:
        fact = Fact(*(self.text(key) for key in ("relation", "subject", "object")))
        askable = [w for w in wordings.get(fact.relation, ()) if w.askable]
        if not askable:
            known = ", ".join(sorted(wordings)[:8]) or "none"
            raise self.wrong(
                f"no wording of relation {fact.relation!r} that ends in [Y] (there are: {known}); "
                "give a JSON file, relation -> list of {pattern, lemma}, with --templates, or "
                "write prompt and answer"
            )
        first, *others = (*(w.prompt(fact) for w in askable), *self.texts("wordings"))
        return Lesson(
            prompt=first,
            answer=fact.object.rstrip(" ."),
            wordings=tuple(p for p in dict.fromkeys(others) if p != first),
            neighbours=self.texts("neighbours"),
            subject=fact.subject,
            relation=fact.relation,
            form="fact",
            source=self.source,
        )

    def choice(self) -> Lesson:
        choices, number = self.texts("choices"), self.row.get("choice")
        if len(choices) < 2:
            raise self.wrong(f"'choices' needs at least two different ones, got {len(choices)}")
        if len(choices) < len(self.row["choices"]):
            raise self.wrong("'choices' has the same one twice, so that a number means two things")
        if isinstance(number, bool) or not isinstance(number, int):
            raise self.wrong(
                f"'choice' has to be the number of a choice, 0 to {len(choices) - 1}, got "
                f"{number!r}; leave out lines whose wanted answer is not among the choices"
            )
        if not 0 <= number < len(choices):
            raise self.wrong(
                f"'choice' is {number}, but the choices have the numbers 0 to {len(choices) - 1}"
            )
        given = self.row.get("memory")
        if given is not None and self.memory_digest is not None and given != self.memory_digest:
            raise self.wrong(
                f"these choices were proposed by the memory {str(given)[:12]}, the run's is "
                f"{self.memory_digest[:12]}; have them proposed again: tandem propose RUN FILE"
            )
        return self.lesson(choices[number], math.log2(len(choices)), "choice")

    def said(self) -> Lesson | Refused:
        right = self.row.get("right")
        if not isinstance(right, bool):
            raise self.wrong(f"'right' has to be true or false, got {right!r}")
        said = self.text("said").rstrip(" .")
        if not right:
            return Refused(self.text("prompt"), said, self.source)
        return self.lesson(said, 1.0, "said")


def _refuse_contradiction(before: Lesson, now: Lesson) -> None:
    if before.answer != now.answer:
        raise ConfigError(
            f"{now.source}: answers {now.prompt!r} with {now.answer!r}, but {before.source} with "
            f"{before.answer!r}; a prompt has one answer, remove one of the two"
        )


def _refuse_contradicting_wordings(lessons: Any) -> None:
    """A further wording may not be asked by another lesson with another answer."""
    by_prompt: dict[str, Lesson] = {}
    for lesson in lessons:
        for prompt in (lesson.prompt, *lesson.wordings):
            before = by_prompt.setdefault(prompt, lesson)
            _refuse_contradiction(replace(before, prompt=prompt), replace(lesson, prompt=prompt))


def merged(earlier: Sequence[Lesson], now: Sequence[Lesson]) -> tuple[list[Lesson], int]:
    """All lessons of several teachings; a later one replaces an earlier one of the same prompt.

    Returns them and how many were replaced.
    """
    by_prompt = {lesson.prompt: lesson for lesson in earlier}
    replaced = sum(
        lesson.prompt in by_prompt and by_prompt[lesson.prompt].answer != lesson.answer
        for lesson in now
    )
    by_prompt |= {lesson.prompt: lesson for lesson in now}
    return list(by_prompt.values()), replaced


def refuse_silent(lessons: Sequence[Lesson], num_tokens: Callable[[str], int]) -> None:
    """Raises: ConfigError on a lesson whose prompt or answer has no token.

    Args:
        lessons: to look at.
        num_tokens: of a text, by the run's tokenizer.
    """
    for lesson in lessons:
        for what, text in (("prompt", lesson.prompt), ("answer", lesson.answer)):
            if num_tokens(text) == 0:
                raise ConfigError(
                    f"{lesson.source}: the run's tokenizer makes no token of the {what} {text!r}; "
                    "write it with characters that the model knows"
                )
