"""Teaches the data layer lessons: the data trainer with another batch and other losses.

    batch = lessons as given + lessons in the memory's wordings
            + text that the memory wrote, and that the data layer wrote, where it can
            + general text, beside a model that knew more than its memory
    loss  = CE of the wanted answers (of both kinds) + w KL(p_before || p_theta) on all text

The memory is never read in it, so that the data layer knows the lessons alone, and the port keeps
its weights. p_before are the run's starting weights, whatever was taught since. The lessons of a
step follow from its number; the text is the run's corpus.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from actors.corpus.corpus import Corpus
from actors.corpus.general_text import general_corpus
from actors.corpus.windows import Windows
from actors.layers.batch import to_batch
from actors.lessons.lesson_files import read_kept_lessons, read_own_text
from actors.lessons.lesson_windows import LessonWindows, documents_of
from actors.settings.run import DATA
from actors.sources.documents import Document
from actors.training.data_trainer import DataTrainer
from actors.training.interval import Measured, within
from actors.training.lesson_passes import TaughtPass
from actors.training.memory_states import Measures
from actors.weights.builders import build_data_layer


class TeachingDataTrainer(DataTrainer):
    """One rank of the data group of a run that teaches."""

    def build_more(self, begin: Callable[[str], None]) -> None:
        """The data layer as it was, and the lessons."""
        spec = self.spec
        self.own_port_lr = None  # nothing is read, so the port does not move
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
        own = [Document(text) for text in read_own_text(spec.teach)]
        self.own_text = LessonWindows(own, self.tokenizer, window, spec.seed, f"{DATA}:own")
        self.num_given, self.num_reworded = spec.teach.data_counts(size, has_others)

    def general_text(self) -> Corpus:
        """In windows of the run's length, which stand in one batch with others."""
        return general_corpus(self.spec, self.tokenizer)

    def _general_windows(self) -> Windows:
        """This step's general text; none where the run has none, or there is no room for it."""
        room = self.spec.data.batch_size - self.num_given - self.num_reworded - 1
        num = min(self.spec.data.num_general, room)
        if self.general is None or num < 1:
            return Windows.empty(self.spec.corpus.window)
        return self.general.next_batch(num)[0]

    def train_step(self) -> Measured:
        """One step on the lessons and the text that are next."""
        step, num = Measured(), self.num_given + self.num_reworded
        with self.cost("batch"):
            general = self._general_windows()
            num_text = self.spec.data.batch_size - num - len(general)
            num_own = self.spec.teach.own_count(num_text)
            text, ranges = self.stream.next_batch(num_text - num_own)
            own = self.own_text.batch(self.step, num_own)
            self.ranges.extend(ranges)
            given = self.given.batch(self.step, self.num_given)
            reworded = self.reworded.batch(self.step, self.num_reworded)
            windows = Windows.concat([given, reworded, text, own, general])
            batch = to_batch(windows, torch.device("cpu"))
            valid_B = batch.host.valid_BT.sum(1)
            num_global = tuple(
                int(valid_B[part].sum())
                for part in (slice(self.num_given), slice(self.num_given, num), slice(num, None))
            )
        self.dense.zero_grad()
        measures = Measures(self.cost, self.autocast)
        for rows in self.passes():
            part = batch.rows(rows).to(self.device)
            step.num_tokens += part.num_tokens
            ends = [within(stop, rows) for stop in (self.num_given, num)]
            valid_B = part.host.valid_BT.sum(1)
            bounds = [0, *(int(valid_B[:end].sum()) for end in ends), int(valid_B.sum())]
            taught = TaughtPass(
                self.layer,
                self.reference,
                part,
                part.rows(slice(ends[1], None)),
                bounds,
                num_global,
                self.spec.teach.rehearse,
                measures,
            )
            for terms, cut in taught.terms():
                self.learn(terms, step, cut=cut)
        return self.updated(step)
