"""Builds both layers from a run's settings, with the same weights in every process."""

from __future__ import annotations

import torch

from actors.layers.causal_lm import build_model, check_model
from actors.layers.data_layer import DataLayer
from actors.layers.memory_layer import MemoryLayer
from actors.machine.seeds import seed_everything
from actors.settings.run import DATA, MEMORY, RunSpec
from actors.tokenizers.tokenizer import Tokenizer
from actors.weights.pretrained_model import load_model, pretrained_path
from actors.weights.starting_weights import (
    check_model_of_run,
    check_positions,
    check_vocabulary,
    make_encoder,
    start_memory,
    start_port,
)


def build_data_layer(spec: RunSpec, tokenizer: Tokenizer, device: torch.device) -> DataLayer:
    """A data layer with the run's starting weights: fresh, from a checkpoint or an earlier run.

    Raises:
        ConfigError: as `DataLayer`, `build_model`, `load_model` and `check_model`; the
            checkpoint or the earlier run does not fit this run.
    """
    layer = spec.data.layer
    seed_everything(spec.seed, DATA, "weights")
    if layer.pretrained is None:
        model = build_model(layer, tokenizer.size)
    else:
        with pretrained_path(layer) as place:
            check_vocabulary(place, "data.layer.pretrained", layer.pretrained, tokenizer)
            model = load_model(layer, place)
        check_model_of_run(model, layer)
        seed_everything(spec.seed, DATA, "port")  # however many random numbers loading used
    check_positions(model.config, spec.corpus.window)
    data = DataLayer(model, layer, spec.memory.layer.dim, tokenizer.size, spec.logit_tokens)
    check_model(model, f"data.layer ({layer.pretrained or layer.model_type})")
    if layer.pretrained is not None and not layer.fresh_port:
        start_port(data.port, layer, spec.memory.layer.dim)
    return data.to(device)


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
