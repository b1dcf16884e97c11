"""Both groups of a run with `memory.teacher: said`: a data layer that says what it predicts while
it trains, and a memory that learns from that, without a copy of the data layer.

    data      what its ranks say in an interval is one whole, and goes out with the version
    memory    batch = sequences of which something was just said, first: recall is of these
                    + others of what was just trained on, its own fresh shuffle, replay

Nothing is asked, so what no batch of the data group had cannot be recalled: of fresh text and of
replay the memory learns the text alone. In the first interval nothing was said yet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from actors.corpus.corpus import MEASURED_WINDOWS
from actors.corpus.windows import Windows
from actors.layers.batch import Batch, joined, read_at_valid
from actors.layers.predicted import Predicted
from actors.machine.host_memory import ByteArray
from actors.measuring.heldout import parts
from actors.operators.parts import parts_of, positions_at_once
from actors.snapshots.said import Said, SaidInterval, SaidShape
from actors.snapshots.snapshot import checksum, verify_said
from actors.training.data_trainer import DataTrainer
from actors.training.interval import Measured
from actors.training.memory_states import Ask
from actors.training.memory_trainer import MemoryTrainer
from actors.training.passes import TermCounts
from actors.wire import Header, Order


class SayingDataTrainer(DataTrainer):
    """As `DataTrainer`, and says what it predicts where nothing is read."""

    def build_more(self, begin: Callable[[str], None]) -> None:
        """As `Trainer.build_more`."""
        super().build_more(begin)
        self.shape = SaidShape.of(self.spec, self.tokenizer.size)
        self.said = SaidInterval(self.shape, self.device)
        self._first_step = 0

    def begin_interval(self, order: Order) -> None:
        """As `DataTrainer.begin_interval`."""
        super().begin_interval(order)
        self.said.forget()
        self._first_step = self.step

    def begin_pass(self, part: Batch, rows: slice) -> None:
        """As `DataTrainer.begin_pass`."""
        step = self.step - self._first_step
        self._pass = self.said.of_pass(part, rows, step, self.num_reading)

    def predicted_at(self, logits_NV: Tensor, targets_N: Tensor, num: int) -> Predicted:
        """As `DataTrainer.predicted_at`."""
        predicted = Predicted(logits_NV, targets_N, num_entropies=len(targets_N))
        self._pass.say(logits_NV[num:], *predicted.spread(slice(num, None)))
        return predicted

    def publish(self, exact: bool = False) -> tuple[Header, list[ByteArray]]:
        """As `Trainer.publish`; rank 0 adds what was said."""
        header, buckets = super().publish(exact)
        if self.rank:
            return header, buckets
        bucket = self.said.bucket()
        return replace(header, said_checksums=(checksum(bucket),)), [*buckets, bucket]

    def _steps(self, order: Order) -> tuple[Measured, float]:
        done = super()._steps(order)
        self.ranks.add(self.said.rows_STC)
        return done

    def description(self) -> dict[str, Any]:
        """As `Trainer.description`."""
        return {**super().description(), "said_bytes": self.shape.num_bytes}

    def tensors(self) -> dict[str, Tensor]:
        """As `Trainer.tensors`, and what was said."""
        return {**super().tensors(), "said": self.said.rows_STC}


class SaidMemoryTrainer(MemoryTrainer):
    """As `MemoryTrainer`, and asks nobody."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # the memory was built to its measure
        del self.teacher, self.mirror, self.starting
        self.shape = SaidShape.of(self.spec, self.tokenizer.size)
        self.said = Said(self.shape)
        self.chosen = np.zeros(0, np.int64)  # of what was said, the sequences of this step

    def take_over(self, headers: Sequence[Header], buckets: Sequence[ByteArray]) -> None:
        """Takes what was said instead of the weights. Raises: SnapshotError."""
        verify_said(headers, buckets, self.shape.num_bytes)
        self.said = Said(self.shape, buckets[0])

    def next_batch(self) -> tuple[Batch, npt.NDArray[np.bool_]]:
        """As `MemoryTrainer.next_batch`; something was said of recall's sequences."""
        size, num = self.spec.memory.batch_size, super().num_sequences.recall
        num = num if len(self.said) else 0
        drawn = torch.randint(max(1, len(self.said)), (num,), generator=self.choices)
        self.chosen = drawn.numpy()
        others = self.other_windows(size - num)
        order = torch.randperm(len(others), generator=self.choices).numpy()
        batch = self.make_batch(others[order])
        return joined([self.said.batch(self.chosen), batch]), np.ones(size, np.bool_)

    def other_windows(self, num: int) -> Windows:
        """So many by the mix, whose share of what the data layer just trained on has been drawn."""
        counts = self.spec.mix.counts(self.spec.memory.batch_size)
        counts["just_trained"] = max(0, counts["just_trained"] - len(self.chosen))
        replayed = self._pick(self.replay.windows, min(num, counts["replay"]))
        just = self._pick(self.just_trained, min(num - len(replayed), counts["just_trained"]))
        fresh = self.fresh.next_batch(num - len(replayed) - len(just))[0]
        return Windows.concat([just, replayed, fresh])

    @property
    def num_sequences(self) -> TermCounts:
        """As `MemoryTrainer.num_sequences`: recall is computed where something was said."""
        return replace(super().num_sequences, recall=len(self.chosen))

    def asked(self, taught: Batch, rows: slice) -> Ask:
        """As `MemoryTrainer.asked`: what was said."""
        with self.cost("teacher"):
            return self.said.teacher(self.chosen[rows], self.device).at

    @torch.no_grad()
    def measure_agreement(self) -> float | None:
        """Share of the positions at which something was last said where the memory finds the same
        token likeliest.
        """
        chosen = np.arange(min(MEASURED_WINDOWS, len(self.said)))
        if not len(chosen):
            return None
        batch = self.said.batch(chosen).to(self.device)
        likeliest_N = self.said.teacher(chosen, self.device).ids_NK[:, 0]
        at_once = positions_at_once(self.tokenizer.size, self.device, self.spec.logit_tokens)
        found = []
        for part in parts(batch, self.spec.evaluation.batch_tokens):
            y_ND = read_at_valid(self.layer, part)
            found += [
                self.layer.predict(y_ND[some]).argmax(-1) for some in parts_of(len(y_ND), at_once)
            ]
        return float((torch.cat(found) == likeliest_N).float().mean())
