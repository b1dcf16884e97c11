"""Has the memory follow a data layer that is taught: the memory trainer with another batch and
other losses.

    batch = lessons in all wordings + text that the memory wrote
    loss  = self on the lessons + recall of theta on both + w KL(q_before || q_phi) on the text

q_before are the run's starting weights: the memory that wrote the text, before it was told the
lessons in closed form, which is what it begins with.
Recall of the lessons waits for the first version that was taught them: until then the data layer
says what it said before.

Shapes: N positions, V token ids.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from actors.corpus.windows import Windows
from actors.layers import losses
from actors.layers.batch import Batch, data_logits_at, memory_logits_at, rows_at, to_batch
from actors.lessons.lesson_files import read_exam, read_kept_lessons
from actors.lessons.lesson_windows import LessonWindows, documents_of
from actors.lessons.told_rows import ToldRows
from actors.settings.run import MEMORY
from actors.training.interval import Measured, within
from actors.training.memory_trainer import MemoryTrainer
from actors.training.terms import TeachingMemoryTerms, Term
from actors.training.told import told_from_lists, with_changes
from actors.wire import Order


class TeachingMemoryTrainer(MemoryTrainer):
    """One rank of the memory group of a run that teaches."""

    def build_more(self, begin: Callable[[str], None]) -> None:
        """The memory as it was, what it was told, and the lessons."""
        spec = self.spec
        begin("building the memory as it was")
        self.kept = self.build_layer().requires_grad_(False)
        if spec.teach.told is not None:
            ToldRows.read(spec.teach.told).add_to(self.layer.values)
        self.told = told_from_lists(read_exam(spec.teach).told)
        documents = documents_of(read_kept_lessons(spec.teach), given=True, reworded=True)
        window = spec.corpus.window
        self.lessons = LessonWindows(documents, self.tokenizer, window, spec.seed, MEMORY)
        self.num_lessons = spec.teach.memory_count(spec.memory.batch_size)

    def begin_interval(self, order: Order) -> None:
        """Nothing that the data group trained on is read: both train on the same text."""
        self.choices = self.generator(order.interval)
        self.told = with_changes(self.told, order.told)

    def train_step(self) -> Measured:
        """One step on the lessons and the text that are next."""
        group, step = self.spec.memory, Measured()
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
            self.learn(self.followed_terms(part, first, num_lessons, num_text), step)
        return self.updated(step)

    def followed_terms(
        self, part: Batch, first: int, num_lessons: int, num_text: int
    ) -> TeachingMemoryTerms:
        """The losses of one pass.

        Args:
            part: its sequences, lessons first.
            first: how many of them are lessons.
            num_lessons, num_text: positions of both kinds in the global batch.
        """
        weights = self.spec.losses
        with self.cost("student"), self.autocast():
            u_BTD, _ = self.layer.encode(
                part.tokens_BT, part.segments_BT, one_document=part.one_document
            )
            u_ND = rows_at(u_BTD, part.valid_at_N)
            read = self.layer.read_at(u_ND)
            logits_NV = self.layer.predict(read.y)
        with self.cost("teacher"), torch.no_grad(), self.autocast():
            teacher_NV = data_logits_at(self.teacher, part)
        at = int(part.host.valid_BT.sum(1)[:first].sum())
        terms = self._followed(part, logits_NV, teacher_NV, at, num_lessons, num_text)
        if weights.encoder > 0:
            with self.cost("encoder"), self.autocast():
                guess_NV = self.layer.guess(u_ND)
            guessed = self._followed(part, guess_NV, teacher_NV, at, num_lessons, num_text).loss()
            if guessed is not None:
                terms = replace(terms, encoder=Term(guessed, weights.encoder))
        if len(logits_NV) > at and self.spec.teach.memory_keep > 0:
            text = part.rows(slice(first, None))
            with self.cost("reference"), torch.no_grad(), self.autocast():
                before_NV = memory_logits_at(self.kept, text)
            kept = losses.recall(before_NV, logits_NV[at:]) * (text.num_valid / num_text)
            terms = replace(terms, kept=Term(kept, self.spec.teach.memory_keep))
        return replace(terms, balance=self._balance(read.side_scores))

    def _followed(
        self,
        part: Batch,
        logits_NV: Tensor,
        teacher_NV: Tensor,
        at: int,
        num_lessons: int,
        num_text: int,
    ) -> TeachingMemoryTerms:
        """Self and recall of a prediction; positions of lessons come first, up to `at`."""
        weights, terms = self.spec.losses, TeachingMemoryTerms()
        if at:
            share = at / num_lessons
            own = losses.self_(logits_NV[:at], part.targets_N[:at]) * share
            terms = replace(terms, self_=Term(own, weights.self_))
        first = 0 if self.peer_version > 0 else at  # nothing of the lessons in version 0
        if num := len(logits_NV) - first:
            num_global = num_text + (num_lessons if first == 0 else 0)
            recall = losses.recall(teacher_NV[first:], logits_NV[first:]) * (num / num_global)
            terms = replace(terms, recall=Term(recall, weights.recall))
        return terms
