"""The model that data layers start from, with what does not train shared by all that one process
builds.

    files -> model of this process -> a tree of modules for each data layer: what trains is copied,
                                      what does not is the same tensors

Each data layer needs a tree of its own, since its reads are hooks on decoder layers.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

from actors.layers.causal_lm import build_model, check_model
from actors.machine.seeds import seed_everything
from actors.settings.run import DATA, RunSpec
from actors.tokenizers.tokenizer import Tokenizer
from actors.weights.adapter_files import adapter_beside
from actors.weights.base_identity import base_digest
from actors.weights.pretrained_model import load_model, pretrained_path
from actors.weights.starting_weights import (
    check_model_of_run,
    check_positions,
    check_vocabulary,
)
from actors.weights.trained_part import prepare_trained_part
from actors.wire import ConfigError


@dataclass(frozen=True)
class Started:
    """A model for one data layer.

    Attributes:
        model: the causal LM; what does not train may be shared.
        base: identity of the weights that don't train; empty: all train.
    """

    model: nn.Module
    base: str


class StartingModel:
    """Gives the starting model of a run to each data layer that a process builds.

    Args:
        spec, tokenizer: the run's.
    """

    def __init__(self, spec: RunSpec, tokenizer: Tokenizer) -> None:
        self._spec, self._tokenizer = spec, tokenizer
        self._loaded: dict[torch.device, Started] = {}

    def take(self, device: torch.device) -> Started:
        """A model whose trained parameters belong to the caller alone.

        Raises:
            ConfigError: as `build_model`, `load_model`, `check_model` and `prepare_trained_part`;
                the checkpoint or the earlier run does not fit this run.
        """
        if not self._spec.data.layer.keeps_some:
            return self._load(device)
        if device not in self._loaded:
            self._loaded[device] = self._load(device)
        loaded = self._loaded[device]
        return Started(copied(loaded.model), loaded.base)

    def _load(self, device: torch.device) -> Started:
        spec, layer, base = self._spec, self._spec.data.layer, ""
        seed_everything(spec.seed, DATA, "weights")
        if layer.pretrained is None:
            model = build_model(layer, self._tokenizer.size)
        else:
            with pretrained_path(layer) as place:
                check_vocabulary(place, "data.layer.pretrained", layer.pretrained, self._tokenizer)
                if layer.has_adapters and layer.exports_what_came_in and adapter_beside(place):
                    raise ConfigError(
                        f"data.layer.lora.export: apart, and {layer.pretrained} has an adapter of "
                        "its own, to which a second can't be added apart; set it to merged"
                    )
                model = load_model(layer, place)
                base = base_digest(place, layer.pretrained) if layer.keeps_some else ""
            check_model_of_run(model, layer)
        check_positions(model.config, spec.corpus.window)
        check_model(model, f"data.layer ({layer.pretrained or layer.model_type})")
        if layer.keeps_some:
            seed_everything(spec.seed, DATA, "adapters")
            prepare_trained_part(model, layer)
        return Started(model.to(device), base)


def copied(model: nn.Module) -> nn.Module:
    """Another tree of the same modules: parameters that train are copied, others are shared."""
    shared = {id(p): p for p in model.parameters() if not p.requires_grad}
    return copy.deepcopy(model, shared)
