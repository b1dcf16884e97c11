"""Builds both layers from a run's settings, with the same weights in every process."""

from __future__ import annotations

import torch

from actors.layers.data_layer import DataLayer
from actors.layers.memory_layer import MemoryLayer
from actors.machine.seeds import seed_everything
from actors.settings.run import DATA, MEMORY, RunSpec
from actors.snapshots.flat_parameters import FlatParameters
from actors.snapshots.sections import data_sections, section_of
from actors.tokenizers.tokenizer import Tokenizer
from actors.weights.starting_model import StartingModel
from actors.weights.starting_weights import make_encoder, start_memory, start_port

Layer = DataLayer | MemoryLayer


def build_data_layer(
    spec: RunSpec,
    tokenizer: Tokenizer,
    device: torch.device,
    starting: StartingModel | None = None,
) -> DataLayer:
    """A data layer with the run's starting weights: fresh, from a checkpoint or an earlier run.

    Args:
        spec, tokenizer: the run's.
        device: on which it is.
        starting: the process' own, so that what does not train is loaded once; None: another is
            made for this layer.

    Raises:
        ConfigError: as `DataLayer` and `StartingModel.take`.
    """
    layer = spec.data.layer
    started = (starting or StartingModel(spec, tokenizer)).take(device)
    if layer.pretrained is not None:
        seed_everything(spec.seed, DATA, "port")  # however many random numbers loading used
    data = DataLayer(started.model, layer, spec.memory.layer.dim, tokenizer.size, spec.logit_tokens)
    data.base = started.base
    if layer.pretrained is not None and not layer.fresh_port:
        start_port(data.port, layer, spec.memory.layer.dim)
    return data.to(device)


def build_mirror(
    spec: RunSpec, tokenizer: Tokenizer, device: torch.device, starting: StartingModel
) -> DataLayer:
    """As `build_data_layer`, of a layer that is only ever copied into."""
    return build_data_layer(spec, tokenizer, device, starting).eval().requires_grad_(False)


def flatten(layer: Layer, base: str) -> FlatParameters:
    """The parameters of a layer that train, in one buffer.

    Args:
        layer: of a pair.
        base: identity of what does not train in the pair's data layer.
    """
    rule = data_sections(layer.spec) if isinstance(layer, DataLayer) else section_of
    return FlatParameters(layer, rule, base)


def build_memory_layer(
    spec: RunSpec, tokenizer: Tokenizer, vocab_rows: int, device: torch.device
) -> MemoryLayer:
    """A memory layer with the run's starting weights: fresh or from an earlier run.

    Raises:
        ConfigError: as `make_encoder`, or the earlier run does not fit this run.
    """
    if spec.memory.layer.start_from is not None:
        return start_memory(spec.memory.layer, tokenizer, vocab_rows).to(device)
    encoder = make_encoder(spec, lambda: seed_everything(spec.seed, MEMORY, "weights"))
    return MemoryLayer(spec.memory.layer, vocab_rows, tokenizer.size, encoder).to(device)
