"""Trains the data layer.

Own and help from one forward pass, by memory dropout; the memory's mirror is frozen.
"""

from __future__ import annotations

import torch

from actors import losses
from actors.corpus import WindowStream
from actors.layers import build_data_layer, build_memory_layer, mixed_forward
from actors.optim import DenseOptimizer, learning_rate
from actors.spec import DATA, RunSpec
from actors.trainer import Trainer
from actors.wire import UnwiredMemoryError


class DataTrainer(Trainer):
    """One rank of the data group."""

    def __init__(
        self,
        spec: RunSpec,
        tokenizer_json: str,
        run: str,
        rank: int = 0,
        num_ranks: int = 1,
        incarnation: int = 0,
    ) -> None:
        super().__init__(spec, tokenizer_json, run, DATA, rank, num_ranks, incarnation)
        self.layer = build_data_layer(spec, self.tokenizer, self.device)
        self.memory = build_memory_layer(spec, self.tokenizer, self.layer.vocab_rows, self.device)
        self._flatten(self.layer, self.memory)
        self.dense = DenseOptimizer(self.own, spec.data.optimizer)
        self.stream = WindowStream(self.corpus, DATA)
        self.check_wired()

    @property
    def num_readers(self) -> int:
        """Sequences of a batch that read the memory."""
        if self.spec.losses.help == 0:
            return 0
        if self.spec.losses.own == 0:
            return self.batch_size
        return min(max(1, round(self.batch_size * self.spec.data.help_frac)), self.batch_size - 1)

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

    def train_step(self) -> dict[str, float]:
        """One step of w_own L_own + w_help L_help on the stream's next batch."""
        weights, readers = self.spec.losses, self.num_readers
        with self.cost("batch"):
            windows, ranges = self.stream.next_batch(self.batch_size * self.num_ranks)
            self.ranges.extend(ranges)
            batch = self.make_batch(windows[slice(self.rank, None, self.num_ranks)])
        with self.cost("read"), torch.no_grad():
            read = self.memory.read(batch.tokens_BT[:readers], batch.segments_BT[:readers])
        with self.cost("forward"):
            mixed = mixed_forward(self.layer, self.memory, batch, read.y, batch.valid_BT[:readers])
            loss = torch.zeros((), device=self.device)
            measured = {"tokens": float(batch.num_tokens)}
            alone, reading = batch.rows(slice(readers, None)), batch.rows(slice(None, readers))
            if alone.valid_BT.any():
                own = losses.own(mixed.data.logits_BTV[readers:][alone.valid_BT], alone.targets_N)
                loss = loss + weights.own * own
                measured["own"] = own.item()
            if reading.valid_BT.any():
                help_ = losses.help_(mixed.log_mixed_NV, reading.targets_N)
                loss = loss + weights.help * help_
                measured |= {"help": help_.item(), "lambda": mixed.mixing_N.detach().mean().item()}
        with self.cost("backward"):
            self.dense.zero_grad()
            loss.backward()
        with self.cost("optimizer"):
            spec = self.spec.data.optimizer
            lr = learning_rate(spec.lr, spec, self.step, self.spec.total_steps(DATA))
            self.check_finite(loss=loss.item())
            norm = self.dense.step(lr)
            self.check_finite(gradient_norm=norm)
        return {**measured, "loss": loss.item(), "gradient_norm": norm, "lr": lr}
