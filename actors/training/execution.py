"""How a layer's blocks run in training: compiled, and with their activations computed again.

Both wrap the `forward` of single blocks in place, so that parameter names stay as they are, and the
hooks that add reads stay outside: a read may come and go without a recompile, and is not taken a
second time in the backward pass. Blocks of one kind share what was compiled. Called by the trainers
for the layer they train; mirrors and evaluators never need it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from actors.layers.data_layer import DataLayer, decoder_layers
from actors.layers.memory_layer import MemoryLayer

Backend = str | Callable[..., Any]
Forward = Callable[..., Any]


def prepare_training(layer: DataLayer | MemoryLayer, backend: Backend = "inductor") -> None:
    """Does what the layer's spec asks for: `compile`, and for a data layer
    `gradient_checkpointing`; nothing by default. Once per layer.

    Args:
        layer: the layer that is trained here.
        backend: of torch.compile.
    """
    recompute = isinstance(layer, DataLayer) and layer.spec.gradient_checkpointing
    for block in blocks_of(layer):
        if layer.spec.compile:
            block.forward = torch.compile(block.forward, backend=backend)
        if recompute:
            block.forward = recomputed(block.forward)


def blocks_of(layer: DataLayer | MemoryLayer) -> nn.ModuleList:
    """Where a layer's compute is: decoder layers, or the blocks of the memory's encoder."""
    if isinstance(layer, DataLayer):
        return decoder_layers(layer.model)
    blocks = layer.encoder.blocks
    assert isinstance(blocks, nn.ModuleList)
    return blocks


def recomputed(forward: Forward) -> Forward:
    """`forward` that keeps only its inputs for the backward pass where there is one.

    Not with a cache: computing again would write to it twice.
    """

    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled() or _has_cache(kwargs):
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run


def _has_cache(kwargs: dict[str, Any]) -> bool:
    return any(kwargs.get(name) is not None for name in ("past_key_values", "layer_past"))
