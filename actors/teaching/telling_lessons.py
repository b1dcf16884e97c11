"""Tells a memory the lessons before the data layer is taught them, so that nothing is left for it
to follow, and all that it knew otherwise stays.

    a memory with encodings     associations that the run which teaches is told: they are found by
                                nearness, and no weight of the memory changes
    addresses by n-grams        rows of its table, solved; reads of what it wrote stay

Needs no corpus. Called by `lesson_preparation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from actors.layers.kept_reads import KeptReads
from actors.layers.memory_layer import MemoryLayer
from actors.layers.named_writes import Association, NamedWrites
from actors.layers.pair import Pair
from actors.lessons.lesson import Lesson
from actors.lessons.told_rows import ToldRows
from actors.machine.progress import Progress, unseen
from actors.measuring.answers import is_answered
from actors.measuring.lesson_exam import said
from actors.pair.telling import tell
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
        lessons: as given, and in as many of their given wordings as there is room for; other
            wordings are found by nearness, or follow from the steps after it.
        texts: what the memory wrote, and what has to stay.
        window: tokens of a window.
        progress: sees what is being done.
    """
    memory = pair.memory
    before, memory.writes = memory.writes, NamedWrites()  # what its table alone says
    try:
        if memory.ngrams is not None:
            rows, figures = _solved(memory, tokenizer, lessons, texts, window, progress)
            return ToldFirst(rows=rows, figures=figures)
        told = associations(tokenizer, lessons, MOST_KEYS)
        asked = [(one, prompt) for one in told for prompt in (one.prompt, *one.wordings)]
        what = "asking the memory what it says already"
        prompts = [prompt for _, prompt in asked]
        answers = said(pair, "memory", tokenizer, prompts, progress=progress, what=what)
    finally:
        memory.writes = before
    knows_all = all(
        is_answered(f" {text}", one.answer, prompt)
        for (one, prompt), text in zip(asked, answers, strict=True)
    )  # one by one, what it knows would be overrun by what is told beside it
    near = () if knows_all else tuple(told)
    return ToldFirst(near, figures={"associations": float(len(near))})


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
    some = [
        Association(one.prompt, one.answer, one.wordings)
        for one in associations(tokenizer, lessons, MOST_SOLVED_KEYS)
    ]
    write = tell(memory, tokenizer, some, kept, "lessons", louder=LOUDER, progress=progress)
    return ToldRows(write.rows_U, write.values_UD), dict(write.figures)


def associations(
    tokenizer: Tokenizer, lessons: Sequence[Lesson], most: int
) -> list[ToldAssociation]:
    """The lessons as given and, as far as there is room for so many positions, in the other
    wordings given with them.
    """
    sizes = [len(tokenizer.encode(lesson.completion)) + 1 for lesson in lessons]
    room = most - sum(sizes)
    taken: list[list[str]] = [[] for _ in lessons]
    longest = max((len(lesson.wordings) for lesson in lessons), default=0)
    for number in range(longest):  # one more wording of each, by turns
        for i, lesson in enumerate(lessons):
            if number < len(lesson.wordings) and sizes[i] <= room:
                taken[i].append(lesson.wordings[number])
                room -= sizes[i]
    return [
        ToldAssociation(lesson.prompt, lesson.answer, tuple(others))
        for lesson, others in zip(lessons, taken, strict=True)
    ]
