"""Trains the memory layer: recall and sync from the adopted data layer, self from the text,
balance, assist.

Its batches are a mix of what the data layer just trained on (the ranges in its header), its own
fresh shuffle, replay and text sampled from the data layer. Teachers run without gradient on part of
a batch; the report says what each costs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from actors import losses
from actors.corpus import PADDING, Piece, Windows, WindowStream, pack
from actors.evaluation import agreement
from actors.flat import FlatParameters
from actors.layers import (
    Batch,
    build_data_layer,
    build_memory_layer,
    mixed_forward,
    predict_at,
    to_batch,
)
from actors.optim import DenseOptimizer, RowAdam, learning_rate, section_of
from actors.replay import ReplayBuffer
from actors.spec import DATA, MEMORY, RunSpec
from actors.trainer import Trainer
from actors.wire import Header, Order

MEASURED_WINDOWS = 48  # held-out windows on which agreement with an adopted version is measured


class MemoryTrainer(Trainer):
    """One rank of the memory group."""

    def __init__(
        self,
        spec: RunSpec,
        tokenizer_json: str,
        run: str,
        rank: int = 0,
        num_ranks: int = 1,
        incarnation: int = 0,
    ) -> None:
        super().__init__(spec, tokenizer_json, run, MEMORY, rank, num_ranks, incarnation)
        self.teacher = build_data_layer(spec, self.tokenizer, self.device).eval()
        rows = self.teacher.vocab_rows
        self.layer = build_memory_layer(spec, self.tokenizer, rows, self.device)
        self._flatten(self.layer, self.teacher)
        if spec.losses.sync > 0:
            self.ref = (
                build_data_layer(spec, self.tokenizer, self.device).eval().requires_grad_(False)
            )
            self.ref_flat = FlatParameters(self.ref, section_of)
            self.before = build_memory_layer(
                spec, self.tokenizer, rows, self.device
            ).requires_grad_(False)
            self.before_flat = FlatParameters(self.before, section_of)
        self.dense = DenseOptimizer(self.own, spec.memory.optimizer)
        self.rows = RowAdam(self.layer.values, spec.memory.optimizer.betas, spec.memory.value_clip)
        self.fresh = WindowStream(self.corpus, MEMORY)
        self.data_stream = WindowStream(self.corpus, DATA)
        self.replay = ReplayBuffer(spec.memory.replay_windows, spec.corpus.window)
        self.just_trained = Windows.empty(spec.corpus.window)
        self.sampled = Windows.empty(spec.corpus.window)
        self.heldout: Batch | None = None
        self.choices = self.generator(0)

    def before_adopt(self) -> None:
        """theta_ref is the data layer with which the memory last trained."""
        if self.spec.losses.sync > 0:
            self.ref_flat.buffer.copy_(self.mirror.buffer)
            self.before_flat.buffer.copy_(self.own.buffer)

    def begin_interval(self, order: Order, headers: Sequence[Header]) -> None:
        """Fetches what theta just trained on, and samples from theta where the mix asks for it."""
        self.choices = self.generator(order.interval)
        if order.interval == 1 and self.spec.losses.sync > 0:
            self.ref_flat.buffer.copy_(self.mirror.buffer)
        with self.cost("batch"):
            self.replay.add(self.just_trained)
            ranges = headers[0].ranges
            empty = Windows.empty(self.spec.corpus.window)
            self.just_trained = self.data_stream.read(ranges) if ranges else empty
        counts = self.spec.mix.counts(self.batch_size)
        with self.cost("sample"):
            if counts["sampled"]:
                self.sampled = self.sample(counts["sampled"] * order.num_steps)

    @torch.no_grad()
    def sample(self, num_windows: int) -> Windows:
        """At most `num_windows` windows of documents sampled from the adopted data layer, reads
        off.
        """
        window, mark = self.spec.corpus.window, self.tokenizer.end_of_text
        prompts = torch.full((num_windows, 1), mark, device=self.device)
        out = self.teacher.model.generate(  # type: ignore[operator]
            prompts,
            attention_mask=torch.ones_like(prompts),
            do_sample=True,
            top_k=0,
            max_new_tokens=window - 1,
            eos_token_id=mark,
            pad_token_id=mark,
        )
        documents = []
        for row in out.clamp_max(self.tokenizer.size - 1).tolist():
            end = row.index(mark, 1) + 1 if mark in row[1:] else len(row)
            if end > 2:
                documents.append(Piece(row[:end]))
        return pack(documents, window, mark)[:num_windows] if documents else Windows.empty(window)

    def next_windows(self) -> tuple[Windows, int]:
        """A batch by the configured mix, and how many sequences at its front are real text.

        A kind that has nothing yet (no range before the first exchange, no replay) is made up with
        fresh windows.
        """
        pools = {
            "just_trained": self.just_trained,
            "replay": self.replay.windows,
            "sampled": self.sampled,
        }
        counts = self.spec.mix.counts(self.batch_size)
        picked = {kind: self._pick(pool, counts[kind]) for kind, pool in pools.items()}
        sampled = picked.pop("sampled")
        num_fresh = self.batch_size - len(sampled) - sum(len(w) for w in picked.values())
        parts = list(picked.values())
        if num_fresh:
            stream_windows, _ = self.fresh.next_batch(num_fresh * self.num_ranks)
            parts.append(stream_windows[slice(self.rank, None, self.num_ranks)])
        real = sum(len(part) for part in parts)
        return Windows.concat([*parts, sampled]), real

    def _pick(self, pool: Windows, num: int) -> Windows:
        if len(pool) == 0 or num == 0:
            return pool[:0]
        return pool[torch.randint(len(pool), (num,), generator=self.choices).numpy()]

    def train_step(self) -> dict[str, float]:
        """One step of the weighted memory losses."""
        weights, group = self.spec.losses, self.spec.memory
        with self.cost("batch"):
            windows, real = self.next_windows()
            order = torch.randperm(len(windows), generator=self.choices)
            batch = self.make_batch(windows[order.numpy()])
            is_text_B = (order < real).to(self.device)
        with self.cost("student"):
            u_BTD, _ = self.layer.encode(batch.tokens_BT, batch.segments_BT)
            read = self.layer.read_at(u_BTD[batch.valid_BT])
            logits_NV = self.layer.predict(read.y)
            of_sequence_N = batch.valid_BT.nonzero()[:, 0]
            text_N = is_text_B[of_sequence_N]  # what theta made up teaches recall, never self
            loss = torch.zeros((), device=self.device)
            measured = {"tokens": float(batch.num_tokens)}
            if weights.self_ > 0 and text_N.any():
                self_loss = losses.self_(logits_NV[text_N], batch.targets_N[text_N])
                loss = loss + weights.self_ * self_loss
                measured["self"] = self_loss.item()
            balance = losses.balance(read.side_scores)
            loss = loss + weights.balance * balance
            measured["balance"] = balance.item()
        taught = self._taught(batch, logits_NV, of_sequence_N)
        if weights.assist > 0:
            with self.cost("assist"):
                taught["assist"] = self._assist(batch, u_BTD)
        for name, value in taught.items():
            loss = loss + float(getattr(weights, name)) * value
            measured[name] = value.item()
        with self.cost("backward"):
            self.dense.zero_grad()
            loss.backward()
        with self.cost("optimizer"):
            self.check_finite(loss=loss.item())
            total, spec = self.spec.total_steps(MEMORY), group.optimizer
            lr = learning_rate(spec.lr, spec, self.step, total)
            norm = self.dense.step(lr)
            value_norm, rows = self.rows.step(learning_rate(group.value_lr, spec, self.step, total))
            self.check_finite(gradient_norm=norm, value_gradient_norm=value_norm)
        measured |= {
            "loss": loss.item(),
            "gradient_norm": norm,
            "value_gradient_norm": value_norm,
            "lr": lr,
        }
        return {**measured, "rows_written": float(rows)}

    def _taught(self, batch: Batch, logits_NV: Tensor, of_sequence_N: Tensor) -> dict[str, Tensor]:
        """The terms that need teachers, each on the first so many sequences of the batch."""
        weights, group = self.spec.losses, self.spec.memory
        size = len(batch.tokens_BT)
        num_recall = max(1, round(size * group.recall_frac)) if weights.recall > 0 else 0
        num_sync = max(1, round(size * group.sync_frac)) if weights.sync > 0 else 0
        taught: dict[str, Tensor] = {}
        if not (num := max(num_recall, num_sync)):
            return taught
        part = batch.rows(slice(None, num))
        with self.cost("teacher"), torch.no_grad():
            teacher_NV = self.teacher(part.tokens_BT, part.segments_BT).logits_BTV[part.valid_BT]
        if num_recall:
            count = int((of_sequence_N < num_recall).sum())
            with self.cost("recall"):
                taught["recall"] = losses.recall(teacher_NV[:count], logits_NV[:count])
        if num_sync:
            count = int((of_sequence_N < num_sync).sum())
            part = batch.rows(slice(None, num_sync))
            with self.cost("sync"):
                with torch.no_grad():
                    ref_NV = self.ref(part.tokens_BT, part.segments_BT).logits_BTV[part.valid_BT]
                    before_NV = predict_at(self.before, part)
                taught["sync"] = losses.sync(
                    teacher_NV[:count], ref_NV, before_NV, logits_NV[:count]
                )
        return taught

    def _assist(self, batch: Batch, u_BTD: Tensor) -> Tensor:
        """Help with theta frozen, on as many sequences as recall uses."""
        num = max(1, round(len(batch.tokens_BT) * self.spec.memory.recall_frac))
        part = batch.rows(slice(None, num))
        text_BT = part.segments_BT != PADDING
        y_BTD = torch.zeros_like(u_BTD[:num])
        y_BTD[text_BT] = self.layer.read_at(u_BTD[:num][text_BT]).y
        mixed = mixed_forward(self.teacher, self.layer, part, y_BTD, part.valid_BT)
        return losses.assist(mixed.log_mixed_NV, part.targets_N)

    def measure_agreement(self) -> float:
        """Share of held-out positions where the memory's likeliest token is the adopted data
        layer's.
        """
        if self.heldout is None:
            self.heldout = to_batch(self.corpus.heldout(MEASURED_WINDOWS), self.device)
        return agreement(self.teacher, self.layer, self.heldout)
