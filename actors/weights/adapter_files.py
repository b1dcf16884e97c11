"""Adapters as files: a folder of peft beside the model that they belong to.

    DIR/data_layer/           config.json, model.safetensors …          the model that came in
    DIR/data_layer_adapter/   adapter_config.json, adapter_model.safetensors

`transformers` loads the first, `peft` adds the second. peft is imported only here and where
adapters are made.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from actors.layers.causal_lm import quietly
from actors.settings.layers import LORA_INFIX
from actors.weights.export_files import ADAPTER, DATA_LAYER
from actors.weights.trained_part import ADAPTER_NAME, require_peft

ADAPTER_WEIGHTS = "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."  # of names in peft's files


def adapter_beside(place: str) -> Path | None:
    """The adapter that belongs to the data layer of an export; None: there is none."""
    folder = Path(place).parent / ADAPTER
    return folder if Path(place).name == DATA_LAYER and folder.is_dir() else None


def write_adapter(model: nn.Module, folder: Path) -> None:
    """Writes the model's adapters as peft does."""
    folder.mkdir(parents=True)
    tensors = {
        PEFT_PREFIX + name.replace(f".{ADAPTER_NAME}", ""): tensor.detach().cpu().clone()
        for name, tensor in model.state_dict().items()
        if LORA_INFIX in name
    }
    safetensors.torch.save_file(tensors, str(folder / ADAPTER_WEIGHTS))
    config: Any = vars(model)["peft_config"][ADAPTER_NAME]
    config.base_model_name_or_path = DATA_LAYER
    config.save_pretrained(str(folder))


def with_adapter(model: nn.Module, folder: Path) -> nn.Module:
    """The model with an adapter added to its weights, which no longer has modules of peft.

    Raises:
        ConfigError: peft is missing.
    """
    require_peft(f"{folder.name} is an adapter, which")
    from peft import PeftModel

    with quietly(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the model has no name, and that it is merged
        plain: nn.Module = PeftModel.from_pretrained(
            model, str(folder), local_files_only=True
        ).merge_and_unload()
    return plain
