"""Trains the data layer.

    batch = sequences that read the memory + sequences that don't     (one forward pass)
    loss  = help and reader of the first + own of the second

The memory's mirror is frozen. lambda, the weight of the memory in the mixture, is trained in a
separate pass on noised text (`layers.mixture`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from actors.corpus.corpus import Corpus, WindowStream
from actors.corpus.general_text import short_general_corpus
from actors.layers import losses
from actors.layers.batch import Batch, StatesAlone, hidden_at, rows_at, to_batch
from actors.layers.mixture import (
    NoisedStates,
    general_loss,
    mixed_at,
    noised_sequences,
    takes_noised,
)
from actors.layers.predicted import Predicted
from actors.operators.parts import Cut, leading, parts_of
from actors.settings.layers import PORT_PREFIX
from actors.settings.run import DATA, RunSpec
from actors.training.execution import prepare_training
from actors.training.interval import Measured, within
from actors.training.lesson_passes import TaughtPass, lesson_batch
from actors.training.memory_states import Measures
from actors.training.optim import DenseOptimizer, learning_rate
from actors.training.passes import DataPass
from actors.training.terms import DataTerms, GeneralTerms, MixingTerms, Term
from actors.training.trainer import Trainer
from actors.weights.builders import build_data_layer, build_memory_layer
from actors.weights.starting_model import StartingModel
from actors.weights.trained_part import adapters_off
from actors.wire import Order, UnwiredMemoryError

GENERAL = "general"  # stream of general text


def in_port(name: str) -> bool:
    """Whether the data layer's parameter of that name is in its memory port."""
    return name.startswith(PORT_PREFIX)


class DataTrainer(Trainer):
    """One rank of the data group.

    Args:
        begin: called with what the construction does from now on.
        starting: the process' own, where it holds more than this trainer.
    """

    def __init__(
        self,
        spec: RunSpec,
        tokenizer_json: str,
        run: str,
        rank: int = 0,
        num_ranks: int = 1,
        incarnation: int = 0,
        begin: Callable[[str], None] = lambda phase: None,
        starting: StartingModel | None = None,
    ) -> None:
        begin("taking its device and reading the corpus")
        super().__init__(spec, tokenizer_json, run, DATA, rank, num_ranks, incarnation, starting)
        begin("building its layers")
        self.layer = build_data_layer(spec, self.tokenizer, self.device, self.starting)
        self.memory = build_memory_layer(spec, self.tokenizer, self.layer.vocab_rows, self.device)
        self._flatten(self.layer, self.memory, self.layer.base)
        self.own_port_lr = spec.data.own_port_lr
        apart = None if self.own_port_lr is None else in_port
        self.dense = DenseOptimizer(self.own, spec.data.optimizer, apart)
        self._measures_own, self._begun = False, 0
        self._noised: list[tuple[NoisedStates, float]] = []  # of a rank's passes, and their shares
        without = adapters_off if self.layer.spec.has_adapters else None
        self.alone = StatesAlone(without=without)  # of general text, by the model that came in
        self.open_streams()
        self.check_wired()
        prepare_training(self.layer)
        self.build_more(begin)

    def open_streams(self) -> None:
        """As `Trainer.open_streams`."""
        self.stream = WindowStream(self.corpus, DATA)
        self.general: WindowStream | None = None
        if self.spec.data.num_general:
            self.general = WindowStream(self.general_text(), GENERAL)

    def general_text(self) -> Corpus:
        """The general text, in windows as a step shows them."""
        return short_general_corpus(self.spec, self.tokenizer)

    @property
    def num_reading(self) -> int:
        """Sequences at the front of the global batch that read the memory."""
        return self.spec.num_reading

    @property
    def num_mixing(self) -> int:
        """Sequences of which lambda learns on the first half: those that read, or as many as would
        beside a model that trains.
        """
        if self.layer.spec.keeps_model:
            return min(self.num_reading, self.spec.data.num_helped)
        return self.num_reading

    def begin_interval(self, order: Order) -> None:
        """Where the model keeps its bits no sequence trains it alone, so that own is only measured,
        at the interval's first step.
        """
        self._measures_own = self.layer.spec.keeps_model
        self._begun = self.step  # no checkpoint has what is kept of noised text

    @torch.no_grad()
    def check_wired(self) -> None:
        """Raises: UnwiredMemoryError if opened gates leave the logits as they were, at any read
        layer.
        """
        self.layer.eval()  # dropout would make any two passes differ
        tokens = torch.arange(8, device=self.device)[None] % self.tokenizer.size
        segments = torch.zeros_like(tokens)
        y = torch.ones(1, 8, self.spec.memory.layer.dim, device=self.device)
        plain = self.layer(tokens, segments).logits_BTV
        for name, gate in self.layer.port.read_gates():
            before = gate.write.weight.clone()
            gate.write.weight.normal_(generator=torch.Generator(self.device).manual_seed(0))
            changed = not torch.equal(self.layer(tokens, segments, y).logits_BTV, plain)
            gate.write.weight.copy_(before)
            if not changed:
                raise UnwiredMemoryError(
                    f"{self.group} rank {self.rank}: a read after layer {name} does not reach the "
                    "model's output; "
                    f"its hook on {type(self.layer.model).__name__} is bypassed; choose other "
                    "data.layer.read_layers"
                )
        self.layer.train()

    def train_step(self) -> Measured:
        """One step of w_own L_own + w_help L_help + w_reader L_reader on the next batch."""
        num_reading, step = self.num_reading, Measured()
        with self.cost("batch"):
            windows, ranges = self.stream.next_batch(self.spec.data.batch_size)
            self.ranges.extend(ranges)
            batch = self.make_batch(windows)
            num_help = batch.num_valid_in(slice(num_reading))
            num_own = batch.num_valid - num_help
            is_anew = takes_noised(self.step - self._begun)
            num_mixing = self.num_mixing if is_anew else 0
            noised = noised_sequences(self.spec, self.tokenizer, batch, num_mixing, self.step)
            num_noised = noised.num_valid
            general = self._general_batch(batch)
            num_general = general.num_valid
            lessons = lesson_batch(self.live, self.step)
        self.dense.zero_grad()
        if is_anew:
            self._noised.clear()
        for rows in self.passes():
            part = batch.rows(rows).to(self.device)
            step.num_tokens += part.num_tokens
            some_noised = noised.rows(rows).to(self.device)
            y_RTD = self._read(part.rows(slice(None, within(num_reading, rows))), some_noised)
            num_read = len(y_RTD) - len(some_noised.tokens_BT)
            self.begin_pass(part, rows)
            self._backward(part, y_RTD[:num_read], num_own, num_help, step)
            if some_noised.num_valid:
                self._keep_noised(some_noised, y_RTD[num_read:], num_noised)
            self._learn_general(general.rows(rows), num_general, step)
            if lessons is not None:
                part = lessons.rows(rows).to(self.device)
                self._learn_lessons(part, lessons.num_valid, step)
        self._learn_mixing(step)
        if self._measures_own:
            self._measure_own(batch, step)
        return self.updated(step)

    def updated(self, step: Measured) -> Measured:
        """Adds the gradients of all ranks, takes the optimizer's step at the schedule's rate, and
        returns what the step measured. Raises: as `check_finite`.
        """
        self.reduce()
        with self.cost("optimizer"):
            spec, total = self.spec.data.optimizer, self.spec.total_steps(DATA)
            lr, port_lr = learning_rate(spec.lr, spec, self.step, total), None
            if self.own_port_lr is not None:
                port_lr = learning_rate(self.own_port_lr, spec, self.step, total)
                step.metrics["port_lr"] = port_lr
            step.add_metric("gradient_norm", self.dense.step(lr, port_lr))
            if not self.layer.spec.keeps_model:
                step.metrics["lr"] = lr
        return self.checked(step)

    @torch.no_grad()
    def _measure_own(self, batch: Batch, step: Measured) -> None:
        """Own of a share of the batch, without gradient; once."""
        self._measures_own = False
        size = self.spec.data.batch_size
        num_alone = max(1, size - round(size * self.spec.data.help_frac))
        num = batch.num_valid_in(slice(num_alone))
        for rows in self.passes():
            alone = batch.rows(rows).rows(slice(None, within(num_alone, rows))).to(self.device)
            if not alone.num_valid:
                continue
            with self.cost("own"), self.autocast():
                hidden_NH = hidden_at(self.layer, alone)
                for some in parts_of(len(hidden_NH), self.layer.positions_at_once):
                    logits_NV, targets_N = self.layer.logits_at(hidden_NH[some]), alone.targets_N
                    own = losses.own(logits_NV, targets_N[some])
                    step.add_share("own", own, len(logits_NV) / num)

    def _backward(
        self, part: Batch, y_RTD: Tensor, num_own: int, num_help: int, step: Measured
    ) -> None:
        """Gradients of one pass, whose first sequences read `y_RTD`; `num_own`, `num_help`:
        positions of each kind in the global batch.
        """
        with self.autocast(), self.cost("forward"):
            read = y_RTD if len(y_RTD) else None
            hidden_BTH = self.layer.hidden(part.tokens_BT, part.segments_BT, read, part.documents)
            hidden_NH = rows_at(hidden_BTH, part.valid_at_N)
            num_reading = part.num_valid_in(slice(len(y_RTD)))
            y_MD = rows_at(y_RTD, part.valid_at_N[:num_reading])
        size, targets_N = self.layer.positions_at_once, part.targets_N
        if part.tokens_BT.numel() <= size:
            given = self._pass_at(hidden_NH, y_MD, targets_N, False, num_own, num_help)
            self.learn(self.terms(given, step), step)
            return
        cut = Cut(hidden_NH)
        (leaf_NH,) = cut.leaves
        for some in parts_of(len(targets_N), size):
            some_y = y_MD[leading(num_reading, some)]
            given = self._pass_at(leaf_NH[some], some_y, targets_N[some], True, num_own, num_help)
            self.learn(self.terms(given, step), step)
        self.learn(DataTerms(), step, cut=cut)

    def _pass_at(
        self,
        hidden_NH: Tensor,
        y_MD: Tensor,
        targets_N: Tensor,
        in_parts: bool,
        num_own: int,
        num_help: int,
    ) -> DataPass:
        """What is predicted at some positions of a pass, the first of which read `y_MD`.

        Args:
            hidden_NH: the data layer's last hidden states.
            y_MD: what the memory read.
            targets_N: the text's tokens.
            in_parts: they are one part of the positions of a pass.
            num_own, num_help: positions of each kind in the global batch.
        """
        num = len(y_MD)
        with self.autocast(), self.cost("forward"):
            logits_NV, beyond_N = self.layer.outputs_at(hidden_NH, in_parts)
            predicted, mixture = self.predicted_at(logits_NV, targets_N, num), None
            if num:
                logits_MV = self.memory.predict(y_MD, in_parts)
                of_memory = Predicted(logits_MV, targets_N[:num], num_entropies=num)
                fixed = self.spec.data.mixing_noise > 0
                mixture = mixed_at(
                    self.layer.port, predicted, of_memory, hidden_NH[:num], y_MD, fixed
                )
        return DataPass(num, predicted, beyond_N, mixture, num_own, num_help)

    def begin_pass(self, part: Batch, rows: slice) -> None:
        """A pass on these sequences begins, which are `rows` of the global batch."""

    def predicted_at(self, logits_NV: Tensor, targets_N: Tensor, num: int) -> Predicted:
        """What the data layer predicts at the next positions of a pass, of which `num` read."""
        return Predicted(logits_NV, targets_N, num_entropies=num)

    def terms(self, given: DataPass, step: Measured) -> DataTerms:
        """The losses of one pass or a part of it; `step` gets what else is measured."""
        weights, terms = self.spec.losses, DataTerms()
        num, nll_N = given.num_reading, given.predicted.nll_N
        beyond_N = None
        if given.beyond_N is not None:
            beyond_N = losses.beyond_of(given.predicted.logsumexp_N, given.beyond_N)
        if num_alone := len(nll_N) - num:
            share = num_alone / given.num_own
            own = losses.own_of(nll_N[num:]) * share
            terms = replace(terms, own=Term(own, weights.own))
            if beyond_N is not None:
                beyond = losses.own_of(beyond_N[num:]) * share
                term = Term(beyond, weights.own, reported=False)
                terms = replace(terms, own_beyond=term)
        if given.mixture is not None:
            share = num / given.num_help
            help_ = losses.own_of(-given.mixture.logp) * share
            reader = losses.own_of(nll_N[:num]) * share
            terms = replace(
                terms, help=Term(help_, weights.help), reader=Term(reader, weights.reader)
            )
            step.add_share("lambda", given.mixture.mixing.detach().mean(), share)
            if beyond_N is not None:
                beyond = losses.own_of(beyond_N[:num]) * share
                term = Term(beyond, weights.help + weights.reader, reported=False)
                terms = replace(terms, read_beyond=term)
        return terms

    def _keep_noised(self, part: Batch, y_BTD: Tensor, num: int) -> None:
        """Keeps what lambda learns from one pass' noised sequences.

        Args:
            part: these sequences.
            y_BTD: what they read.
            num: their positions in the global batch.
        """
        with self.cost("mixing"), self.autocast():
            states = NoisedStates.of(self.layer, self.memory, part, y_BTD)
        self._noised.append((states, part.num_valid / num))

    def _learn_mixing(self, step: Measured) -> None:
        """Gradient of lambda's weights on the noised sequences that are kept."""
        for states, share in self._noised:
            with self.cost("mixing"), self.autocast():
                mixing = states.loss(self.layer.port) * share
            self.learn(MixingTerms(Term(mixing, self.spec.losses.help)), step, cost="mixing")

    def _general_batch(self, batch: Batch) -> Batch:
        """This step's sequences of general text, the same on every rank; none where the settings
        have none.
        """
        if self.general is None:
            return batch.rows(slice(0, 0))
        windows, _ = self.general.next_batch(self.spec.data.num_general)
        return to_batch(windows, torch.device("cpu"))

    def _learn_general(self, part: Batch, num: int, step: Measured) -> None:
        """Gradient of the port on one pass' sequences of general text.

        Args:
            part: these sequences, in host memory.
            num: their positions in the global batch.
            step: gets what is reported.
        """
        if not part.num_valid:
            return
        layer = self.layer.spec
        has_that_came_in = layer.keeps_model or layer.has_adapters
        with self.cost("general"), self.autocast():
            alone = self.alone(self.layer, part) if has_that_came_in else None
            loss = general_loss(self.layer, self.memory, part.to(self.device), alone)
            general = loss * (part.num_valid / num)
        self.learn(GeneralTerms(Term(general, self.spec.losses.general)), step, cost="general")

    def _learn_lessons(self, part: Batch, num: int, step: Measured) -> None:
        """Gradient of one pass' lessons of a run that is taught, reads off; as `_learn_general`."""
        if not part.num_valid:
            return
        measures, bounds = Measures(self.cost, self.autocast), (0, *[part.num_valid] * 3)
        nothing, sizes = part.rows(slice(0, 0)), (num, 0, 0)
        taught = TaughtPass(self.layer, None, part, nothing, bounds, sizes, 0.0, measures)
        for terms, cut in taught.terms():
            self.learn(terms, step, cut=cut)

    def _read(self, *parts: Batch) -> Tensor:
        """What the memory reads in all sequences of these batches, one after the other."""
        with self.autocast(), self.cost("read"), torch.no_grad():
            tokens_BT = torch.cat([part.tokens_BT for part in parts])
            if not len(tokens_BT):
                dim = self.spec.memory.layer.dim
                return torch.zeros(*tokens_BT.shape, dim, device=self.device)
            segments_BT = torch.cat([part.segments_BT for part in parts])
            one_document = all(part.one_document for part in parts)
            return self.memory.read(tokens_BT, segments_BT, one_document).y

    def scalars(self) -> dict[str, Any]:
        """As `Trainer.scalars`, and the position in the stream."""
        general = {} if self.general is None else {GENERAL: list(self.general.state)}
        return {**super().scalars(), "stream": list(self.stream.state), **general}

    def set_scalars(self, scalars: Mapping[str, Any]) -> None:
        """As `Trainer.set_scalars`."""
        super().set_scalars(scalars)
        chunk, start = scalars["stream"]
        self.stream.state = (chunk, start)
        if self.general is not None:
            chunk, start = scalars[GENERAL]
            self.general.state = (chunk, start)
