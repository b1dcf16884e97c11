"""What a notebook or a script imports: train a run, load what it exported; see docs/python.md.

    from jobs.api import load, load_config, train

Decides nothing itself.
"""

from __future__ import annotations

import os

import torch

from actors.formats import first_line
from actors.machine.progress import Progress
from actors.measuring.voices import Voice
from actors.pair.tandem_model import TandemModel, TandemOutput, load_tandem_model
from actors.sharing.folder import DTYPES
from actors.sharing.hub import fetch, hub_name
from actors.weights.device_map import DeviceMap, main_device, spread
from actors.wire import ConfigError, StorageError, TandemError
from jobs.origin import origin_of
from orchestrator.console import Console
from orchestrator.reporting.task_progress import TaskProgress
from orchestrator.run import RunResult, train
from orchestrator.run_dir.run_dir import find_export
from orchestrator.settings.config import Config, load_config

__all__ = [
    "Config",
    "ConfigError",
    "Console",
    "RunResult",
    "StorageError",
    "TandemError",
    "TandemModel",
    "TandemOutput",
    "Voice",
    "load",
    "load_config",
    "train",
]


def load(
    run: str | os.PathLike[str],
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    device_map: DeviceMap | None = None,
    offload_folder: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    token: str | None = None,
    progress: Progress | None = None,
) -> TandemModel:
    """The model with memory that a run exported, in eval mode.

    Args:
        run: a run directory, its `export` folder or a folder that `save` wrote, on any storage; or
            a name of the Hugging Face hub, `owner/name` or `hf://owner/name`.
        dtype: of the data layer, float32 or bfloat16; None: as it was saved. The memory and its
            port stay in float32.
        device: where all of it goes; None: the CPU.
        device_map: instead, where the parts of the data layer's model go, as transformers has it
            (extra `big`); memory and port go to the first of them.
        offload_folder: for what the map has on `disk`.
        revision, token: of the hub.
        progress: sees how far it is; None: shown on standard error where it takes long.

    Raises:
        ConfigError: no run there, a run without a finished export, a missing or damaged file, a
            newer format; or a device that can't be used.
        StorageError: its storage is away.
    """
    place = os.fspath(run)
    if device is not None and device_map is not None:
        raise ConfigError("give either device or device_map: the map says where everything goes")
    wanted = _dtype(dtype)
    export = pair_at(place, revision, token)
    if progress is None:
        with TaskProgress(Console(stderr=True, force_jupyter=False)) as progress:
            progress("loading the pair")
            model = load_tandem_model(export, progress)
    else:
        model = load_tandem_model(export, progress)
    if hub_name(place) is None:
        model.origin = origin_of(place) or model.origin
    if wanted is not None:
        model.to(wanted)
    if device_map is not None:
        spread(model.data_layer.model, device_map, offload_folder)
        device = main_device(model.data_layer.model)
        model.memory_layer.to(device)
        model.memory_port.to(device)
    elif device is not None:
        try:
            model.to(device)
        except (RuntimeError, AssertionError) as err:
            raise ConfigError(f"device {device!r} can't be used: {first_line(err)}") from err
    return model


def pair_at(run: str, revision: str | None = None, token: str | None = None) -> str:
    """The export that a run's directory, a folder or a name of the hub stands for.

    Raises:
        ConfigError, StorageError: as `load`.
    """
    named = hub_name(run)
    return find_export(run) if named is None else fetch(named, revision, token)


def _dtype(given: str | torch.dtype | None) -> torch.dtype | None:
    name = str(given).removeprefix("torch.")
    if given is not None and name not in DTYPES:
        raise ConfigError(f"dtype {given!r}: expected one of {', '.join(DTYPES)}")
    return None if given is None else getattr(torch, name)
