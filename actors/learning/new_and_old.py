"""What a finished pair learns from: so many sequences of what is new, and a share of old data.

The memory and its port both learn from it, each in an order of its own.
"""

from __future__ import annotations

import torch

from actors.corpus.corpus import Corpus, WindowStream
from actors.corpus.windows import Windows
from actors.layers.batch import Batch, add_noise
from actors.learning.rehearsal import Before, Kept, WrittenCorpus, WrittenStream
from actors.settings.learn_plan import LearnPlan, PortPlan


class NewAndOld:
    """Draws the sequences of each step.

    Args:
        new, old: what is to be learned, and what the run trained on, or what the memory wrote.
        name: of what learns; another one draws in another order.
        plan: with the share of old data and the seed.
        size: sequences of a step.
        before: the pair before learning; needed where the memory wrote `old`.

    Attributes:
        num_new, num_old: sequences of each kind.
        before: None where old data is learned as text.
    """

    def __init__(
        self,
        new: Corpus,
        old: Corpus | WrittenCorpus,
        name: str,
        plan: LearnPlan | PortPlan,
        size: int,
        before: Before | None,
    ) -> None:
        self._new = WindowStream(new, f"{name}:{plan.seed}")
        self._old: WindowStream | WrittenStream
        self.before: Before | None = None
        if isinstance(old, WrittenCorpus):
            assert before is not None
            self._old, self.before = old.stream(name, plan.seed), before
        else:
            self._old = WindowStream(old, f"{name}:{plan.seed}:old")
        self.tokenizer = old.tokenizer
        self.num_old = min(size - 1, round(plan.old_frac * size))
        self.num_new = size - self.num_old

    def next(self) -> tuple[Windows, Windows]:
        """This step's, new and old."""
        new, _ = self._new.next_batch(self.num_new)
        old, _ = self._old.next_batch(self.num_old)
        return new, old

    def with_noise(self, batch: Batch, noise: float, generator: torch.Generator) -> Batch:
        """The batch with this share of its tokens replaced, marks left alone."""
        return add_noise(batch, noise, self.tokenizer.size, self.tokenizer.marks, generator)

    def kept(self, batch: Batch, together: bool) -> Kept | None:
        """What the old sequences of a batch, which are its last ones, are kept at; None: they are
        learned as text. `together` as `Before.kept` has it.
        """
        if self.before is None or not self.num_old:
            return None
        old = batch.rows(slice(len(batch.tokens_BT) - self.num_old, None))
        return self.before.kept(old, together)
