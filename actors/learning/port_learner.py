"""Trains the memory port of a data layer whose memory has learned something new; the model itself
keeps every bit.

    batch = new text or facts, and a share of old data; all sequences read
    besides: noised sequences, of which λ learns, and general text, as the data group has them

The memory stays as it is. Minimised are help and reader on the batch; on what the memory wrote, the
divergences from what was predicted before learning. Called by `jobs.learn`, after `learner`.

Shapes: B sequences, T tokens, N positions that have something to predict, K of them kept, D d_m, H
the data layer's width.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from actors.corpus.corpus import Corpus, WindowStream
from actors.corpus.general_text import short_general_corpus
from actors.corpus.windows import Windows
from actors.layers.batch import Batch, StatesAlone, hidden_at, rows_at, to_batch
from actors.layers.mixture import (
    NoisedStates,
    both_at,
    general_loss,
    noised_sequences,
    takes_noised,
)
from actors.layers.pair import Pair
from actors.learning.new_and_old import NewAndOld
from actors.learning.rehearsal import Before, WrittenCorpus
from actors.machine.seeds import seed_of
from actors.operators.parts import in_parts
from actors.operators.precision import autocast
from actors.settings.learn_plan import PortPlan
from actors.settings.run import RunSpec
from actors.snapshots.flat_parameters import FROZEN, FlatParameters
from actors.snapshots.sections import section_of
from actors.training.data_trainer import in_port
from actors.training.optim import DenseOptimizer, learning_rate, short_warmup
from actors.wire import DivergedError


class PortLearner:
    """Trains the port of a pair, in place.

    Args:
        spec: of the run that the pair is from: batch size, optimizer, precision, losses, noise.
        pair: both layers, the memory with what it has learned.
        new, old: what it has learned, and what the run trained on, or what the memory wrote.
        plan: how much, and how.
        before: the pair before its memory learned; needed where the memory wrote `old`.
    """

    def __init__(
        self,
        spec: RunSpec,
        pair: Pair,
        new: Corpus,
        old: Corpus | WrittenCorpus,
        plan: PortPlan,
        before: Before | None,
    ) -> None:
        self._spec, self._plan, self._pair = spec, plan, pair
        self._device = pair.memory.values.device
        self._data = NewAndOld(new, old, "port", plan, spec.data.batch_size, before)
        self._general: WindowStream | None = None
        if spec.data.num_general:
            name = f"port:{plan.seed}:general"
            self._general = WindowStream(short_general_corpus(spec, self._data.tokenizer), name)
        self._alone = StatesAlone()  # of general text
        self._noised: NoisedStates | None = None  # of the last noised text
        self._optimizer = spec.data.optimizer.model_copy(
            update={"warmup_steps": short_warmup(spec.data.optimizer, plan.steps)}
        )
        self._help = spec.losses.help or 1.0  # a run without help left the port as it was
        self.step = 0
        pair.memory.requires_grad_(False)
        for name, parameter in pair.data.named_parameters():
            parameter.requires_grad_(in_port(name))

        def section(name: str, parameter: Tensor) -> str:
            return section_of(name, parameter) if in_port(name) else FROZEN

        self._dense = DenseOptimizer(FlatParameters(pair.data, section), self._optimizer)

    def train_step(self) -> float:
        """One step on the next batch; returns the loss of the batch before it, in nats per token.

        Raises:
            DivergedError: the loss is NaN or infinite.
        """
        plan = self._plan
        batch, noised = self._next_batch()
        self._dense.zero_grad()
        with self._autocast():
            loss = self._batch_loss(batch)
        loss.backward()
        if self._takes_noised:
            self._noised = self._states_of(noised)
        if self._noised is not None:
            (self._help * self._noised.loss(self._pair.data.port)).backward()
        self._learn_general()
        found = float(loss.detach())
        if not found < float("inf"):
            raise DivergedError(
                f"the port's loss is {found} at step {self.step + 1} of {plan.steps}; its learning "
                f"rate is {plan.lr:g} (data.port_lr of the run): --no-port leaves it as it was"
            )
        self._dense.step(learning_rate(plan.lr, self._optimizer, self.step, plan.steps))
        self.step += 1
        return found

    def finish(self) -> None:
        """Nothing trains any more."""
        self._pair.data.requires_grad_(False)

    def _autocast(self) -> torch.autocast:
        return autocast(self._spec.data.precision, self._device)

    @property
    def _takes_noised(self) -> bool:
        """Whether λ gets new noised text in this step; else it goes on with the last."""
        return takes_noised(self.step)

    def _next_batch(self) -> tuple[Batch, Batch]:
        """The batch, and the noised sequences of it where the step takes some; old text is last,
        or where it is the run's own, every other one as long as there is some.
        """
        size, data = self._spec.data.batch_size, self._spec.data
        new, old = self._data.next()
        windows = Windows.concat([new, old])
        num_mixing = size
        if data.layer.keeps_model:
            num_mixing = max(1, round(size * data.help_frac))
        if self._data.before is not None:  # λ learns nothing from drawn tokens
            num_mixing = min(num_mixing, 2 * len(new))
        else:
            windows = windows[_alternating(len(new), len(old))]
        batch = to_batch(windows, torch.device("cpu"))
        num = num_mixing if self._takes_noised else 0
        noised = noised_sequences(self._spec, self._data.tokenizer, batch, num, self.step)
        generator = torch.Generator().manual_seed(seed_of(self._plan.seed, "port", self.step))
        batch = self._data.with_noise(batch, self._spec.corpus.token_noise, generator)
        return batch.to(self._device), noised.to(self._device)

    @torch.no_grad()
    def _read(self, batch: Batch) -> Tensor:
        """What the memory reads in all of the batch."""
        return self._pair.memory.read(batch.tokens_BT, batch.segments_BT, batch.one_document).y

    def _states_of(self, noised: Batch) -> NoisedStates | None:
        """What λ learns from these sequences; None: there is nothing to predict."""
        if not noised.num_valid:
            return None
        with self._autocast():
            return NoisedStates.of(self._pair.data, self._pair.memory, noised, self._read(noised))

    def _batch_loss(self, batch: Batch) -> Tensor:
        """Help and reader at their weights, so many positions at a time."""
        data, memory, targets_N = self._pair.data, self._pair.memory, batch.targets_N
        help_, reader = self._help, self._spec.losses.reader
        kept = self._data.kept(batch, together=True)
        num, size = len(targets_N), data.positions_at_once
        num_new = num - (0 if kept is None else len(kept))
        fixed = self._spec.data.mixing_noise > 0
        y_BTD = self._read(batch)
        y_ND, hidden_NH = rows_at(y_BTD, batch.valid_at_N), hidden_at(data, batch, y_BTD)

        def text(some: slice, hidden_NH: Tensor) -> Tensor:
            given = hidden_NH[some], y_ND[some], targets_N[some]
            both = both_at(data, memory, *given, in_parts=True, fixed=fixed)
            return (reader * both.data.nll_N - help_ * both.mixture.logp).sum() / num

        def stay(some: slice, hidden_NH: Tensor) -> Tensor:
            assert kept is not None
            y_KD, hidden_KH = y_ND[num_new:], hidden_NH[num_new:]
            mixed_P, reading_P = kept.together(data, memory, y_KD, hidden_KH, some)
            return (help_ * mixed_P + reader * reading_P).sum() / num

        total = in_parts(num_new, size, text, hidden_NH)
        return total if kept is None else total + in_parts(len(kept), size, stay, hidden_NH)

    def _learn_general(self) -> None:
        """Gradient of this step's general text; none where the run has none."""
        if self._general is None:
            return
        windows, _ = self._general.next_batch(self._spec.data.num_general)
        part = to_batch(windows, torch.device("cpu"))
        if not part.num_valid:
            return
        data, memory = self._pair.data, self._pair.memory
        with self._autocast():
            alone = self._alone(data, part)
            loss = general_loss(data, memory, part.to(self._device), alone)
        (self._spec.losses.general * loss).backward()


def _alternating(num_new: int, num_old: int) -> npt.NDArray[np.int64]:
    """Order of so many new sequences, then so many old ones, such that any leading part of it has
    its share of both.
    """
    places = [(np.arange(num) + 0.5) / max(1, num) for num in (num_new, num_old)]
    return np.argsort(np.concatenate(places), kind="stable")
