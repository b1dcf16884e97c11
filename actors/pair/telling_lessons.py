"""Tells a memory the lessons in closed form before the data layer is taught them: little is left
for it to follow then, and what it knew otherwise stays.

What has to stay are its reads of text that it wrote, so no corpus is needed. Called by
`lesson_preparation`.
"""

from __future__ import annotations

from collections.abc import Sequence

from actors.corpus.block_reader import encode
from actors.corpus.windows import pack
from actors.layers.kept_reads import KeptReads
from actors.layers.memory_layer import MemoryLayer
from actors.layers.named_writes import Association, NamedWrites
from actors.lessons.lesson import Lesson
from actors.lessons.told_rows import ToldRows
from actors.pair.telling import tell
from actors.sources.documents import Document
from actors.tokenizers.tokenizer import Tokenizer

MOST_KEYS = 6000  # answer positions that are solved for; the time grows with their cube
KEPT_POSITIONS = 6000  # of written text, whose reads are to stay


def told_rows(
    memory: MemoryLayer,
    tokenizer: Tokenizer,
    lessons: Sequence[Lesson],
    texts: Sequence[str],
    window: int,
) -> tuple[ToldRows, dict[str, float]]:
    """What telling changes in the table, and the figures of the solving; the memory stays as it is.

    Args:
        memory: of the pair that is taught.
        tokenizer: the run's.
        lessons: in as many of their wordings as there is room for, those given first.
        texts: what it wrote, and what has to stay.
        window: tokens of a window.
    """
    pieces = encode(tokenizer, [Document(text) for text in texts])
    kept = KeptReads.of(memory, pack(pieces, window, tokenizer.end_of_text), KEPT_POSITIONS)
    before = memory.writes
    memory.writes = NamedWrites()  # the rows are to be added to the table alone
    try:
        write = tell(memory, tokenizer, associations(tokenizer, lessons), kept, "lessons")
    finally:
        memory.writes = before
    return ToldRows(write.rows_U, write.values_UD), dict(write.figures)


def associations(tokenizer: Tokenizer, lessons: Sequence[Lesson]) -> list[Association]:
    """The lessons, in the wordings given and, as far as there is room, in the memory's."""
    sizes = [len(tokenizer.encode(lesson.completion)) + 1 for lesson in lessons]
    room = MOST_KEYS - sum(sizes)
    taken: list[list[str]] = [[] for _ in lessons]
    longest = max((len(lesson.prompts) for lesson in lessons), default=0)
    for number in range(1, longest):  # one more wording of each, by turns
        for i, lesson in enumerate(lessons):
            if number < len(lesson.prompts) and sizes[i] <= room:
                taken[i].append(lesson.prompts[number])
                room -= sizes[i]
    return [
        Association(lesson.prompt, lesson.answer, tuple(others))
        for lesson, others in zip(lessons, taken, strict=True)
    ]
