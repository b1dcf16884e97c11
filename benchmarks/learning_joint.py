"""One loop that trains both layers at once: what decoupling is measured against.

    joint step    data batch: own + help, the gradient of help into both layers;
                  memory: self on all of it, recall from the same pass, balance
    memory step   the memory's own batches, up to as many as its group would have had

Nothing is ever stale: the memory is read as it is, and the data layer teaches as it is. Not
shipped. Called by the cells of `learning`.

Shapes: B sequences, T tokens, N valid positions, D d_m.
"""

from __future__ import annotations

import torch
from torch import Tensor

from actors.corpus.corpus import WindowStream
from actors.corpus.windows import PADDING
from actors.layers import losses
from actors.layers.mixture import mixing_loss, noised_sequences, predict_both
from actors.layers.pair import Pair
from actors.settings.run import DATA, MEMORY, RunSpec
from actors.snapshots.flat_parameters import FlatParameters
from actors.snapshots.sections import section_of
from actors.training.memory_trainer import MemoryTrainer
from actors.training.optim import DenseOptimizer, learning_rate
from actors.training.process_group import ProcessGroup


class JointTrainer(MemoryTrainer):
    """A memory trainer whose teacher learns too."""

    def __init__(self, spec: RunSpec, tokenizer_json: str, run: str) -> None:
        super().__init__(spec, tokenizer_json, run)
        self.data = self.teacher.requires_grad_(True).train()
        self.mirror = FlatParameters(self.data, section_of)
        self.data_dense = DenseOptimizer(self.mirror, spec.data.optimizer)
        self.text = WindowStream(self.corpus, DATA)
        self.joint_steps, self.tokens = 0, {DATA: 0, MEMORY: 0}

    @property
    def pair(self) -> Pair:
        """Both layers as they are."""
        return Pair(self.data, self.layer)

    def joint_step(self) -> None:
        """One step of every loss on a batch of the data group's stream."""
        spec, weights = self.spec, self.spec.losses
        windows, _ = self.text.next_batch(spec.data.batch_size)
        batch = self.make_batch(windows).to(self.device)
        readers = min(
            max(1, round(spec.data.batch_size * spec.data.help_frac)), spec.data.batch_size - 1
        )
        reading, alone = batch.rows(slice(None, readers)), batch.rows(slice(readers, None))
        self.dense.zero_grad()
        self.data_dense.zero_grad()
        u_BTD, _ = self.layer.encode(batch.tokens_BT, batch.segments_BT)
        text_BT = batch.segments_BT != PADDING
        text_BT[readers:] &= batch.valid_BT[readers:]
        read = self.layer.read_at(u_BTD[text_BT])
        assert read.side_scores is not None
        y_BTD = torch.zeros_like(u_BTD)
        y_BTD[text_BT] = read.y
        out, both = predict_both(self.data, self.layer, batch, y_BTD[:readers], reading.valid_BT)
        mixture = both.mixed(fixed=spec.data.mixing_noise > 0)
        own_NV = out.logits_BTV[readers:][alone.valid_BT]
        said_NV = self.layer.predict(y_BTD[batch.valid_BT])
        guess_NV = self.layer.guess(u_BTD[batch.valid_BT])
        loss = (
            weights.own * losses.own(own_NV, alone.targets_N)
            + weights.help * losses.help_(mixture.logp, reading.targets_N)
            + weights.reader * losses.own(both.logits, reading.targets_N)
            + self._imitation(own_NV, said_NV, batch.targets_N)
            + weights.encoder * self._imitation(own_NV, guess_NV, batch.targets_N)
            + weights.balance * losses.balance(read.side_scores)
        )
        loss.backward()
        noised = noised_sequences(spec, self.tokenizer, batch, readers, self.joint_steps)
        if noised.num_valid:
            with torch.no_grad():
                y_BTD = self.layer.read(noised.tokens_BT, noised.segments_BT).y
            mixing = mixing_loss(self.data, self.layer, noised, y_BTD)
            (weights.help * mixing).backward()
        self.check_finite(loss=loss.item())
        self.data_dense.step(self._rate(spec.data.optimizer.lr, DATA, self.joint_steps))
        self.dense.step(self._rate(spec.memory.optimizer.lr, MEMORY, self.step))
        self.rows.step(self._rate(spec.memory.value_lr, MEMORY, self.step), ProcessGroup())
        self.joint_steps += 1
        self.step += 1
        self.tokens[DATA] += batch.num_tokens
        self.tokens[MEMORY] += batch.num_tokens

    def _imitation(self, own_NV: Tensor, said_NV: Tensor, targets_N: Tensor) -> Tensor:
        """Self of what is said, and recall at the last positions, of which `own_NV` is known."""
        weights = self.spec.losses
        last_NV = said_NV[len(said_NV) - len(own_NV) :]
        recall = losses.recall(own_NV, last_NV, weights.recall_yields)
        return weights.self_ * losses.self_(said_NV, targets_N) + weights.recall * recall

    def _rate(self, peak: float, group: str, step: int) -> float:
        return learning_rate(
            peak, self.spec.group(group).optimizer, step, self.spec.total_steps(group)
        )

    def memory_step(self) -> None:
        """One step of the memory's losses on its own batch; the data layer only teaches."""
        self.data.requires_grad_(False)
        self.tokens[MEMORY] += self.train_step().num_tokens
        self.data.requires_grad_(True)
        self.step += 1

    def run_interval(self) -> None:
        """As many steps of both as an interval of both groups has."""
        data, memory = (self.spec.group(group).steps_per_interval for group in (DATA, MEMORY))
        for index in range(memory):
            if index * data // memory != (index + 1) * data // memory:
                self.joint_step()
            else:
                self.memory_step()
