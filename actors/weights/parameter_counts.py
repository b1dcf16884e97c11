"""Numbers of parameters of a run's layers, without allocating their tensors.

Reads configs and the headers of weight files, never weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from actors.layers.causal_lm import build_model, front_config, front_of
from actors.layers.copy_encoder import CopyEncoder
from actors.layers.data_layer import DataLayer
from actors.layers.memory_layer import MemoryLayer
from actors.settings.run import RunSpec
from actors.snapshots.flat_parameters import FROZEN
from actors.snapshots.sections import section_of
from actors.weights.export_files import (
    MEMORY_DESCRIPTION,
    describe_memory,
    export_errors,
    local_copy,
)
from actors.weights.pretrained_model import outline, pretrained_path, read_config
from actors.weights.starting_weights import check_memory, check_positions, require_export
from actors.weights.trained_part import prepare_trained_part


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters of a run's layers, and the shape of the data layer.

    All take 4 bytes each in memory but those of `kept`, which may take 2.
    """

    data: int  # the causal LM and its adapters, without the port
    kept: int  # those of it that don't train
    port: int
    memory: int  # those that train, the value table among them
    value_table: int
    frozen: int  # the memory's frozen copy: in every process, never trained nor published
    vocab_rows: int
    hidden_size: int
    num_layers: int


def count_parameters(spec: RunSpec, num_tokens: int) -> ParameterCounts:
    """Counts the parameters of what `build_data_layer` and `build_memory_layer` would make.

    Args:
        spec: the run.
        num_tokens: ids of its tokenizer.

    Raises:
        ConfigError: as those two, as far as configs and headers show it.
    """
    layer, memory_layer = spec.data.layer, spec.memory.layer
    if layer.pretrained is None:
        with torch.device("meta"):
            model = build_model(layer, num_tokens)
    else:
        with pretrained_path(layer) as place:
            model = outline(layer, place)
        prepare_trained_part(model, layer)
    with torch.device("meta"):
        check_positions(model.config, spec.corpus.window)
        data = DataLayer(model, layer, memory_layer.dim, num_tokens)
        encoder = _encoder(spec)
        memory = MemoryLayer(memory_layer, data.vocab_rows, num_tokens, encoder)
    frozen = sum(p.numel() for n, p in memory.named_parameters() if section_of(n, p) == FROZEN)
    return ParameterCounts(
        data=_size(data.model),
        kept=sum(p.numel() for p in data.model.parameters() if not p.requires_grad),
        port=_size(data.port),
        memory=_size(memory) - frozen,
        value_table=memory.values.numel(),
        frozen=frozen,
        vocab_rows=data.vocab_rows,
        hidden_size=int(model.config.hidden_size),
        num_layers=int(model.config.num_hidden_layers),
    )


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _encoder(spec: RunSpec) -> CopyEncoder | None:
    """The frozen copy, from configs alone."""
    layer, data = spec.memory.layer, spec.data.layer
    if layer.start_from is not None:
        export = require_export(layer.start_from)
        with local_copy(export, (MEMORY_DESCRIPTION,)) as root, export_errors(export):
            found = describe_memory(root)
            check_memory(layer, found, layer.start_from)
            return None if found.copied is None else CopyEncoder(front_of(found.copied), layer.dim)
    if layer.encoder == "conv" or layer.hashes:
        return None
    with pretrained_path(data) as place:
        config = front_config(read_config(data, place), layer.copy_layers)
    return CopyEncoder(front_of(config.to_dict()), layer.dim)
