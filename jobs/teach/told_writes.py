"""What a memory was told, before a teaching and after it: named writes as lessons, and what of them
goes on. Imports no torch.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

from actors.lessons.given_lessons import GivenLessons
from actors.lessons.lesson import Lesson
from actors.lessons.told import told_to_lists
from actors.wire import ConfigError, Told, ToldAssociation

if TYPE_CHECKING:
    from actors.layers.named_writes import NamedWrites

TAUGHT = "taught"  # the write of what was taught


def told_lessons(writes: NamedWrites, ids: Sequence[str], run: str) -> GivenLessons:
    """Named writes as lessons; a later one replaces an earlier one of the same prompt.

    Args:
        writes: of the run's memory.
        ids: which of them; none: all that are on.
        run: for messages.

    Raises:
        ConfigError: there is none, or none of that name.
    """
    try:
        chosen = [writes.get(id) for id in ids] or [w for w in writes.on if not w.taught]
    except KeyError as err:
        raise ConfigError(f"{run}: {err.args[0]}") from err
    if not chosen:
        raise ConfigError(
            f"{run}: its memory was told nothing; tell it with tandem tell, or give --lessons FILE"
        )
    found: dict[str, Lesson] = {}
    for write in chosen:
        for one in write.associations:
            answer = one.answer.strip().rstrip(" .")
            found[one.prompt] = Lesson(
                one.prompt.strip(), answer, tuple(one.wordings), form="told",
                subject=one.subject or None, source=f"{run}: told {write.id}",
            )  # fmt: skip
    return GivenLessons(tuple(found.values()))


def told_after(
    writes: NamedWrites, lessons: Sequence[Lesson], near: Sequence[ToldAssociation]
) -> list[Any]:
    """The named writes of the taught memory: those that are on, less what is taught of them, and
    what it is told of the lessons, of all that were ever taught, which is fresh no longer.

    Args:
        writes: of the run that is taught.
        lessons: all that are taught.
        near: what the memory is told of them.
    """
    prompts = {prompt for lesson in lessons for prompt in lesson.prompts}
    left = [
        Told(
            write.id,
            write.told_at,
            tuple(one.to_told() for one in write.associations if one.prompt.strip() not in prompts),
        )
        for write in writes.on
        if not write.taught
    ]
    left = [one for one in left if one.associations]
    if near:
        names = {one.id for one in left}
        free = (f"{TAUGHT}-{number}" if number else TAUGHT for number in count())
        name = next(name for name in free if name not in names)
        left.append(Told(name, time.time(), tuple(near), taught=True))
    return told_to_lists(left)
