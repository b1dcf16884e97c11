"""A trained memory takes in something new while its data layer stays as it is.

    batch = new text or facts, old data at its share
    every weight:  encoder, keys and table by their own optimizers, as the memory group trains them
    rows:          `MemoryLayer.write`, the rows of the value table that old data reads least

No exchange and no other process: the data layer never changes. What is minimised is what the memory
says alone (self) and what both say together, through the frozen data layer (assist); without the
second the new would be known and never said. Where every weight is trained, so is what the data
layer says by itself where it reads (reader), and it hears half of the reads meanwhile, so that no
answer hangs on one of them. Called by `jobs.learn.learn`.

Shapes: B sequences, T tokens, N positions that read, D d_m.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from actors.corpus.corpus import PADDING, Corpus, Windows, WindowStream
from actors.layers import losses
from actors.layers.batch import Batch, add_noise, both_voices, to_batch
from actors.layers.pair import Pair
from actors.layers.precision import autocast
from actors.layers.sparse_write import Background
from actors.machine.seeds import seed_of
from actors.settings.learn_plan import LearnPlan
from actors.settings.run import RunSpec
from actors.snapshots.flat import FROZEN, FlatParameters
from actors.snapshots.sections import section_of
from actors.training.optim import DenseOptimizer, RowAdam, learning_rate, short_warmup
from actors.training.process_group import ProcessGroup
from actors.wire import DivergedError

READ_DROPOUT = 0.5  # share of positions whose read the data layer does not hear meanwhile


@dataclass
class Taken:
    """What was taken in so far: tokens of both kinds, and which rows were written (R,) bool."""

    new_tokens: int = 0
    old_tokens: int = 0
    losses: list[float] = field(default_factory=list)


class Learner:
    """Trains the memory of a pair on a new corpus, in place.

    Args:
        spec: of the run that the pair is from: batch size, optimizer, precision, token noise.
        pair: both layers; the data layer is frozen.
        new, old: what is taken in, and what the run trained on.
        plan: how much, and how.
    """

    def __init__(
        self, spec: RunSpec, pair: Pair, new: Corpus, old: Corpus, plan: LearnPlan
    ) -> None:
        self._spec, self._plan, self._pair = spec, plan, pair
        self._device = pair.memory.values.device
        self._new = WindowStream(new, f"learn:{plan.seed}")
        self._old = WindowStream(old, f"learn:{plan.seed}:old")
        self._tokenizer = old.tokenizer
        size = spec.memory.batch_size
        self._num_old = min(size - 1, round(plan.old_frac * size))
        self._optimizer = spec.memory.optimizer.model_copy(
            update={"warmup_steps": short_warmup(spec.memory.optimizer, plan.steps)}
        )
        self._start_values = pair.memory.values.detach().clone()
        self.step = 0
        self.taken = Taken()
        pair.data.requires_grad_(False)
        if plan.rows is None:
            for name, parameter in pair.memory.named_parameters():
                parameter.requires_grad_(section_of(name, parameter) != FROZEN)
            self._dense = DenseOptimizer(FlatParameters(pair.memory, section_of), self._optimizer)
            self._rows = RowAdam(pair.memory.values, self._optimizer.betas, spec.memory.value_clip)
        else:
            pair.memory.requires_grad_(False)
            self._background = Background.of(self._old_reads(), pair.memory.spec.num_slots)

    @property
    def rows_changed(self) -> int:
        """Rows of the value table that are no longer what they were."""
        return int((self._pair.memory.values.detach() != self._start_values).any(1).sum())

    @torch.no_grad()
    def _old_reads(self) -> Iterator[Tensor]:
        """Slots that batches of old data read, at the positions at which writes read."""
        for _ in range(self._plan.background_batches):
            batch = to_batch(self._old.next_batch(self._spec.memory.batch_size)[0], self._device)
            with self._autocast():
                u_BTD, _ = self._pair.memory.encode(batch.tokens_BT, batch.segments_BT)
                yield self._pair.memory.read_at(u_BTD[self._reading(batch)]).slots

    def _autocast(self) -> torch.autocast:
        return autocast(self._spec.memory.precision, self._device)

    def _reading(self, batch: Batch) -> Tensor:
        """Where the memory is read: all of the text where the data layer hears it too."""
        return batch.segments_BT != PADDING if self._plan.assist > 0 else batch.valid_BT

    def _choices(self, what: str) -> torch.Generator:
        return torch.Generator().manual_seed(seed_of(self._plan.seed, what, self.step))

    def _next_batch(self) -> Batch:
        num_new = self._spec.memory.batch_size - self._num_old
        new, _ = self._new.next_batch(num_new)
        old, _ = self._old.next_batch(self._num_old)
        self.taken.new_tokens += new.num_tokens
        self.taken.old_tokens += old.num_tokens
        return add_noise(
            to_batch(Windows.concat([new, old]), torch.device("cpu")),
            self._spec.corpus.token_noise,
            self._tokenizer.size,
            self._tokenizer.marks,
            self._choices("learn"),
        ).to(self._device)

    def train_step(self) -> float:
        """One step on the next batch; the loss before it, in nats per token.

        Raises:
            DivergedError: the loss is no number.
        """
        batch, plan = self._next_batch(), self._plan
        rate = learning_rate(plan.lr, self._optimizer, self.step, plan.steps)
        where_BT = self._reading(batch)
        if plan.rows is None:
            loss = self._train_all(batch, where_BT, rate)
        else:
            with self._autocast():
                loss = self._pair.memory.write(
                    batch.tokens_BT,
                    batch.segments_BT,
                    where_BT,
                    lambda y_ND: self._loss(batch, where_BT, y_ND),
                    self._background,
                    rate,
                    plan.rows,
                ).loss
        if not loss < float("inf"):
            raise DivergedError(
                f"the loss is {loss} at step {self.step + 1} of {plan.steps}; lower the learning "
                f"rate, which is {plan.lr:g}"
            )
        self.step += 1
        self.taken.losses.append(loss)
        return loss

    def _train_all(self, batch: Batch, where_BT: Tensor, rate: float) -> float:
        memory, run = self._pair.memory, self._spec.memory
        self._dense.zero_grad()
        with self._autocast():
            u_BTD, _ = memory.encode(batch.tokens_BT, batch.segments_BT)
            read = memory.read_at(u_BTD[where_BT])
            loss = self._loss(batch, where_BT, read.y)
            whole = loss + self._spec.losses.balance * losses.balance(read.side_scores)
            if self._spec.losses.encoder > 0 and u_BTD.requires_grad:
                guess = losses.self_(memory.guess(u_BTD[batch.valid_BT]), batch.targets_N)
                whole = whole + self._spec.losses.encoder * guess
        whole.backward()
        self._dense.step(rate * run.optimizer.lr / run.value_lr)
        self._rows.step(rate, ProcessGroup())
        return float(loss.detach())

    def _loss(self, batch: Batch, where_BT: Tensor, y_ND: Tensor) -> Tensor:
        """Self, and at their weight assist and, where every weight is trained, reader."""
        memory, targets_N = self._pair.memory, batch.targets_N
        alone = losses.self_(memory.predict(y_ND[batch.valid_BT[where_BT]]), targets_N)
        if not self._plan.assist:
            return alone
        y_BTD = y_ND.new_zeros(*where_BT.shape, y_ND.shape[-1])
        y_BTD[where_BT] = y_ND
        every_weight = self._plan.rows is None
        scale_BT = self._heard(where_BT) if every_weight else None
        mixed = both_voices(self._pair.data, memory, batch, y_BTD, batch.valid_BT, scale_BT).mixed()
        through = losses.assist(mixed.log_mixed_NV, targets_N)
        if every_weight:
            reader = losses.own(mixed.data.logits_BTV[batch.valid_BT], targets_N)
            through = through + self._spec.losses.reader * reader
        return alone + self._plan.assist * through

    def _heard(self, where_BT: Tensor) -> Tensor:
        """Scale of what the data layer hears of each read, (B, T): 0, or what makes up for it."""
        heard_BT = torch.rand(where_BT.shape, generator=self._choices("heard")) >= READ_DROPOUT
        return heard_BT.to(where_BT.device) / (1 - READ_DROPOUT)
