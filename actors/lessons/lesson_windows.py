"""Windows of lessons, drawn as a pure function of the step: nothing to keep in a checkpoint.

Every rank makes the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from actors.corpus.block_reader import encode
from actors.corpus.windows import Windows, pack
from actors.lessons.lesson import Lesson
from actors.machine.seeds import seed_of
from actors.sources.documents import Document
from actors.tokenizers.tokenizer import Tokenizer


def documents_of(lessons: Sequence[Lesson], given: bool, reworded: bool) -> list[Document]:
    """A document for each lesson and prompt: only the answer is learned.

    Args:
        lessons: what is taught.
        given: as they were given, in each wording that was given.
        reworded: in the wordings that the memory knows.
    """
    return [
        Document(lesson.completion, lesson.subject or lesson.prompt, prompt)
        for lesson in lessons
        for prompt in dict.fromkeys(
            [*((lesson.prompt, *lesson.wordings) if given else ()),
             *(lesson.reworded if reworded else ())]
        )
    ]  # fmt: skip


class LessonWindows:
    """Packed lessons in an endless order: each epoch packs them anew, in another one.

    Args:
        documents: what is learned.
        tokenizer: the run's.
        window: tokens of a window.
        seed: of the order.
        name: tells two such orders of one run apart.
    """

    def __init__(
        self,
        documents: Sequence[Document],
        tokenizer: Tokenizer,
        window: int,
        seed: int,
        name: str,
    ) -> None:
        self._pieces = encode(tokenizer, documents)
        self._window, self._fill = window, tokenizer.end_of_text
        self._seed, self._name = seed, name
        self._size = len(self._packed(0))
        self._epoch: tuple[int, Windows] = (-1, Windows.empty(window))

    def __len__(self) -> int:
        """Windows of one epoch."""
        return self._size

    def _packed(self, epoch: int) -> Windows:
        rng = np.random.default_rng(seed_of(self._seed, "lessons", self._name, epoch))
        order = rng.permutation(len(self._pieces))
        return pack([self._pieces[i] for i in order], self._window, self._fill)

    def _at(self, epoch: int) -> Windows:
        if self._epoch[0] != epoch:
            packed = self._packed(epoch)
            rows = np.arange(self._size) % max(1, len(packed))  # as many in every epoch
            self._epoch = epoch, packed[rows]
        return self._epoch[1]

    def batch(self, step: int, num: int) -> Windows:
        """The `num` windows of a step."""
        parts = [Windows.empty(self._window)]
        at, stop = step * num, (step + 1) * num
        while self._size and at < stop:
            epoch, start = divmod(at, self._size)
            take = min(stop - at, self._size - start)
            parts.append(self._at(epoch)[start : start + take])
            at += take
        return Windows.concat(parts)
