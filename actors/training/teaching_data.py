"""Teaches the data layer lessons: the data trainer with another batch and other losses.

    batch = lessons as given + lessons in the memory's wordings + text that the memory wrote
    loss  = CE of the wanted answers (of both kinds) + w KL(p_before || p_theta) on the text

The memory is never read in it, so that the data layer knows the lessons alone, and the port keeps
its weights. p_before are the run's starting weights, whatever was taught since. The lessons of a
step follow from its number; the text is the run's corpus.

Shapes: N positions, V token ids.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from actors.corpus.windows import Windows
from actors.layers import losses
from actors.layers.batch import Batch, data_logits_at, to_batch
from actors.lessons.lesson_files import read_kept_lessons
from actors.lessons.lesson_windows import LessonWindows, documents_of
from actors.settings.run import DATA
from actors.training.data_trainer import DataTrainer
from actors.training.interval import Measured, within
from actors.training.optim import learning_rate
from actors.training.terms import TeachingDataTerms, Term
from actors.weights.builders import build_data_layer


class TeachingDataTrainer(DataTrainer):
    """One rank of the data group of a run that teaches."""

    def build_more(self, begin: Callable[[str], None]) -> None:
        """The data layer as it was, and the lessons."""
        spec = self.spec
        begin("building the data layer as it was")
        layer = build_data_layer(spec, self.tokenizer, self.device, self.starting)
        self.reference = layer.eval().requires_grad_(False)
        lessons = read_kept_lessons(spec.teach)
        window = spec.corpus.window
        self.given, self.reworded = (
            LessonWindows(
                documents_of(lessons, name == "given", name == "reworded"),
                self.tokenizer,
                window,
                spec.seed,
                f"{DATA}:{name}",
            )
            for name in ("given", "reworded")
        )
        size, has_others = spec.data.batch_size, len(self.reworded) > 0
        self.num_given, self.num_reworded = spec.teach.data_counts(size, has_others)

    def train_step(self) -> Measured:
        """One step on the lessons and the text that are next."""
        step, num = Measured(), self.num_given + self.num_reworded
        with self.cost("batch"):
            text, ranges = self.stream.next_batch(self.spec.data.batch_size - num)
            self.ranges.extend(ranges)
            given = self.given.batch(self.step, self.num_given)
            reworded = self.reworded.batch(self.step, self.num_reworded)
            batch = to_batch(Windows.concat([given, reworded, text]), torch.device("cpu"))
            valid_B = batch.host.valid_BT.sum(1)
            num_global = tuple(
                int(valid_B[part].sum())
                for part in (slice(self.num_given), slice(self.num_given, num), slice(num, None))
            )
        self.dense.zero_grad()
        for rows in self.passes():
            part = batch.rows(rows).to(self.device)
            step.num_tokens += part.num_tokens
            first, second = within(self.num_given, rows), within(num, rows)
            self.learn(self.taught_terms(part, first, second, num_global), step)
        self.reduce()
        with self.cost("optimizer"):
            spec = self.spec.data.optimizer
            lr = learning_rate(spec.lr, spec, self.step, self.spec.total_steps(DATA))
            step.add_metric("gradient_norm", self.dense.step(lr))
            step.metrics["lr"] = lr
        return self.checked(step)

    def taught_terms(
        self, part: Batch, first: int, second: int, num_global: tuple[int, ...]
    ) -> TeachingDataTerms:
        """The losses of one pass.

        Args:
            part: its sequences: lessons as given, in other wordings, text.
            first, second: where the second and the third kind begin.
            num_global: positions of each kind in the global batch.
        """
        terms = TeachingDataTerms()
        with self.cost("forward"), self.autocast():
            logits_NV = data_logits_at(self.layer, part)
        valid_B = part.host.valid_BT.sum(1)
        at, end = int(valid_B[:first].sum()), int(valid_B[:second].sum())
        if at:
            terms = replace(terms, lessons=self._answers(logits_NV[:at], part.targets_N[:at],
                                                         num_global[0]))  # fmt: skip
        if end > at:
            terms = replace(terms, reworded=self._answers(logits_NV[at:end],
                                                          part.targets_N[at:end],
                                                          num_global[1]))  # fmt: skip
        if end < len(logits_NV):
            text = part.rows(slice(second, None))
            with self.cost("reference"), torch.no_grad(), self.autocast():
                before_NV = data_logits_at(self.reference, text)
            share = text.num_valid / num_global[2]
            kl = losses.recall(before_NV, logits_NV[end:]) * share
            terms = replace(terms, rehearsed=Term(kl, self.spec.teach.rehearse))
        return terms

    def _answers(self, logits_NV: Tensor, targets_N: Tensor, num_global: int) -> Term:
        return Term(losses.own(logits_NV, targets_N) * (len(targets_N) / num_global), 1.0)
