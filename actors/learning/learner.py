"""Trains a memory on new text or facts while its data layer stays as it is.

    batch = new text or facts, and a share of old data: of the corpus, or what the memory wrote
    encoder, keys and table by their own optimizers, as the memory group trains them

No exchange and no other process: the data layer never changes. Minimised are the loss of the memory
alone (self) and that of the mixture, through the frozen data layer (assist); without the second the
memory would know what is new and the pair would not say it. So is the data layer's own loss with
the reads as input (reader), of which half are dropped, so that no answer depends on a single one.
On what the memory wrote each of these is the divergence from what was predicted before learning.
Called by `jobs.learn.learn`.

Shapes: B sequences, T tokens, N positions that read, D d_m.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from actors.corpus.corpus import Corpus
from actors.corpus.windows import PADDING, Windows
from actors.layers import losses
from actors.layers.batch import Batch, hidden_at, rows_at, rows_to, to_batch
from actors.layers.mixture import both_at, predict_both
from actors.layers.pair import Pair
from actors.layers.predicted import Predicted
from actors.learning.new_and_old import NewAndOld
from actors.learning.rehearsal import Before, Kept, WrittenCorpus
from actors.machine.seeds import seed_of
from actors.operators.parts import in_parts
from actors.operators.precision import autocast
from actors.settings.learn_plan import LearnPlan
from actors.settings.run import RunSpec
from actors.snapshots.flat_parameters import FROZEN, FlatParameters
from actors.snapshots.sections import section_of
from actors.training.memory_states import given_positions
from actors.training.optim import DenseOptimizer, RowAdam, learning_rate, short_warmup
from actors.training.process_group import ProcessGroup
from actors.wire import DivergedError

GIVEN = 0.3  # weight of given tokens of what is new, where the run learned any
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

    Attributes:
        before: the pair before learning, where old text is what the memory wrote; else None.
    """

    def __init__(
        self, spec: RunSpec, pair: Pair, new: Corpus, old: Corpus | WrittenCorpus, plan: LearnPlan
    ) -> None:
        self._spec, self._plan, self._pair = spec, plan, pair
        self._device = pair.memory.values.device
        self.before = Before(pair) if isinstance(old, WrittenCorpus) else None
        self._data = NewAndOld(new, old, "learn", plan, spec.memory.batch_size, self.before)
        self._optimizer = spec.memory.optimizer.model_copy(
            update={"warmup_steps": short_warmup(spec.memory.optimizer, plan.steps)}
        )
        self._start_values = pair.memory.values.detach().clone()
        self.step = 0
        self.learned = Learned()
        pair.data.requires_grad_(False)
        for name, parameter in pair.memory.named_parameters():
            parameter.requires_grad_(section_of(name, parameter) != FROZEN)
        self._dense = DenseOptimizer(FlatParameters(pair.memory, section_of), self._optimizer)
        self._rows = RowAdam(pair.memory.values, self._optimizer.betas, spec.memory.value_clip)

    @property
    def rows_changed(self) -> int:
        """Number of rows of the value table that have changed."""
        return int((self._pair.memory.values.detach() != self._start_values).any(1).sum())

    def _autocast(self) -> torch.autocast:
        return autocast(self._spec.memory.precision, self._device)

    def _reading(self, batch: Batch) -> npt.NDArray[np.bool_]:
        """Where the memory is read, (B, T): in all of the text where the data layer reads too."""
        host = batch.host
        return host.segments_BT != PADDING if self._plan.assist > 0 else host.valid_BT

    def _choices(self, what: str) -> torch.Generator:
        return torch.Generator().manual_seed(seed_of(self._plan.seed, what, self.step))

    def _next_batch(self) -> Batch:
        new, old = self._data.next()
        self.learned.new_tokens += new.num_tokens
        self.learned.old_tokens += old.num_tokens
        batch = to_batch(Windows.concat([new, old]), torch.device("cpu"))
        noise = self._spec.corpus.token_noise
        return self._data.with_noise(batch, noise, self._choices("learn")).to(self._device)

    def train_step(self) -> float:
        """One step on the next batch; returns the loss before it, in nats per token.

        Raises:
            DivergedError: the loss is NaN or infinite.
        """
        batch, plan = self._next_batch(), self._plan
        rate = learning_rate(plan.lr, self._optimizer, self.step, plan.steps)
        loss = self._train_all(batch, rate)
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
            kept = self._data.kept(batch, together=self._plan.assist > 0)
            loss = self._loss(batch, read.y, kept)
            whole = loss
            if read.side_scores is not None:
                whole = loss + self._spec.losses.balance * losses.balance(read.side_scores)
            if self._spec.losses.encoder > 0 and u_BTD.requires_grad:
                guess = self._guess(batch, rows_at(u_BTD, batch.valid_at_N), kept)
                whole = whole + guess
            whole = whole + self._given(batch, u_BTD)
        whole.backward()
        self._dense.step(rate * run.optimizer.lr / run.value_lr)
        self._rows.step(rate, ProcessGroup())
        return float(loss.detach())

    def _given(self, batch: Batch, u_BTD: Tensor) -> Tensor:
        """The loss of given tokens of what is new, so that the memory can write that too; 0 where
        there are none.
        """
        is_any_B = np.ones(len(batch.tokens_BT), np.bool_)
        given_BT = given_positions(batch, is_any_B, self._data.num_new)
        if self._spec.losses.given == 0 or not (num := int(given_BT.sum())):
            return torch.zeros((), device=self._device)
        memory, encoder = self._pair.memory, self._spec.losses.encoder
        at_G = batch.places(given_BT)
        targets_G, u_GD = rows_at(batch.targets_BT, at_G), rows_at(u_BTD, at_G)
        size = num if self._at_once(batch) else self._pair.data.positions_at_once

        def loss_of(predict: Callable[..., Tensor], weight: float) -> Callable[..., Tensor]:
            def part(some: slice, x_GD: Tensor) -> Tensor:
                logits_GV = predict(x_GD[some], into_grad=True)
                return weight * Predicted(logits_GV, targets_G[some]).nll_N.sum() / num

            return part

        whole = in_parts(num, size, loss_of(memory.predict, GIVEN), memory.read_at(u_GD).y)
        if encoder > 0 and u_GD.requires_grad:
            whole = whole + in_parts(num, size, loss_of(memory.guess, GIVEN * encoder), u_GD)
        return whole

    def _loss(self, batch: Batch, y_MD: Tensor, kept: Kept | None) -> Tensor:
        """Self, and at their weights assist and reader.

        Args:
            batch: new text and old data.
            y_MD: what was read at the M positions of `_reading`.
            kept: what the old sequences are kept at.
        """
        memory, targets_N, reading_BT = self._pair.memory, batch.targets_N, self._reading(batch)
        y_ND = y_MD.index_select(0, batch.places(batch.host.valid_BT[reading_BT]))
        y_BTD = rows_to(y_MD, batch.places(reading_BT), batch.tokens_BT.shape)
        scale_BT = self._read_scale(batch) if self._plan.assist else None
        if kept is not None or not self._at_once(batch):
            return self._loss_in_parts(batch, y_ND, y_BTD, scale_BT, kept)
        alone = losses.self_(memory.predict(y_ND), targets_N)
        if not self._plan.assist:
            return alone
        _, both = predict_both(self._pair.data, memory, batch, y_BTD, batch.valid_at_N, scale_BT)
        through = losses.help_(both.mixed().logp, targets_N)
        through = through + self._spec.losses.reader * losses.own(both.logits, targets_N)
        return alone + self._plan.assist * through

    def _at_once(self, batch: Batch) -> bool:
        """Whether all logits of the batch are made at once."""
        return batch.tokens_BT.numel() <= self._pair.data.positions_at_once

    def _loss_in_parts(
        self,
        batch: Batch,
        y_ND: Tensor,
        y_BTD: Tensor,
        scale_BT: Tensor | None,
        kept: Kept | None,
    ) -> Tensor:
        """As `_loss`, so many positions at a time."""
        data, memory, targets_N = self._pair.data, self._pair.memory, batch.targets_N
        num, assist = len(targets_N), self._plan.assist
        num_new, size = num - (0 if kept is None else len(kept)), data.positions_at_once
        reader = self._spec.losses.reader
        if not assist:

            def alone(some: slice, y_ND: Tensor) -> Tensor:
                logits_NV = memory.predict(y_ND[some], into_grad=True)
                return Predicted(logits_NV, targets_N[some]).nll_N.sum() / num

            def stay(some: slice, y_ND: Tensor) -> Tensor:
                assert kept is not None
                return kept.alone(memory, y_ND[num_new:], some).sum() / num

            total = in_parts(num_new, size, alone, y_ND)
            return total if kept is None else total + in_parts(len(kept), size, stay, y_ND)

        input_BTD = y_BTD if scale_BT is None else y_BTD * scale_BT.unsqueeze(-1)

        def through(some: slice, y_ND: Tensor, hidden_NH: Tensor) -> Tensor:
            given = hidden_NH[some], y_ND[some], targets_N[some]
            both = both_at(data, memory, *given, in_parts=True)
            of_both = reader * both.data.nll_N - both.mixture.logp
            return (both.memory.nll_N + assist * of_both).sum() / num

        def stay_together(some: slice, y_ND: Tensor, hidden_NH: Tensor) -> Tensor:
            assert kept is not None
            y_KD, hidden_KH = y_ND[num_new:], hidden_NH[num_new:]
            mixed_P, reading_P = kept.together(data, memory, y_KD, hidden_KH, some)
            of_both = mixed_P + reader * reading_P
            return (kept.alone(memory, y_KD, some) + assist * of_both).sum() / num

        made = y_ND, hidden_at(data, batch, input_BTD)
        total = in_parts(num_new, size, through, *made)
        return total if kept is None else total + in_parts(len(kept), size, stay_together, *made)

    def _guess(self, batch: Batch, u_ND: Tensor, kept: Kept | None) -> Tensor:
        """Self of what the encoder predicts without slots, at its weight."""
        memory, targets_N, weight = self._pair.memory, batch.targets_N, self._spec.losses.encoder
        num, size = len(targets_N), self._pair.data.positions_at_once
        if kept is None and self._at_once(batch):
            return weight * losses.self_(memory.guess(u_ND), targets_N)

        def part(some: slice, u_ND: Tensor) -> Tensor:
            logits_NV = memory.guess(u_ND[some], into_grad=True)
            return weight * Predicted(logits_NV, targets_N[some]).nll_N.sum() / num

        if kept is None:
            return in_parts(num, size, part, u_ND)
        num_new = num - len(kept)

        def stay(some: slice, u_ND: Tensor) -> Tensor:
            return weight * kept.encoder(memory, u_ND[num_new:], some).sum() / num

        return in_parts(num_new, size, part, u_ND) + in_parts(len(kept), size, stay, u_ND)

    def _read_scale(self, batch: Batch) -> Tensor:
        """Factor of each read on its way into the data layer, (B, T): 0 where it is dropped, and
        elsewhere what makes up for that.
        """
        chosen = self._choices("heard")  # a seed: another word would be another draw
        kept_BT = torch.rand(batch.tokens_BT.shape, generator=chosen) >= READ_DROPOUT
        return kept_BT.to(self._device) / (1 - READ_DROPOUT)
