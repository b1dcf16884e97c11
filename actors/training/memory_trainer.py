"""Trains the memory layer: recall and sync from the adopted data layer, self from the text,
balance, assist.

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
from actors.layers.batch import (
    Batch,
    data_logits_at,
    memory_logits_at,
    rows_at,
    rows_to,
    to_batch,
)
from actors.layers.data_layer import DataLayer
from actors.layers.memory_layer import MemoryLayer
from actors.layers.mixture import predict_both
from actors.layers.sampling import continued, openings, pieces_of
from actors.measuring.heldout import agreement
from actors.settings.run import DATA, MEMORY, RunSpec
from actors.training.execution import prepare_training
from actors.training.given import given_positions, given_terms
from actors.training.interval import Measured, within
from actors.training.optim import DenseOptimizer, RowAdam, learning_rate
from actors.training.passes import MemoryPass, TermCounts
from actors.training.terms import MemoryTerms, Term
from actors.training.told import told_from_lists, told_to_lists, with_changes
from actors.training.trainer import Trainer
from actors.weights.builders import build_data_layer, build_memory_layer, flatten
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
        self.teacher = self._data_layer()
        self.layer, base = self.build_layer(), self.teacher.base
        self._flatten(self.layer, self.teacher, base)
        if spec.syncs:
            self.ref, self.before = self._data_layer(), self.build_layer().requires_grad_(False)
            self.ref_flat, self.before_flat = flatten(self.ref, base), flatten(self.before, base)
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

    def open_streams(self) -> None:
        """As `Trainer.open_streams`: its own, and one to read the ranges that the data
        group names."""
        self.fresh = WindowStream(self.corpus, MEMORY)
        self.data_stream = WindowStream(self.corpus, DATA)

    def _data_layer(self) -> DataLayer:
        """A data layer that is only ever copied into."""
        layer = build_data_layer(self.spec, self.tokenizer, self.device, self.starting)
        return layer.eval().requires_grad_(False)

    def build_layer(self) -> MemoryLayer:
        """A memory layer with the run's starting weights; benchmarks put their controls here."""
        return build_memory_layer(self.spec, self.tokenizer, self.teacher.vocab_rows, self.device)

    def before_adopt(self) -> None:
        """Keeps both layers as they are: what sync compares the next version with."""
        if self.spec.syncs:
            self.ref_flat.buffer.copy_(self.mirror.buffer)
            self.before_flat.buffer.copy_(self.own.buffer)

    def begin_interval(self, order: Order) -> None:
        """Reads what the data layer just trained on, and samples from it where the mix has that.

        Where no newer version was adopted, what it trained on before stays in the mix.
        """
        self.choices = self.generator(order.interval)
        self.told = with_changes(self.told, order.told)
        if order.interval == 1 and self.spec.syncs:
            self.ref_flat.buffer.copy_(self.mirror.buffer)
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

    def train_step(self) -> Measured:
        """One step of the weighted memory losses."""
        group, step = self.spec.memory, Measured()
        with self.cost("batch"):
            windows, real = self.next_windows()
            order = torch.randperm(len(windows), generator=self.choices).numpy()
            batch = self.make_batch(windows[order])
            is_text_B = order < real
            valid_B, num = batch.host.valid_BT.sum(1), self.num_sequences
            num_global = TermCounts(
                self_=int(valid_B[is_text_B].sum()),
                recall=int(valid_B[: num.recall].sum()),
                sync=int(valid_B[: num.sync].sum()),
                assist=int(valid_B[: num.assist].sum()),
                given=int(given_positions(batch, is_text_B, num.given).sum()),
            )
        self.dense.zero_grad()
        for rows in self.passes():
            part = batch.rows(rows).to(self.device)
            step.num_tokens += part.num_tokens
            self.learn(self.terms(self._inputs(part, is_text_B[rows], rows, num_global)), step)
        self.reduce()
        with self.cost("optimizer"):
            total, spec = self.spec.total_steps(MEMORY), group.optimizer
            lr = learning_rate(spec.lr, spec, self.step, total)
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
        num_sync = max(1, round(group.batch_size * group.sync_frac))
        return TermCounts(
            recall=num_recall if weights.recall > 0 else 0,
            sync=num_sync if self.spec.syncs else 0,
            assist=num_recall if weights.assist > 0 else 0,
            given=max(1, round(group.batch_size * group.given_frac)) if weights.given > 0 else 0,
        )

    def terms(self, given: MemoryPass) -> MemoryTerms:
        """The losses of one pass."""
        weights, num_passes = self.spec.losses, self.spec.memory.accumulate
        terms = self._predicted(given, given.logits_NV)
        if weights.encoder > 0 and given.u_ND.requires_grad:  # not where nothing of it is trained
            with self.cost("encoder"), self.autocast():
                guess_NV = self.layer.guess(given.u_ND)
            encoder = self._predicted(given, guess_NV).loss()
            nothing = torch.zeros((), device=self.device)
            terms = replace(
                terms, encoder=Term(nothing if encoder is None else encoder, weights.encoder)
            )
        with self.cost("given"):
            learned = given_terms(
                self.layer, given.part, given.u_BTD, given.given_BT, given.num_global.given,
                weights, self.autocast,
            )  # fmt: skip
        terms = replace(terms, **learned)
        if self.num_sequences.sync:
            terms = replace(terms, sync=self._sync(given))
        balance = losses.balance(given.read.side_scores, self.ranks.add)
        balance_term = Term(balance, weights.balance / num_passes, over_ranks=True)
        return replace(terms, balance=balance_term, assist=self._assist(given))

    def _inputs(
        self,
        part: Batch,
        is_text_B: npt.NDArray[np.bool_],
        rows: slice,
        num_global: TermCounts,
    ) -> MemoryPass:
        """What one pass learns from: what the memory and its teacher predict.

        Args:
            part: the sequences of the pass.
            is_text_B: which of them are real text; what the data layer wrote is for recall, never
                for self.
            rows: which of the global batch they are.
            num_global: positions of each loss in the global batch.
        """
        with self.cost("student"), self.autocast():
            u_BTD, _ = self.layer.encode(
                part.tokens_BT, part.segments_BT, one_document=part.one_document
            )
            u_ND = rows_at(u_BTD, part.valid_at_N)
            read = self.layer.read_at(u_ND)
            logits_NV = self.layer.predict(read.y)
        of_sequence_N = np.nonzero(part.host.valid_BT)[0]
        is_text_N, num = is_text_B[of_sequence_N], self.num_sequences
        here = TermCounts(
            recall=within(num.recall, rows),
            sync=within(num.sync, rows),
            assist=within(num.assist, rows),
            given=within(num.given, rows),
        )
        given_BT = given_positions(part, is_text_B, here.given)
        positions = TermCounts(
            self_=int(is_text_N.sum()),
            recall=int((of_sequence_N < here.recall).sum()),
            sync=int((of_sequence_N < here.sync).sum()),
            assist=int((of_sequence_N < here.assist).sum()),
            given=int(given_BT.sum()),
        )
        teacher = self._teach(part, max(here.recall, here.sync))
        return MemoryPass(
            part,
            u_BTD,
            u_ND,
            read,
            logits_NV,
            here,
            positions,
            num_global,
            None if is_text_N.all() else part.places(is_text_N),
            teacher.first(positions.recall),
            teacher.first(positions.sync),
            self._text_weights(teacher, part.targets_N),
            given_BT,
        )

    def _teach(self, part: Batch, num: int) -> losses.Teacher:
        """What the adopted data layer predicts in the first `num` sequences of a pass."""
        if not num:
            return losses.Teacher.of(torch.zeros(0, self.tokenizer.size, device=self.device))
        with self.cost("teacher"), torch.no_grad(), self.autocast():
            return losses.Teacher.of(data_logits_at(self.teacher, part.rows(slice(None, num))))

    def _text_weights(self, teacher: losses.Teacher, targets_N: Tensor) -> Tensor | None:
        """Weight of each position of a pass in self; None: all 1."""
        if not (strength := self.spec.losses.self_yields) or not (num := len(teacher)):
            return None
        weight_N = torch.ones(len(targets_N), device=self.device)
        weight_N[:num] = losses.text_weights(teacher, targets_N[:num], strength)
        return weight_N

    def _predicted(self, given: MemoryPass, logits_NV: Tensor) -> MemoryTerms:
        """Self and recall of a prediction at the valid positions."""
        weights, terms = self.spec.losses, MemoryTerms()
        if weights.self_ > 0 and (num := given.num_positions.self_):
            text_NV, targets_N, weight_N = logits_NV, given.part.targets_N, given.text_weight_N
            if (at := given.text_at) is not None:
                text_NV, targets_N = text_NV.index_select(0, at), targets_N.index_select(0, at)
                weight_N = None if weight_N is None else weight_N.index_select(0, at)
            self_ = losses.self_(text_NV, targets_N, weight_N) * (num / given.num_global.self_)
            terms = replace(terms, self_=Term(self_, weights.self_))
        if num := given.num_positions.recall:
            with self.cost("recall"):
                recall = losses.recall(
                    given.recall_teacher, logits_NV[:num], weights.recall_yields
                ) * (num / given.num_global.recall)
            terms = replace(terms, recall=Term(recall, weights.recall))
        return terms

    def _sync(self, given: MemoryPass) -> Term | None:
        """This pass' share of sync."""
        weights = self.spec.losses
        with self.cost("sync"):
            if not (num := given.num_positions.sync):
                # the median is of all ranks, so that none may stay away
                self._all_ranks(torch.zeros(0, device=self.device))
                return None
            synced = given.part.rows(slice(None, given.num_sequences.sync))
            with torch.no_grad(), self.autocast():
                ref_NV, before_NV = (
                    data_logits_at(self.ref, synced),
                    memory_logits_at(self.before, synced),
                )
            sync = losses.sync(
                given.sync_teacher,
                ref_NV,
                before_NV,
                given.logits_NV[:num],
                self._all_ranks,
                weights.recall_yields,
            )
            return Term(sync * (num / given.num_global.sync), weights.sync)

    def _all_ranks(self, values_N: Tensor) -> Tensor:
        return torch.cat(self.ranks.gather_rows(values_N))

    def _assist(self, given: MemoryPass) -> Term | None:
        """This pass' share of help with a frozen data layer."""
        if not (num := given.num_positions.assist):
            return None
        num_sequences = given.num_sequences.assist
        part, u_BTD = given.part.rows(slice(None, num_sequences)), given.u_BTD[:num_sequences]
        with self.cost("assist"), self.autocast():
            y_MD = self.layer.read_at(rows_at(u_BTD, part.text_at_M)).y.to(u_BTD.dtype)
            y_BTD = rows_to(y_MD, part.text_at_M, part.tokens_BT.shape)
            _, both = predict_both(self.teacher, self.layer, part, y_BTD, part.valid_at_N)
            assist = losses.assist(both.mixed().logp, part.targets_N)
        return Term(assist * (num / given.num_global.assist), self.spec.losses.assist)

    def tensors(self) -> dict[str, Tensor]:
        """As `Trainer.tensors`, with the rows' moments and, for sync, the teacher of before."""
        teacher = {"teacher": self.mirror.buffer} if self.spec.syncs else {}
        return {**super().tensors(), **self.rows.moments(), **teacher}

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

    def measure_agreement(self) -> float:
        """Share of held-out positions where the memory's likeliest token is that of the adopted
        data layer.
        """
        if self.heldout is None:
            self.heldout = to_batch(self.corpus.heldout(MEASURED_WINDOWS), self.device)
        return agreement(self.teacher, self.layer, self.heldout, self.spec.evaluation.batch_tokens)
