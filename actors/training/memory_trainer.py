"""Trains the memory layer: recall from the adopted data layer, self from the text, balance.

    batch = what the data layer just trained on (the ranges in its header)
          + its own fresh shuffle + replay + openings that the data layer continues

Teachers run without gradient on the leading sequences of a batch; their seconds are reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from actors.corpus.corpus import MEASURED_WINDOWS, WindowStream
from actors.corpus.ranges import from_lists, to_lists
from actors.corpus.replay_buffer import ReplayBuffer
from actors.corpus.windows import Windows, pack
from actors.layers import losses
from actors.layers.batch import Batch, hidden_at, rows_at, to_batch
from actors.layers.memory_layer import MemoryLayer
from actors.layers.predicted import Teacher
from actors.lessons.told import told_from_lists, told_to_lists, with_changes
from actors.measuring.heldout import agreement
from actors.measuring.sampling import continued, openings, pieces_of
from actors.operators.parts import positions_at_once
from actors.settings.run import DATA, MEMORY, RunSpec
from actors.training.execution import prepare_training
from actors.training.interval import Measured, within
from actors.training.lesson_passes import lesson_batch, live_terms
from actors.training.memory_states import Ask, Measures, MemoryStates, given_positions, terms_of
from actors.training.optim import DenseOptimizer, RowAdam, learning_rate
from actors.training.passes import MemoryPass, TermCounts
from actors.training.terms import MemoryTerms, Term
from actors.training.trainer import Trainer
from actors.weights.builders import build_memory_layer, build_mirror
from actors.weights.starting_model import StartingModel
from actors.wire import Order, Range


class MemoryTrainer(Trainer):
    """One rank of the memory group.

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
        super().__init__(spec, tokenizer_json, run, MEMORY, rank, num_ranks, incarnation, starting)
        begin("building its layers")
        self.teacher = build_mirror(spec, self.tokenizer, self.device, self.starting)
        self.layer = self.build_layer()
        self._flatten(self.layer, self.teacher, self.teacher.base)
        self.dense = DenseOptimizer(self.own, spec.memory.optimizer)
        self.rows = RowAdam(self.layer.values, spec.memory.optimizer.betas, spec.memory.value_clip)
        self.open_streams()
        self.replay = ReplayBuffer(spec.memory.replay_windows, spec.corpus.window)
        self.just_trained = Windows.empty(spec.corpus.window)
        self.just_ranges: list[Range] = []
        self.sampled = Windows.empty(spec.corpus.window)
        self.heldout: Batch | None = None
        self.choices = self.generator(0)
        prepare_training(self.layer)
        self.build_more(begin)

    def open_streams(self) -> None:
        """As `Trainer.open_streams`: its own, and one to read the ranges that the data
        group names."""
        self.fresh = WindowStream(self.corpus, MEMORY)
        self.data_stream = WindowStream(self.corpus, DATA)

    def build_layer(self) -> MemoryLayer:
        """A memory layer with the run's starting weights; benchmarks put their controls here."""
        return build_memory_layer(self.spec, self.tokenizer, self.teacher.vocab_rows, self.device)

    def begin_interval(self, order: Order) -> None:
        """Reads what the data layer just trained on, and samples from it where the mix has that.

        Where no newer version was adopted, what it trained on before stays in the mix.
        """
        self.choices = self.generator(order.interval)
        self.told = with_changes(self.told, order.told)
        with self.cost("batch"):
            if order.ranges:
                self.replay.add(self.just_trained, self.just_ranges)
                self.just_ranges = list(order.ranges)
                self.just_trained = self.data_stream.read(order.ranges)
        counts = self.spec.mix.counts(self.spec.memory.batch_size)
        with self.cost("sample"):
            if counts["sampled"]:
                self.sampled = self.sample(counts["sampled"] * order.num_steps)

    def sample(self, num_windows: int) -> Windows:
        """At most `num_windows` windows of real openings that the adopted data layer continues,
        reads off; each rank continues its share, all get all.
        """
        window, end = self.spec.corpus.window, self.tokenizer.end
        opened = openings(self.fresh.next_batch(num_windows)[0])
        with self.autocast():
            mine = opened[self.rank :: self.num_ranks]
            rows_NT = continued(self.teacher, mine, window, end, self.device)
        pieces = pieces_of(torch.cat(self.ranks.gather_rows(rows_NT)), end)
        fill = self.tokenizer.end_of_text
        return pack(pieces, window, fill)[:num_windows] if pieces else Windows.empty(window)

    def next_windows(self) -> tuple[Windows, int]:
        """A batch by the configured mix, and how many sequences at its front are real text.

        A kind that has nothing yet (no range before the first exchange, no replay) is replaced by
        fresh windows.
        """
        pools = {
            "just_trained": self.just_trained,
            "replay": self.replay.windows,
            "sampled": self.sampled,
        }
        size = self.spec.memory.batch_size
        counts = self.spec.mix.counts(size)
        picked = {kind: self._pick(pool, counts[kind]) for kind, pool in pools.items()}
        sampled = picked.pop("sampled")
        parts = list(picked.values())
        if num_fresh := size - len(sampled) - sum(len(w) for w in parts):
            parts.append(self.fresh.next_batch(num_fresh)[0])
        real = sum(len(part) for part in parts)
        return Windows.concat([*parts, sampled]), real

    def _pick(self, pool: Windows, num: int) -> Windows:
        if len(pool) == 0 or num == 0:
            return pool[:0]
        return pool[torch.randint(len(pool), (num,), generator=self.choices).numpy()]

    def next_batch(self) -> tuple[Batch, npt.NDArray[np.bool_]]:
        """The global batch in host memory, and which of its sequences are real text."""
        windows, real = self.next_windows()
        order = torch.randperm(len(windows), generator=self.choices).numpy()
        return self.make_batch(windows[order]), order < real

    def train_step(self) -> Measured:
        """One step of the weighted memory losses."""
        step = Measured()
        with self.cost("batch"):
            batch, is_text_B = self.next_batch()
            valid_B, num = batch.host.valid_BT.sum(1), self.num_sequences
            num_global = TermCounts(
                self_=int(valid_B[is_text_B].sum()),
                recall=int(valid_B[: num.recall].sum()),
                given=int(given_positions(batch, is_text_B, num.given).sum()),
            )
            lessons = lesson_batch(self.live, self.step)
        self.dense.zero_grad()
        for rows in self.passes():
            part = batch.rows(rows).to(self.device)
            step.num_tokens += part.num_tokens
            self._learn_pass(part, is_text_B[rows], rows, num_global, step)
            if lessons is not None:
                part = lessons.rows(rows).to(self.device)
                self._learn_lessons(part, lessons.num_valid, step)
        return self.updated(step)

    def updated(self, step: Measured) -> Measured:
        """Changes the weights by the gradients of a step's passes, added over all ranks.

        Returns what the step measured. Raises: as `check_finite`.
        """
        self.reduce()
        group, spec = self.spec.memory, self.spec.memory.optimizer
        total = self.spec.total_steps(MEMORY)
        lr = learning_rate(spec.lr, spec, self.step, total)
        with self.cost("optimizer"):
            step.add_metric("gradient_norm", self.dense.step(lr))
            value_lr = learning_rate(group.value_lr, spec, self.step, total)
            value_norm, num_rows = self.rows.step(value_lr, self.ranks)
            step.add_metric("value_gradient_norm", value_norm)
        step.metrics |= {"lr": lr, "rows_written": float(num_rows)}
        return self.checked(step)

    @property
    def num_sequences(self) -> TermCounts:
        """Sequences at the front of the global batch at which each loss with a teacher is
        computed, and that of given tokens.
        """
        weights, group = self.spec.losses, self.spec.memory
        num_recall = max(1, round(group.batch_size * group.recall_frac))
        return TermCounts(
            recall=num_recall if weights.recall > 0 else 0,
            given=max(1, round(group.batch_size * group.given_frac)) if weights.given > 0 else 0,
        )

    def _learn_pass(
        self,
        part: Batch,
        is_text_B: npt.NDArray[np.bool_],
        rows: slice,
        num_global: TermCounts,
        step: Measured,
    ) -> None:
        """Gradients of one pass.

        Args:
            part: its sequences.
            is_text_B: which of them are real text; what the data layer wrote is for recall, never
                for self.
            rows: which of the global batch they are.
            num_global: positions of each loss in the global batch.
            step: gets what is reported.
        """
        states, side_scores = self._states(part, is_text_B, rows, num_global)
        balance = self._balance(side_scores)
        if states.at_once:
            given = states.predictions(slice(0, len(states.targets_P)))
            self.learn(replace(self.terms(given), balance=balance), step)
            return
        leaves, cut = states.cut()
        for some in states.parts():
            self.learn(self.terms(leaves.predictions(some)), step)
        self.learn(MemoryTerms(balance=balance), step, cut=cut)

    def _learn_lessons(self, part: Batch, num: int, step: Measured) -> None:
        """Gradients of one pass' lessons of a run that is taught, `num` positions in all."""
        if part.num_valid:
            weights, measures = self.spec.losses, Measures(self.cost, self.autocast)
            given = self.layer, self.teacher, part, num, weights, self.live.is_known_to_peer
            for terms, cut in live_terms(*given, measures):
                self.learn(terms, step, cut=cut)

    def _states(
        self,
        part: Batch,
        is_text_B: npt.NDArray[np.bool_],
        rows: slice,
        num_global: TermCounts,
    ) -> tuple[MemoryStates, Tensor | None]:
        """Hidden states of one pass, and scores of the half keys (2, N, H, S), if there are any, at
        the positions that have something to predict; arguments as of `_learn_pass`.
        """
        of_sequence_N, num = np.nonzero(part.host.valid_BT)[0], self.num_sequences
        here = TermCounts(
            recall=within(num.recall, rows),
            given=within(num.given, rows),
        )
        given_BT = given_positions(part, is_text_B, here.given)
        where_P, targets_P = part.valid_at_N, part.targets_N
        if given_BT.any():  # read with the others: one gradient of the value table
            at_G = part.places(given_BT)
            where_P = torch.cat([where_P, at_G])
            targets_P = torch.cat([targets_P, rows_at(part.targets_BT, at_G)])
        with self.cost("student"), self.autocast():
            u_BTD, _ = self.layer.encode(
                part.tokens_BT, part.segments_BT, one_document=part.one_document
            )
            u_PD = rows_at(u_BTD, where_P)
            read = self.layer.read_at(u_PD)
        at_once = positions_at_once(self.tokenizer.size, self.device, self.spec.logit_tokens)
        states = MemoryStates(
            memory=self.layer,
            weights=self.spec.losses,
            measures=Measures(self.cost, self.autocast),
            num_tokens=part.tokens_BT.numel(),
            positions_at_once=at_once,
            targets_P=targets_P,
            is_text_N=is_text_B[of_sequence_N],
            u_PD=u_PD,
            y_PD=read.y,
            num_global=num_global,
            num_recall=int((of_sequence_N < here.recall).sum()),
            ask=self.asked(part.rows(slice(None, here.recall)), rows),
        )
        sides = read.side_scores
        return states, None if sides is None else sides[:, : len(of_sequence_N)]

    def asked(self, taught: Batch, rows: slice) -> Ask:
        """What the adopted data layer says in the sequences of recall of one pass, which are
        `rows` of the global batch.
        """
        is_whole = taught.tokens_BT.numel() <= self.teacher.positions_at_once
        with self.cost("teacher"), torch.no_grad(), self.autocast():
            taught_MH = hidden_at(self.teacher, taught) if taught.num_valid else None

        def ask(some: slice) -> Teacher:
            assert taught_MH is not None
            logits_MV = self.teacher.logits_at(taught_MH[some])
            return Teacher.of(logits_MV) if is_whole else Teacher.fused(logits_MV)

        return ask

    def _balance(self, side_scores: Tensor | None) -> Term | None:
        """How even the use of the half keys is, by their scores in one pass; hashes have none."""
        if side_scores is None:
            return None
        balance = losses.balance(side_scores, self.ranks.add)
        weight = self.spec.losses.balance / self.spec.memory.accumulate
        return Term(balance, weight, over_ranks=True)

    def terms(self, given: MemoryPass) -> MemoryTerms:
        """The losses of one pass or a part of it, but for those that are of the pass as a whole."""
        return terms_of(given, self.spec.losses, self.cost)

    def tensors(self) -> dict[str, Tensor]:
        """As `Trainer.tensors`, with the rows' moments."""
        return {**super().tensors(), **self.rows.moments()}

    def scalars(self) -> dict[str, Any]:
        """As `Trainer.scalars`, and the windows of the mix."""
        return {
            **super().scalars(),
            "fresh": list(self.fresh.state),
            "just_trained": to_lists(self.just_ranges),
            "replay": to_lists(self.replay.ranges),
            "told": told_to_lists(self.told),
        }

    def set_scalars(self, scalars: Mapping[str, Any]) -> None:
        """As `Trainer.set_scalars`; the windows of the mix are read again from the corpus."""
        super().set_scalars(scalars)
        self.told = told_from_lists(scalars.get("told", ()))  # earlier versions have none
        chunk, start = scalars["fresh"]
        self.fresh.state = (chunk, start)
        self.just_ranges = from_lists(scalars["just_trained"])
        self.just_trained = self.data_stream.read(self.just_ranges)
        self.replay = ReplayBuffer(self.spec.memory.replay_windows, self.spec.corpus.window)
        ranges = from_lists(scalars["replay"])
        self.replay.add(self.data_stream.read(ranges), ranges)

    def measure_agreement(self) -> float | None:
        """Share of held-out positions where both layers find the same token likeliest."""
        if self.heldout is None:
            self.heldout = to_batch(self.corpus.heldout(MEASURED_WINDOWS), self.device)
        return agreement(self.teacher, self.layer, self.heldout, self.spec.evaluation.batch_tokens)
