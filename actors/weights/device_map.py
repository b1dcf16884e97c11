"""Spreads a data layer's model over devices, by accelerate, an extra.

Memory and port stay together on one device; what a decoder layer reads is carried to it and back.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from torch import nn

from actors.wire import ConfigError

DeviceMap = str | Mapping[str, int | str | torch.device]
PLANNED = ("auto", "balanced", "balanced_low_0", "sequential")


def spread(model: nn.Module, device_map: DeviceMap, offload: str | os.PathLike[str] | None) -> None:
    """Places the parts of a causal LM of transformers.

    Args:
        model: on the CPU.
        device_map: module -> device; or `auto`, `balanced`, `balanced_low_0`, `sequential`, which
            plan by the free memory; or one device.
        offload: folder for what is mapped to `disk`.

    Raises:
        ConfigError: accelerate is missing, or the map can't be used.
    """
    try:
        from accelerate import dispatch_model, infer_auto_device_map
        from accelerate.utils import get_balanced_memory
    except ImportError as err:
        raise ConfigError(
            f"device_map needs accelerate: {err}; pip install 'tandem-memory[big]'"
        ) from err
    whole = sorted(getattr(model, "_no_split_modules", None) or [])
    try:
        if isinstance(device_map, str) and device_map in PLANNED:
            memory = None
            if device_map != "sequential":
                memory = get_balanced_memory(
                    model,
                    no_split_module_classes=whole,
                    low_zero=device_map == "balanced_low_0",
                )
            placed = infer_auto_device_map(model, memory, no_split_module_classes=whole)
        elif isinstance(device_map, str):
            placed = {"": device_map}
        else:
            placed = dict(device_map)
        dispatch_model(model, placed, offload_dir=offload)
    except (ValueError, KeyError, RuntimeError, AttributeError) as err:
        raise ConfigError(
            f"device_map {device_map!r}: {err}; give one of {', '.join(PLANNED)}, a device, or a "
            "device for each module of the data layer's model"
        ) from err


def main_device(model: nn.Module) -> torch.device:
    """Where the model's first weights are: a GPU where one holds some, else the CPU."""
    devices = {parameter.device for parameter in model.parameters()}
    gpus = sorted((d for d in devices if d.type not in ("cpu", "meta")), key=str)
    return gpus[0] if gpus else torch.device("cpu")
