"""Builds both layers from a run's spec, the same weights in every process that asks, and puts them
together.

Called by the trainers (own layer and mirror of the peer's), the evaluator and `pair`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from actors.causal_lm import build_model, check_model
from actors.corpus import PADDING, Windows
from actors.data_layer import DataLayer, DataOutput, MemoryPort, mix_distributions
from actors.losses import log_probabilities
from actors.memory_layer import MemoryLayer
from actors.pretrained import checkpoint, load_model
from actors.spec import DATA, MEMORY, RunSpec
from actors.starting import (
    check_positions,
    check_vocabulary,
    make_encoder,
    start_memory,
    start_port,
)
from actors.tokenizer import Tokenizer


@dataclass(frozen=True)
class Batch:
    """Windows as tensors, and the positions that have something to predict next, in the same
    document.
    """

    tokens_BT: Tensor
    segments_BT: Tensor
    valid_BT: Tensor  # bool; the last position is never valid
    targets_BT: Tensor  # next token; meaningless where not valid

    @property
    def num_tokens(self) -> int:
        """Positions that hold a token."""
        return int((self.segments_BT != PADDING).sum())

    @property
    def num_valid(self) -> int:
        """Positions that have something to predict."""
        return int(self.valid_BT.sum())

    def to(self, device: torch.device) -> Batch:
        """The batch on that device."""
        tensors = (self.tokens_BT, self.segments_BT, self.valid_BT, self.targets_BT)
        return Batch(*(t.to(device) for t in tensors))

    def rows(self, rows: slice | Tensor) -> Batch:
        """The batch of these sequences alone."""
        return Batch(
            self.tokens_BT[rows], self.segments_BT[rows], self.valid_BT[rows], self.targets_BT[rows]
        )

    @property
    def targets_N(self) -> Tensor:
        """Targets of the valid positions."""
        return self.targets_BT[self.valid_BT]


def to_batch(windows: Windows, device: torch.device) -> Batch:
    """Windows on `device`, with targets."""
    tokens = torch.from_numpy(windows.tokens_NT.astype(np.int64)).to(device)
    segments = torch.from_numpy(windows.segments_NT.astype(np.int64)).to(device)
    valid = torch.zeros_like(tokens, dtype=torch.bool)
    valid[:, :-1] = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] != PADDING)
    valid[:, :-1] &= torch.from_numpy(windows.learn_NT[:, 1:]).to(device)
    return Batch(tokens, segments, valid, tokens.roll(-1, dims=1))


def add_noise(
    batch: Batch,
    noise_frac: float,
    num_tokens: int,
    marks: Sequence[int],
    choices: torch.Generator,
) -> Batch:
    """The batch with a share of its input tokens replaced by random ones; targets and document
    marks stay.
    """
    if noise_frac == 0:
        return batch
    shape = batch.tokens_BT.shape
    is_mark = torch.isin(batch.tokens_BT, torch.tensor(marks))
    noised = (torch.rand(shape, generator=choices) < noise_frac) & ~is_mark
    random = torch.randint(num_tokens, shape, generator=choices)
    tokens = torch.where(noised, random, batch.tokens_BT)
    return Batch(tokens, batch.segments_BT, batch.valid_BT, batch.targets_BT)


def seed_everything(*parts: int | str) -> None:
    """Seeds torch's global generator from the parts, e.g. (seed, group, rank, interval)."""
    torch.manual_seed(seed_of(*parts))


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part."""
    words = [w for part in parts for w in (part.encode() if isinstance(part, str) else [part])]
    return int(np.random.SeedSequence(list(words)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def build_data_layer(spec: RunSpec, tokenizer: Tokenizer, device: torch.device) -> DataLayer:
    """A data layer with the run's starting weights: fresh, a checkpoint's or an earlier run's.

    Raises:
        ConfigError: as `DataLayer`, `build_model`, `load_model` and `check_model`; a checkpoint or
            an earlier run that does not fit this run.
    """
    layer = spec.data.layer
    seed_everything(spec.seed, DATA, "weights")
    if layer.pretrained is None:
        model = build_model(layer, tokenizer.size)
    else:
        with checkpoint(layer) as place:
            check_vocabulary(place, "data.layer.pretrained", layer.pretrained, tokenizer)
            model = load_model(layer, place)
        seed_everything(spec.seed, DATA, "port")  # whatever loading drew
    check_positions(model.config, spec.corpus.window)
    data = DataLayer(model, layer, spec.memory.layer.dim, tokenizer.size)
    check_model(model, f"data.layer ({layer.pretrained or layer.model_type})")
    if layer.pretrained is not None and not layer.fresh_port:
        start_port(data.port, layer, spec.memory.layer.dim)
    return data.to(device)


def build_memory_layer(
    spec: RunSpec, tokenizer: Tokenizer, vocab_rows: int, device: torch.device
) -> MemoryLayer:
    """A memory layer with the run's starting weights: fresh or an earlier run's.

    Raises:
        ConfigError: a frozen copy without a pretrained data layer, or an earlier run that does not
            fit this run.
    """
    if spec.memory.layer.start_from is not None:
        return start_memory(spec.memory.layer, tokenizer, vocab_rows).to(device)
    encoder = make_encoder(spec, lambda: seed_everything(spec.seed, MEMORY, "weights"))
    return MemoryLayer(spec.memory.layer, vocab_rows, tokenizer.size, encoder).to(device)


@dataclass(frozen=True)
class Mixed:
    """What data layer and memory say together at N positions."""

    log_mixed_NV: Tensor
    mixing_N: Tensor  # lambda
    data: DataOutput


@dataclass(frozen=True)
class Voices:
    """What data and memory layer say at N positions, each by itself, and what lambda is made of."""

    logp_NV: Tensor
    logq_NV: Tensor
    hidden_ND: Tensor
    y_ND: Tensor
    data: DataOutput
    port: MemoryPort

    def mixing_logit(self, fixed: bool = False) -> Tensor:
        """logit(lambda) (N,); `fixed`: its weights get no gradient."""
        return self.port.mixing_logit(self.hidden_ND, self.y_ND, self.logp_NV, self.logq_NV, fixed)

    def mixed(self, fixed: bool = False) -> Mixed:
        """Both together; `fixed`: the weights of lambda get no gradient."""
        logit_N = self.mixing_logit(fixed)
        log_mixed_NV = mix_distributions(self.logp_NV, self.logq_NV, logit_N)
        return Mixed(log_mixed_NV, torch.sigmoid(logit_N), self.data)


def both_voices(
    data: DataLayer,
    memory: MemoryLayer,
    batch: Batch,
    y_RTD: Tensor,
    where_RT: Tensor,
    scale_RT: Tensor | None = None,
) -> Voices:
    """One data-layer pass in which the first R sequences read; both voices at `where_RT`.

    Args:
        data, memory: the layers.
        batch: all sequences; those after the first R have their reads off.
        y_RTD: what the first R sequences read.
        where_RT: positions of which the voices are wanted.
        scale_RT: of what the data layer hears of each read, as dropout scales; the memory's own
            prediction is of the whole read. None: all is heard as it is.
    """
    readers = len(y_RTD)
    heard_RTD = y_RTD if scale_RT is None else y_RTD * scale_RT.unsqueeze(-1)
    out = data(batch.tokens_BT, batch.segments_BT, heard_RTD if readers else None)
    y_ND = y_RTD[where_RT]
    logp_NV = log_probabilities(out.logits_BTV[:readers][where_RT])
    logq_NV = log_probabilities(memory.predict(y_ND))
    hidden_ND = out.hidden_BTD[:readers][where_RT]
    return Voices(logp_NV, logq_NV, hidden_ND, y_ND, out, data.port)


def predict_at(memory: MemoryLayer, batch: Batch) -> Tensor:
    """The memory's own logits (N, V) at the valid positions, reading nowhere else."""
    u_BTD, _ = memory.encode(batch.tokens_BT, batch.segments_BT)
    return memory.predict(memory.read_at(u_BTD[batch.valid_BT]).y)
