"""Lessons of a run that goes on: what a group keeps of them, their windows, and the documents of
its corpus that say otherwise.

    order -> `take` -> `batch`, beside the corpus' own, in every step from then on
    a batch of the corpus -> `uncontradicted`: without sentences that name a taught subject

All is a pure function of the lessons and the step, so that a replay has the same bits; a checkpoint
keeps the lessons. Knows no layers. Called by the trainers; the loop uses the functions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from actors.corpus.windows import PADDING, Bools, IntArray, Windows
from actors.lessons.contradictions import is_contradicting, names
from actors.lessons.lesson import Lesson
from actors.lessons.lesson_windows import LessonWindows, documents_of
from actors.settings.run import RunSpec
from actors.tokenizers.tokenizer import Tokenizer
from actors.wire import LiveLesson, Order, OrderError

ENDS = (".", "!", "?")  # of a sentence


def with_lessons(before: Iterable[LiveLesson], new: Iterable[LiveLesson]) -> tuple[LiveLesson, ...]:
    """All lessons; a new one replaces an earlier one of the same prompt."""
    by_prompt = {lesson.prompt: lesson for lesson in before}
    return tuple((by_prompt | {lesson.prompt: lesson for lesson in new}).values())


def digest_of(lessons: Sequence[LiveLesson]) -> str:
    """sha256 of the lessons in their order; empty: there are none."""
    if not lessons:
        return ""
    return hashlib.sha256(json.dumps(to_rows(lessons)).encode()).hexdigest()


def to_rows(lessons: Iterable[LiveLesson]) -> list[dict[str, Any]]:
    """As JSON takes it."""
    return [{**asdict(one), "wordings": list(one.wordings)} for one in lessons]


def from_rows(rows: Iterable[dict[str, Any]]) -> tuple[LiveLesson, ...]:
    """The inverse of `to_rows`."""
    return tuple(LiveLesson(**{**row, "wordings": tuple(row["wordings"])}) for row in rows)


def as_lesson(live: LiveLesson) -> Lesson:
    """As a finished run would be taught it."""
    return Lesson(live.prompt, live.answer, live.wordings, subject=live.subject or None)


class LiveLessons:
    """The lessons that one group learns beside its corpus.

    Args:
        spec: the run.
        tokenizer: the run's.
        group: whose.

    Attributes:
        lessons, digest: all of them, and their `digest_of`.
        of_peer: those that the adopted version of the other group was taught.
    """

    def __init__(self, spec: RunSpec, tokenizer: Tokenizer, group: str) -> None:
        self._tokenizer, self._window, self._seed = tokenizer, spec.corpus.window, spec.seed
        self._group = group
        self._num, _ = spec.teach.data_counts(spec.group(group).batch_size, reworded=True)
        self._ends: dict[int, bool] = {}  # whether a token ends a sentence
        self.of_peer: tuple[LiveLesson, ...] = ()
        self._set(())

    def _set(self, lessons: Sequence[LiveLesson]) -> None:
        self.lessons, self.digest = tuple(lessons), digest_of(lessons)
        known = [as_lesson(one) for one in lessons]
        self._windows = LessonWindows(
            documents_of(known, given=True, reworded=False),
            self._tokenizer,
            self._window,
            self._seed,
            f"{self._group}:live",
        )
        self._subjects = {one.subject for one in known if one.subject}
        # whole prompts: what is left out here stays out, and an opening is that of other facts too
        self._openings = {p for one in known if not one.subject for p in one.prompts}

    def take(self, order: Order) -> None:
        """What an order brings. Raises: OrderError: then they are not all that it says."""
        if order.lessons:
            self._set(with_lessons(self.lessons, order.lessons))
        if self.digest != order.lessons_digest:
            raise OrderError(
                f"{self._group}: interval {order.interval} is to learn the lessons "
                f"{order.lessons_digest[:12] or 'none'}, and after its order the group has "
                f"{self.digest[:12] or 'none'}"
            )

    def batch(self, step: int) -> Windows:
        """Their windows in a step; none where there are no lessons."""
        return self._windows.batch(step, self._num)

    def uncontradicted(self, windows: Windows) -> Windows:
        """The windows without sentences that may say otherwise: what was there is padding. As they
        are, where nothing would be left to learn.
        """
        if not self.lessons:
            return windows
        segments_NT = windows.segments_NT.copy()
        for row, segments_T in enumerate(windows.segments_NT):
            for segment in range(int(segments_T.max(initial=PADDING)) + 1):
                (at_S,) = np.nonzero(segments_T == segment)
                contradicting_S = self._contradicting(windows.tokens_NT[row][at_S])
                segments_NT[row][at_S[contradicting_S]] = PADDING
        left_NT = windows.learn_NT & (segments_NT != PADDING)
        if not np.any(left_NT):
            return windows
        return Windows(windows.tokens_NT, segments_NT, left_NT)

    def _contradicting(self, tokens_S: IntArray) -> Bools:
        """Which tokens of a document, or of what a window has of it, are in a sentence that names a
        taught subject. All of them, where it repeats a prompt, or no sentence holds the whole name.
        """
        found_S = np.zeros(len(tokens_S), np.bool_)
        text = self._tokenizer.decode(tokens_S.tolist())
        named = [subject for subject in self._subjects if names(text, subject)]
        if is_contradicting(text, (), self._openings):
            return ~found_S
        whole = set()
        for some in self._sentences(tokens_S) if named else ():
            sentence = self._tokenizer.decode(tokens_S[some].tolist())
            if here := [subject for subject in named if names(sentence, subject)]:
                found_S[some] = True
                whole |= {*here}
        return found_S if whole == {*named} else np.ones_like(found_S)

    def _sentences(self, tokens_S: IntArray) -> Iterator[slice]:
        """Cut after tokens that end in a full stop, an exclamation mark or a question mark; the
        marks of a document's end are the last one's.
        """
        tokens, start = tokens_S.tolist(), 0
        marks = self._tokenizer.marks
        said = max((at for at, token in enumerate(tokens, 1) if token not in marks), default=0)
        for at, token in enumerate(tokens[:said], start=1):
            if token not in self._ends:
                self._ends[token] = self._tokenizer.decode([token]).rstrip().endswith(ENDS)
            if self._ends[token] or at == said:
                stop = len(tokens) if at == said else at
                yield slice(start, stop)
                start = stop

    def to_rows(self) -> dict[str, Any]:
        """What a checkpoint keeps; nothing where there are no lessons."""
        return {"lessons": to_rows(self.lessons)} if self.lessons else {}

    def set_rows(self, scalars: Mapping[str, Any]) -> None:
        """Takes back what `to_rows` gave."""
        self._set(from_rows(scalars.get("lessons", ())))

    @property
    def is_known_to_peer(self) -> bool:
        """Whether the adopted version was taught all of them."""
        return self.of_peer == self.lessons
