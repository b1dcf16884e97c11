"""Tells a memory the lessons in closed form before the data layer is taught them: little is left
for it to follow then, and what it knew otherwise stays.

What has to stay are its reads of text that it wrote, so no corpus is needed. Called by
`lesson_preparation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from actors.layers.kept_reads import KeptReads
from actors.layers.memory_layer import MemoryLayer
from actors.layers.named_writes import Association, NamedWrites
from actors.lessons.lesson import Lesson
from actors.lessons.told_rows import ToldRows
from actors.machine.progress import Progress, unseen
from actors.pair.telling import tell
from actors.teaching.texts import in_windows
from actors.tokenizers.tokenizer import Tokenizer

# Answer positions beyond those of the prompts as given. Where they are as many as the rows of the
# table, telling takes what was there: .81 of the kept answers were left of .97, and .88 as given.
MOST_KEYS = 2000
# How much louder a lesson gets that the memory does not say yet: at 30, as where nothing is trained
# afterwards, .84 of its other answers are left of .97, at 3 .93.
LOUDER = 3.0


def told_rows(
    memory: MemoryLayer,
    tokenizer: Tokenizer,
    lessons: Sequence[Lesson],
    texts: Sequence[str],
    window: int,
    progress: Progress = unseen,
) -> tuple[ToldRows, dict[str, float]]:
    """What telling changes in the table, and the figures of the solving; the memory stays as it is.

    Args:
        memory: of the pair that is taught.
        tokenizer: the run's.
        lessons: as given, and in as many of their given wordings as there is room for.
        texts: what it wrote, and what has to stay.
        window: tokens of a window.
        progress: sees what is being done.
    """
    windows = in_windows(tokenizer, texts, window)
    found = KeptReads.of(memory, windows, progress=progress)
    kept = replace(found, most_solved=len(found))  # of all, those that share most with the keys
    before = memory.writes
    memory.writes = NamedWrites()  # the rows are to be added to the table alone
    try:
        write = tell(
            memory, tokenizer, associations(tokenizer, lessons), kept, "lessons", louder=LOUDER,
            by_rows=True, progress=progress,
        )  # fmt: skip
    finally:
        memory.writes = before
    return ToldRows(write.rows_U, write.values_UD), dict(write.figures)


def associations(tokenizer: Tokenizer, lessons: Sequence[Lesson]) -> list[Association]:
    """The lessons as given and, as far as there is room, in the other wordings given with them; the
    memory's own follow from these, and from the steps after it.
    """
    sizes = [len(tokenizer.encode(lesson.completion)) + 1 for lesson in lessons]
    room = MOST_KEYS - sum(sizes)
    taken: list[list[str]] = [[] for _ in lessons]
    longest = max((len(lesson.wordings) for lesson in lessons), default=0)
    for number in range(longest):  # one more wording of each, by turns
        for i, lesson in enumerate(lessons):
            if number < len(lesson.wordings) and sizes[i] <= room:
                taken[i].append(lesson.wordings[number])
                room -= sizes[i]
    return [
        Association(lesson.prompt, lesson.answer, tuple(others))
        for lesson, others in zip(lessons, taken, strict=True)
    ]
