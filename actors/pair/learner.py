"""Trains a memory on new text or facts while its data layer stays as it is.

    batch = new text or facts, and a share of old data: of the corpus, or what the memory wrote
    every weight:  encoder, keys and table by their own optimizers, as the memory group trains them
    rows:          `MemoryLayer.write`, on the rows of the value table that old data reads least

No exchange and no other process: the data layer never changes. Minimised are the loss of the memory
alone (self) and that of the mixture, through the frozen data layer (assist); without the second the
memory would know what is new and the pair would not say it. Where every weight is trained, so is
the data layer's own loss with the reads as input (reader), of which half are dropped, so that no
answer depends on a single one. Where the old data is what the memory wrote, each of these is there
the divergence from what was predicted before learning. Called by `jobs.learn.learn`.

Shapes: B sequences, T tokens, N positions that read, D d_m.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from actors.corpus.corpus import PADDING, Corpus, Windows, WindowStream
from actors.layers import losses
from actors.layers.batch import Batch, add_noise, rows_at, rows_to, to_batch
from actors.layers.mixture import predict_both
from actors.layers.pair import Pair
from actors.layers.precision import autocast
from actors.layers.sparse_write import Background
from actors.machine.seeds import seed_of
from actors.pair.rehearsal import Before, Kept, WrittenCorpus, WrittenStream
from actors.settings.learn_plan import LearnPlan
from actors.settings.run import RunSpec
from actors.snapshots.flat_parameters import FROZEN, FlatParameters
from actors.snapshots.sections import section_of
from actors.training.optim import DenseOptimizer, RowAdam, learning_rate, short_warmup
from actors.training.process_group import ProcessGroup
from actors.wire import DivergedError

READ_DROPOUT = 0.5  # share of positions whose read is dropped before the data layer


@dataclass
class Learned:
    """Tokens trained on so far, of both kinds, and the loss of each step in nats per token."""

    new_tokens: int = 0
    old_tokens: int = 0
    losses: list[float] = field(default_factory=list)


class Learner:
    """Trains the memory of a pair on a new corpus, in place.

    Args:
        spec: of the run that the pair is from: batch size, optimizer, precision, token noise.
        pair: both layers; the data layer is frozen.
        new, old: what is to be learned, and what the run trained on, or what the memory wrote.
        plan: how much, and how.
    """

    def __init__(
        self, spec: RunSpec, pair: Pair, new: Corpus, old: Corpus | WrittenCorpus, plan: LearnPlan
    ) -> None:
        self._spec, self._plan, self._pair = spec, plan, pair
        self._device = pair.memory.values.device
        self._new = WindowStream(new, f"learn:{plan.seed}")
        self._old: WindowStream | WrittenStream
        self._before: Before | None = None
        if isinstance(old, WrittenCorpus):
            self._old, self._before = old.stream("learn", plan.seed), Before(pair)
        else:
            self._old = WindowStream(old, f"learn:{plan.seed}:old")
        self._tokenizer = old.tokenizer
        size = spec.memory.batch_size
        self._num_old = min(size - 1, round(plan.old_frac * size))
        self._optimizer = spec.memory.optimizer.model_copy(
            update={"warmup_steps": short_warmup(spec.memory.optimizer, plan.steps)}
        )
        self._start_values = pair.memory.values.detach().clone()
        self.step = 0
        self.learned = Learned()
        self._kept_of: tuple[Batch, Kept] | None = None
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
        """Number of rows of the value table that have changed."""
        return int((self._pair.memory.values.detach() != self._start_values).any(1).sum())

    @torch.no_grad()
    def _old_reads(self) -> Iterator[Tensor]:
        """Slots read by batches of old data, at the same kinds of positions as in training."""
        for _ in range(self._plan.background_batches):
            batch = to_batch(self._old.next_batch(self._spec.memory.batch_size)[0], self._device)
            with self._autocast():
                u_BTD, _ = self._pair.memory.encode(batch.tokens_BT, batch.segments_BT)
                u_MD = rows_at(u_BTD, batch.places(self._reading(batch)))
                yield self._pair.memory.read_at(u_MD).slots

    def _autocast(self) -> torch.autocast:
        return autocast(self._spec.memory.precision, self._device)

    def _reading(self, batch: Batch) -> npt.NDArray[np.bool_]:
        """Where the memory is read, (B, T): in all of the text where the data layer reads too."""
        host = batch.host
        return host.segments_BT != PADDING if self._plan.assist > 0 else host.valid_BT

    def _choices(self, what: str) -> torch.Generator:
        return torch.Generator().manual_seed(seed_of(self._plan.seed, what, self.step))

    def _next_batch(self) -> Batch:
        num_new = self._spec.memory.batch_size - self._num_old
        new, _ = self._new.next_batch(num_new)
        old, _ = self._old.next_batch(self._num_old)
        self.learned.new_tokens += new.num_tokens
        self.learned.old_tokens += old.num_tokens
        return add_noise(
            to_batch(Windows.concat([new, old]), torch.device("cpu")),
            self._spec.corpus.token_noise,
            self._tokenizer.size,
            self._tokenizer.marks,
            self._choices("learn"),
        ).to(self._device)

    def train_step(self) -> float:
        """One step on the next batch; returns the loss before it, in nats per token.

        Raises:
            DivergedError: the loss is NaN or infinite.
        """
        batch, plan = self._next_batch(), self._plan
        rate = learning_rate(plan.lr, self._optimizer, self.step, plan.steps)
        if plan.rows is None:
            loss = self._train_all(batch, rate)
        else:
            with self._autocast():
                loss = self._pair.memory.write(
                    batch.tokens_BT,
                    batch.segments_BT,
                    torch.from_numpy(self._reading(batch)).to(self._device),
                    lambda y_MD: self._loss(batch, y_MD),
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
        self.learned.losses.append(loss)
        return loss

    def _train_all(self, batch: Batch, rate: float) -> float:
        memory, run = self._pair.memory, self._spec.memory
        self._dense.zero_grad()
        with self._autocast():
            u_BTD, _ = memory.encode(batch.tokens_BT, batch.segments_BT)
            read = memory.read_at(rows_at(u_BTD, batch.places(self._reading(batch))))
            loss = self._loss(batch, read.y)
            whole = loss + self._spec.losses.balance * losses.balance(read.side_scores)
            if self._spec.losses.encoder > 0 and u_BTD.requires_grad:
                guess_NV = memory.guess(rows_at(u_BTD, batch.valid_at_N))
                kept = self._kept(batch)
                guess = _loss_of(guess_NV, batch.targets_N, None if kept is None else kept.encoder)
                whole = whole + self._spec.losses.encoder * guess
        whole.backward()
        self._dense.step(rate * run.optimizer.lr / run.value_lr)
        self._rows.step(rate, ProcessGroup())
        return float(loss.detach())

    def _loss(self, batch: Batch, y_MD: Tensor) -> Tensor:
        """Self, and at their weights assist and, where every weight is trained, reader.

        Args:
            batch: new text and old data.
            y_MD: what was read at the M positions of `_reading`.
        """
        memory, targets_N, reading_BT = self._pair.memory, batch.targets_N, self._reading(batch)
        y_ND = y_MD.index_select(0, batch.places(batch.host.valid_BT[reading_BT]))
        kept = self._kept(batch)
        alone = _loss_of(memory.predict(y_ND), targets_N, None if kept is None else kept.alone)
        if not self._plan.assist:
            return alone
        y_BTD = rows_to(y_MD, batch.places(reading_BT), batch.tokens_BT.shape)
        every_weight = self._plan.rows is None
        scale_BT = self._read_scale(batch) if every_weight else None
        _, both = predict_both(self._pair.data, memory, batch, y_BTD, batch.valid_at_N, scale_BT)
        through = _loss_of(
            both.mixed().logp, targets_N, None if kept is None else kept.mixed, is_logp=True
        )
        if every_weight:
            reader = _loss_of(both.logits, targets_N, None if kept is None else kept.reading)
            through = through + self._spec.losses.reader * reader
        return alone + self._plan.assist * through

    def _kept(self, batch: Batch) -> Kept | None:
        """What the old sequences of a batch are kept at; None: learned as text.

        Computed once for a batch: three losses ask for it.
        """
        if self._before is None or not self._num_old:
            return None
        if self._kept_of is None or self._kept_of[0] is not batch:
            num_new = len(batch.tokens_BT) - self._num_old
            old = batch.rows(slice(num_new, None))
            self._kept_of = batch, self._before.kept(old, together=self._plan.assist > 0)
        return self._kept_of[1]

    def _read_scale(self, batch: Batch) -> Tensor:
        """Factor of each read on its way into the data layer, (B, T): 0 where it is dropped, and
        elsewhere what makes up for that.
        """
        chosen = self._choices("heard")  # a seed: another word would be another draw
        kept_BT = torch.rand(batch.tokens_BT.shape, generator=chosen) >= READ_DROPOUT
        return kept_BT.to(self._device) / (1 - READ_DROPOUT)


def _loss_of(
    predicted_NV: Tensor, targets_N: Tensor, kept_KV: Tensor | None, is_logp: bool = False
) -> Tensor:
    """Mean over all positions: loss of the text, and at the last K the divergence from `kept_KV`.

    Args:
        predicted_NV: logits, or log probabilities with `is_logp`.
        targets_N: the text's next tokens.
        kept_KV: log probabilities before learning; None: all is text.
    """
    text = losses.help_ if is_logp else losses.self_
    if kept_KV is None:
        return text(predicted_NV, targets_N)
    num_new, num = len(predicted_NV) - len(kept_KV), len(predicted_NV)
    logp_KV = predicted_NV[num_new:]
    kept = losses.kl(kept_KV, logp_KV if is_logp else losses.log_probabilities(logp_KV)).sum()
    if not num_new:
        return kept / num
    new = text(predicted_NV[:num_new], targets_N[:num_new]) * num_new
    return (new + kept) / num
