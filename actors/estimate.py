"""How big a run's layers are, without making them: every tensor is on torch's meta device.

Called by `tandem check`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from actors.layers import build_data_layer, build_memory_layer
from actors.spec import RunSpec
from actors.tokenizer import Tokenizer


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters of a run's layers, each 4 bytes in memory, and the shape of the data layer."""

    data: int  # the causal LM, without the port
    port: int
    memory: int  # trained ones, the value table among them
    value_table: int
    frozen: int  # in every process, never trained nor published
    vocab_rows: int
    hidden_size: int
    num_layers: int


@dataclass(frozen=True)
class _Vocabulary:
    """All that building a layer asks of a tokenizer."""

    size: int


def count_parameters(spec: RunSpec, num_tokens: int) -> ParameterCounts:
    """Counts what `build_data_layer` and `build_memory_layer` would make.

    Args:
        spec: the run.
        num_tokens: ids of its tokenizer.

    Raises:
        ConfigError: as those two, where a config can tell.
    """
    meta, vocabulary = torch.device("meta"), cast(Tokenizer, _Vocabulary(num_tokens))
    with meta:
        data = build_data_layer(spec, vocabulary, meta)
        memory = build_memory_layer(spec, vocabulary, data.vocab_rows, meta)
    return ParameterCounts(
        data=_size(data.model),
        port=_size(data.port),
        memory=_size(memory),
        value_table=memory.values.numel(),
        frozen=0,
        vocab_rows=data.vocab_rows,
        hidden_size=int(data.model.config.hidden_size),  # type: ignore[union-attr,arg-type]
        num_layers=int(data.model.config.num_hidden_layers),  # type: ignore[union-attr,arg-type]
    )


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
