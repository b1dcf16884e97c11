"""Has the memory follow a data layer that is taught. Where it was told the lessons and finds them
by nearness nothing is left to follow: no weight moves, and what it was told goes with every
version. Else it is the memory trainer with another batch and other losses.

    batch = lessons in all wordings + text that the memory wrote
    loss  = self on the lessons + recall of theta on both + w KL(q_before || q_phi) on the text

q_before are the run's starting weights: the memory that wrote the text, before its table was told
the lessons in closed form, where it is addressed by n-grams.
Recall of the lessons waits for the first version that was taught them: until then the data layer
says what it said before.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from actors.corpus.windows import Windows
from actors.layers.batch import Batch, to_batch
from actors.lessons.lesson_files import read_exam, read_kept_lessons
from actors.lessons.lesson_windows import LessonWindows, documents_of
from actors.lessons.told import told_from_lists, with_changes
from actors.lessons.told_rows import ToldRows
from actors.settings.run import MEMORY
from actors.snapshots.sections import ROW_TABLE
from actors.training.interval import Measured, within
from actors.training.lesson_passes import FollowedPass
from actors.training.memory_states import Measures
from actors.training.memory_trainer import MemoryTrainer
from actors.training.terms import TeachingMemoryTerms
from actors.wire import Order


class TeachingMemoryTrainer(MemoryTrainer):
    """One rank of the memory group of a run that teaches."""

    def build_more(self, begin: Callable[[str], None]) -> None:
        """The memory as it was, what it was told, and the lessons."""
        spec = self.spec
        self.told = told_from_lists(read_exam(spec.teach).told)
        if not self.follows:
            return
        begin("building the memory as it was")
        self.kept = self.build_layer().requires_grad_(False)
        if spec.teach.memory_train == "values":
            for name, parameter in self.layer.named_parameters():
                parameter.requires_grad_(name == ROW_TABLE)
            for group in self.dense.adamw.param_groups:  # which would move them without a gradient
                group["weight_decay"] = 0.0
        if spec.teach.told is not None:
            ToldRows.read(spec.teach.told).add_to(self.layer.values)
        documents = documents_of(read_kept_lessons(spec.teach), given=True, reworded=True)
        window = spec.corpus.window
        self.lessons = LessonWindows(documents, self.tokenizer, window, spec.seed, MEMORY)
        self.num_lessons = spec.teach.memory_count(spec.memory.batch_size)

    @property
    def follows(self) -> bool:
        """Whether it takes steps."""
        return self.spec.teach.memory_train != "nothing"

    def begin_interval(self, order: Order) -> None:
        """Nothing that the data group trained on is read: both train on the same text."""
        self.choices = self.generator(order.interval)
        self.told = with_changes(self.told, order.told)

    def train_step(self) -> Measured:
        """One step on the lessons and the text that are next."""
        group, step = self.spec.memory, Measured()
        if not self.follows:
            return step
        with self.cost("batch"):
            text, _ = self.fresh.next_batch(group.batch_size - self.num_lessons)
            lessons = self.lessons.batch(self.step, self.num_lessons)
            batch = to_batch(Windows.concat([lessons, text]), torch.device("cpu"))
            valid_B = batch.host.valid_BT.sum(1)
            num_lessons, num_text = (
                int(valid_B[: self.num_lessons].sum()),
                int(valid_B[self.num_lessons :].sum()),
            )
        self.dense.zero_grad()
        for rows in self.passes():
            part = batch.rows(rows).to(self.device)
            step.num_tokens += part.num_tokens
            first = within(self.num_lessons, rows)
            self._learn_followed(part, first, num_lessons, num_text, step)
        return self.updated(step)

    def _learn_followed(
        self, part: Batch, first: int, num_lessons: int, num_text: int, step: Measured
    ) -> None:
        """Gradients of one pass.

        Args:
            part: its sequences, lessons first.
            first: how many of them are lessons.
            num_lessons, num_text: positions of both kinds in the global batch.
            step: gets what is reported.
        """
        keep, weights = self.spec.teach.memory_keep, self.spec.losses
        followed = FollowedPass(
            self.layer,
            self.teacher,
            self.kept if keep > 0 else None,
            part,
            part.rows(slice(first, None)),
            int(part.host.valid_BT.sum(1)[:first].sum()),
            num_lessons,
            num_text,
            weights,
            keep,
            recalls_lessons=self.peer_version > 0,  # nothing of the lessons in version 0
            measures=Measures(self.cost, self.autocast),
        )
        for terms in followed.terms():
            self.learn(terms, step)
        last = TeachingMemoryTerms(balance=self._balance(followed.side_scores))
        self.learn(last, step, cut=followed.cut)
