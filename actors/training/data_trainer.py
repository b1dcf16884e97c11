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

from actors.corpus.corpus import WindowStream
from actors.corpus.general_text import general_corpus
from actors.layers import losses
from actors.layers.batch import Batch, hidden_at, rows_at, to_batch
from actors.layers.mixture import StatesAlone, both_at, general_loss, mixing_loss, noised_sequences
from actors.layers.predicted import Cut, Dense, Fused, Predicted, parts_of
from actors.settings.layers import PORT_PREFIX
from actors.settings.run import DATA, RunSpec
from actors.training.execution import prepare_training
from actors.training.interval import Measured, within
from actors.training.lesson_passes import TaughtPass
from actors.training.memory_states import Measures
from actors.training.optim import DenseOptimizer, learning_rate
from actors.training.passes import DataPass, DataPositions
from actors.training.terms import DataTerms, GeneralTerms, MixingTerms, Term
from actors.training.trainer import Trainer
from actors.weights.builders import build_data_layer, build_memory_layer
from actors.weights.starting_model import StartingModel
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
        self._measures_own = False
        self.alone = StatesAlone()  # of general text
        self.open_streams()
        self.check_wired()
        prepare_training(self.layer)
        self.build_more(begin)

    def open_streams(self) -> None:
        """As `Trainer.open_streams`."""
        self.stream = WindowStream(self.corpus, DATA)
        self.general: WindowStream | None = None
        if self.spec.data.num_general:
            self.general = WindowStream(general_corpus(self.spec, self.tokenizer), GENERAL)

    @property
    def num_reading(self) -> int:
        """Sequences at the front of the global batch that read the memory."""
        size = self.spec.data.batch_size
        if self.spec.losses.help == 0:
            return 0
        if self.spec.losses.own == 0 or self.layer.spec.keeps_model:
            return size
        return self._num_helped

    @property
    def _num_helped(self) -> int:
        """Sequences that read beside others that train the data layer alone."""
        size = self.spec.data.batch_size
        return min(max(1, round(size * self.spec.data.help_frac)), size - 1)

    @property
    def num_mixing(self) -> int:
        """Sequences of which lambda learns on the first half: those that read, or as many as would
        beside a model that trains.
        """
        if self.layer.spec.keeps_model:
            return min(self.num_reading, self._num_helped)
        return self.num_reading

    def begin_interval(self, order: Order) -> None:
        """Where the model keeps its bits no sequence trains it alone, so that own is only measured,
        at the interval's first step.
        """
        self._measures_own = self.layer.spec.keeps_model

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
            num_help = batch.rows(slice(None, num_reading)).num_valid
            num_own = batch.num_valid - num_help
            noised = noised_sequences(self.spec, self.tokenizer, batch, self.num_mixing, self.step)
            num_noised = noised.num_valid
            general = self._general_batch(batch)
            num_general = general.num_valid
            lessons = to_batch(self.live.batch(self.step), torch.device("cpu"))
            num_lessons = lessons.num_valid
        self.dense.zero_grad()
        for rows in self.passes():
            part = batch.rows(rows).to(self.device)
            step.num_tokens += part.num_tokens
            self._backward(part, within(num_reading, rows), num_own, num_help, step)
            self._learn_mixing(noised.rows(rows).to(self.device), num_noised, step)
            self._learn_general(general.rows(rows), num_general, step)
            self._learn_lessons(lessons.rows(rows).to(self.device), num_lessons, step)
        if self._measures_own:
            self._measure_own(batch, step)
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
        num = batch.rows(slice(None, num_alone)).num_valid
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
        self, part: Batch, num_reading: int, num_own: int, num_help: int, step: Measured
    ) -> None:
        """Gradients of one pass, whose first `num_reading` sequences read; `num_own`, `num_help`:
        positions of each kind in the global batch.
        """
        alone, reading = part.rows(slice(num_reading, None)), part.rows(slice(None, num_reading))
        with self.autocast(), self.cost("read"), torch.no_grad():
            y_RTD = self._read(reading)
        if part.tokens_BT.numel() <= self.layer.positions_at_once:
            given = DataPass(*self._positions(part, alone, reading, y_RTD), num_own, num_help)
            self.learn(self.terms(given, step), step)
            return
        with self.autocast(), self.cost("forward"):
            read = y_RTD if num_reading else None
            hidden_BTH = self.layer.hidden(
                part.tokens_BT, part.segments_BT, read, part.one_document
            )
            cut = Cut(
                rows_at(hidden_BTH[:num_reading], reading.valid_at_N),
                rows_at(hidden_BTH[num_reading:], alone.valid_at_N),
            )
        reading_NH, alone_NH = cut.leaves
        y_ND, size = rows_at(y_RTD, reading.valid_at_N), self.layer.positions_at_once
        for some in parts_of(len(reading_NH), size):
            with self.autocast(), self.cost("forward"):
                at = self._reading_at(reading_NH[some], y_ND[some], reading.targets_N[some], Fused)
            self.learn(self.terms(DataPass(None, at, num_own, num_help), step), step)
        for some in parts_of(len(alone_NH), size):
            with self.autocast(), self.cost("forward"):
                at = self._alone_at(
                    self.layer.outputs_at(alone_NH[some], True), alone.targets_N[some], Fused
                )
            self.learn(self.terms(DataPass(at, None, num_own, num_help), step), step)
        self.learn(DataTerms(), step, cut=cut)

    def _positions(
        self, part: Batch, alone: Batch, reading: Batch, y_RTD: Tensor
    ) -> tuple[DataPositions | None, DataPositions | None]:
        """Positions of a pass whose logits fit at once, without and with reads."""
        num_reading, of_alone, of_reading = len(y_RTD), None, None
        with self.autocast(), self.cost("forward"):
            out = self.layer(
                part.tokens_BT,
                part.segments_BT,
                y_RTD if num_reading else None,
                one_document=part.one_document,
            )

            def at(rows: slice, where_N: Tensor) -> tuple[Tensor, Tensor | None]:
                beyond = None if out.beyond_BT is None else rows_at(out.beyond_BT[rows], where_N)
                return rows_at(out.logits_BTV[rows], where_N), beyond

            if reading.num_valid:
                rows, where_N = slice(None, num_reading), reading.valid_at_N
                of_reading = self._reading_at(
                    rows_at(out.hidden_BTD[rows], where_N),
                    rows_at(y_RTD, where_N),
                    reading.targets_N,
                    Dense,
                    at(rows, where_N),
                )
            if alone.num_valid:
                outputs = at(slice(num_reading, None), alone.valid_at_N)
                of_alone = self._alone_at(outputs, alone.targets_N, Dense)
        return of_alone, of_reading

    def _reading_at(
        self,
        hidden_NH: Tensor,
        y_ND: Tensor,
        targets_N: Tensor,
        kind: type[Predicted],
        outputs: tuple[Tensor, Tensor | None] | None = None,
    ) -> DataPositions:
        """Positions that read; arguments as of `both_at`."""
        both = both_at(
            self.layer,
            self.memory,
            hidden_NH,
            y_ND,
            targets_N,
            kind,
            fixed=self.spec.data.mixing_noise > 0,
            outputs=outputs,
        )
        return DataPositions(len(targets_N), both.data, both.beyond_N, both.mixture)

    @staticmethod
    def _alone_at(
        outputs: tuple[Tensor, Tensor | None], targets_N: Tensor, kind: type[Predicted]
    ) -> DataPositions:
        """Positions that don't read, of these logits."""
        logits_NV, beyond_N = outputs
        return DataPositions(len(targets_N), kind(logits_NV, targets_N), beyond_N)

    def terms(self, given: DataPass, step: Measured) -> DataTerms:
        """The losses of one pass or a part of it; `step` gets what else is measured."""
        weights, terms = self.spec.losses, DataTerms()
        if (at := given.alone) is not None:
            share = at.num / given.num_own
            own = losses.own_of(at.predicted.nll_N) * share
            terms = replace(terms, own=Term(own, weights.own))
            if at.beyond_N is not None:
                beyond = losses.beyond_of(at.predicted.logsumexp_N, at.beyond_N)
                term = Term(beyond, weights.own * share, reported=False)
                terms = replace(terms, own_beyond=term)
        if (at := given.reading) is not None and at.mixture is not None:
            share = at.num / given.num_help
            help_ = losses.own_of(-at.mixture.logp) * share
            reader = losses.own_of(at.predicted.nll_N) * share
            terms = replace(
                terms, help=Term(help_, weights.help), reader=Term(reader, weights.reader)
            )
            step.add_share("lambda", at.mixture.mixing.detach().mean(), share)
            if at.beyond_N is not None:
                beyond = losses.beyond_of(at.predicted.logsumexp_N, at.beyond_N) * share
                term = Term(beyond, weights.help + weights.reader, reported=False)
                terms = replace(terms, read_beyond=term)
        return terms

    def _learn_mixing(self, part: Batch, num: int, step: Measured) -> None:
        """Gradient of lambda's weights on one pass' noised sequences.

        Args:
            part: these sequences.
            num: their positions in the global batch.
            step: gets what is reported.
        """
        if not part.num_valid:
            return
        with self.cost("mixing"), self.autocast():
            mixing = mixing_loss(self.layer, self.memory, part) * (part.num_valid / num)
        term = Term(mixing, self.spec.losses.help)
        self.learn(MixingTerms(term), step, cost="mixing")

    def _general_batch(self, batch: Batch) -> Batch:
        """This step's sequences of general text, the same on every rank; none where the settings
        have none.
        """
        if self.general is None:
            return batch.rows(slice(0, 0))
        windows, _ = self.general.next_batch(self.spec.data.num_general)
        return to_batch(windows, torch.device("cpu"))

    def _learn_general(self, part: Batch, num: int, step: Measured) -> None:
        """Gradient of the port on one pass' sequences of general text, in host memory; as
        `_learn_mixing`.
        """
        if not part.num_valid:
            return
        with self.cost("general"), self.autocast():
            plain_NH = self.alone(self.layer, part) if self.layer.spec.keeps_model else None
            loss = general_loss(self.layer, self.memory, part.to(self.device), plain_NH)
            general = loss * (part.num_valid / num)
        self.learn(GeneralTerms(Term(general, self.spec.losses.general)), step, cost="general")

    def _learn_lessons(self, part: Batch, num: int, step: Measured) -> None:
        """Gradient of one pass' lessons of a run that is taught, reads off; as `_learn_mixing`."""
        if not part.num_valid:
            return
        measures, bounds = Measures(self.cost, self.autocast), (0, *[part.num_valid] * 3)
        nothing, sizes = part.rows(slice(0, 0)), (num, 0, 0)
        taught = TaughtPass(self.layer, None, part, nothing, bounds, sizes, 0.0, measures)
        for terms, cut in taught.terms():
            self.learn(terms, step, cut=cut)

    def _read(self, part: Batch) -> Tensor:
        if len(part.tokens_BT):
            return self.memory.read(part.tokens_BT, part.segments_BT, part.one_document).y
        return torch.zeros(*part.tokens_BT.shape, self.spec.memory.layer.dim, device=self.device)

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
