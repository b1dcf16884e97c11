"""Tells a memory the lessons before the data layer is taught them, so that nothing is left for it
to follow, and all that it knew otherwise stays.

    a memory with encodings     associations that the run which teaches is told: they are found by
                                nearness, and no weight of the memory changes
    addresses by n-grams        rows of its table, solved; reads of what it wrote stay

Needs no corpus. Called by `lesson_preparation`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from actors.corpus.kept_windows import positions_of
from actors.corpus.windows import Windows
from actors.layers.kept_reads import KeptReads
from actors.layers.memory_layer import MemoryLayer
from actors.layers.named_writes import Association, NamedWrites
from actors.layers.pair import Pair
from actors.lessons.lesson import Lesson
from actors.lessons.told_rows import ToldRows
from actors.machine.progress import Progress, unseen
from actors.measuring.answers import is_answered
from actors.measuring.lesson_exam import said
from actors.measuring.subjects import is_named
from actors.pair.telling import tell
from actors.settings.groups import KEPT_READS
from actors.teaching.texts import in_windows
from actors.tokenizers.tokenizer import Tokenizer
from actors.wire import ToldAssociation

# Answer positions beyond those of the prompts as given. Each read is compared with all of them.
MOST_KEYS = 20_000
# The same where rows are solved. Where they are as many as the rows of the table, telling takes
# what was there: .81 of the kept answers were left of .97, and .88 as given.
MOST_SOLVED_KEYS = 2000
# How much louder a lesson gets that the memory does not say yet: at 30, as where nothing is trained
# afterwards, .84 of its other answers are left of .97, at 3 .93.
LOUDER = 3.0


@dataclass(frozen=True)
class ToldFirst:
    """How the memory is told the lessons.

    Attributes:
        near: what is found by nearness; nothing where the memory gives all of it by itself.
        rows: of its table, which change instead; None: none do.
        figures: for the report.
    """

    near: tuple[ToldAssociation, ...] = ()
    rows: ToldRows | None = None
    figures: dict[str, float] | None = None


def tell_first(
    pair: Pair,
    tokenizer: Tokenizer,
    lessons: Sequence[Lesson],
    texts: Sequence[str],
    window: int,
    progress: Progress = unseen,
) -> ToldFirst:
    """What the memory is told; it stays as it is.

    Args:
        pair: that is taught.
        tokenizer: the run's.
        lessons: as given, in their given wordings, and in those of the memory's at which they are
            not found by nearness, as far as there is room.
        texts: what the memory wrote, and what has to stay.
        window: tokens of a window.
        progress: sees what is being done.
    """
    memory = pair.memory
    before, sample = memory.writes, memory.kept
    memory.writes = NamedWrites()  # what its table alone says
    try:
        if memory.ngrams is not None:
            rows, figures = _solved(memory, tokenizer, lessons, texts, window, progress)
            return ToldFirst(rows=rows, figures=figures)
        near = associations(tokenizer, lessons, MOST_KEYS)
        what = "asking the memory what it says already"
        asked = [
            (i, prompt) for i, one in enumerate(near) for prompt in (one.prompt, *one.wordings)
        ]
        if not _unanswered(pair, tokenizer, lessons, asked, progress, what):
            near = []  # one by one, what it knows would be overrun by what is told beside it
        else:
            memory.kept = _part(in_windows(tokenizer, texts, window))
            kept = KeptReads.of(memory, memory.kept, progress=progress)
            tell(
                memory,
                tokenizer,
                [Association.of(one) for one in near],
                kept,
                "lessons",
                taught=True,
                progress=progress,
            )
            what = "asking the memory in other wordings"
            asked = [(i, prompt) for i, one in enumerate(lessons) for prompt in one.reworded]
            missed = _unanswered(pair, tokenizer, lessons, asked, progress, what)
            near = associations(tokenizer, _given_too(lessons, missed), MOST_KEYS)
    finally:
        memory.writes, memory.kept = before, sample
    num = sum(1 + len(one.wordings) for one in near)
    return ToldFirst(tuple(near), figures={"associations": float(len(near)), "prompts": float(num)})


def _unanswered(
    pair: Pair,
    tokenizer: Tokenizer,
    lessons: Sequence[Lesson],
    asked: Sequence[tuple[int, str]],
    progress: Progress,
    what: str,
) -> list[tuple[int, str]]:
    """Of prompts of lessons those after which the memory says something else."""
    prompts = [prompt for _, prompt in asked]
    answers = said(pair, "memory", tokenizer, prompts, progress=progress, what=what)
    return [
        (i, prompt)
        for (i, prompt), text in zip(asked, answers, strict=True)
        if not is_answered(f" {text}", lessons[i].answer, prompt)
    ]


def _given_too(lessons: Sequence[Lesson], missed: Sequence[tuple[int, str]]) -> list[Lesson]:
    """The lessons with these prompts as if they had been given."""
    more: defaultdict[int, list[str]] = defaultdict(list)
    for i, prompt in missed:
        more[i].append(prompt)
    return [
        replace(one, wordings=tuple(dict.fromkeys((*one.wordings, *more[i]))))
        for i, one in enumerate(lessons)
    ]


def _part(windows: Windows) -> Windows:
    """About as much of it as the result keeps, from everywhere."""
    num = int(positions_of(windows).sum())
    return windows[:: max(1, -(-num // KEPT_READS))]


def _solved(
    memory: MemoryLayer,
    tokenizer: Tokenizer,
    lessons: Sequence[Lesson],
    texts: Sequence[str],
    window: int,
    progress: Progress,
) -> tuple[ToldRows, dict[str, float]]:
    windows = in_windows(tokenizer, texts, window)
    found = KeptReads.of(memory, windows, progress=progress)
    kept = replace(found, most_solved=len(found))  # of all, those that share most with the keys
    near = associations(tokenizer, lessons, MOST_SOLVED_KEYS)
    some = [Association.of(one) for one in near]
    write = tell(memory, tokenizer, some, kept, "lessons", louder=LOUDER, progress=progress)
    return ToldRows(write.rows_U, write.values_UD), dict(write.figures)


def associations(
    tokenizer: Tokenizer, lessons: Sequence[Lesson], most: int
) -> list[ToldAssociation]:
    """The lessons as given and, as far as there is room for so many positions, in the other
    wordings given with them; not in one that belongs to another answer.
    """
    answers = {lesson.prompt.rstrip(): lesson.answer for lesson in lessons}
    sizes = [len(tokenizer.encode(lesson.completion)) + 1 for lesson in lessons]
    room = most - sum(sizes)
    taken: list[list[str]] = [[] for _ in lessons]
    longest = max((len(lesson.wordings) for lesson in lessons), default=0)
    for number in range(longest):  # one more wording of each, by turns
        for i, lesson in enumerate(lessons):
            if number >= len(lesson.wordings) or sizes[i] > room:
                continue
            wording = lesson.wordings[number]
            if answers.setdefault(wording.rstrip(), lesson.answer) == lesson.answer:
                taken[i].append(wording)
                room -= sizes[i]
    return [
        ToldAssociation(lesson.prompt, lesson.answer, tuple(others), subject=_named(lesson))
        for lesson, others in zip(lessons, taken, strict=True)
    ]


def _named(lesson: Lesson) -> str:
    """Its subject, where its prompt names it so."""
    subject = lesson.subject or ""
    return subject if is_named([lesson.prompt], subject) else ""
