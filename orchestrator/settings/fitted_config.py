"""Writes values into a run's config where it leaves settings unset beside a pretrained data layer.

Reads the config.json of `data.layer.pretrained`: of a folder, a URL, an earlier run or its export,
or a model on the Hugging Face hub. Which values, `actors.settings.fitted` says. A folder that has
none is left to the checks of a run's start, whose messages say more.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actors.settings.fitted import FITTED, ModelSize, fitted_values
from actors.storage import locate, storage_errors
from actors.tokenizers.pretrained_tokenizer import looks_local
from actors.wire import ConfigError
from orchestrator.settings.file_names import EXPORT, EXPORT_MARKER

MODEL_CONFIG = "config.json"
DATA_LAYER, PORT = "data_layer", "memory_port/port.json"  # of an export
INTERVALS = 40  # where the config leaves them unset, as the field does


def fit_config(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a config's nested values with those of `FITTED` that were unset, or null.

    Raises:
        ConfigError: the config.json of a model on the hub can't be fetched.
    """
    values = copy.deepcopy(dict(raw))
    unset = [key for key in FITTED if _unset(values, key)]
    layer = _section(values, "data", "layer")
    location = layer.get("pretrained")
    if not unset or not isinstance(location, str):
        return values
    found = model_at(location)
    if found is None:
        return values
    size, port = found
    on_gpu = {group: _has_gpu(values, group) for group in ("data", "memory")}
    intervals = values.get("intervals", INTERVALS)
    chosen = fitted_values(
        layer.get("train", "all"),
        size,
        on_gpu,
        intervals if isinstance(intervals, int) else INTERVALS,
    )
    if not layer.get("fresh_port"):
        chosen |= port
    for key in unset:
        if key in chosen:
            _set(values, key, chosen[key])
    return values


def model_at(location: str) -> tuple[ModelSize, dict[str, Any]] | None:
    """The size of the model at a location, and what the port of a run that is there fixes; None:
    there is no config.json that says it.

    Raises:
        ConfigError: it is on the hub and can't be fetched.
    """
    is_hub = "://" not in location and not Path(location).exists() and not looks_local(location)
    if is_hub:
        text = _from_hub(location)
        return _sized(text, {})
    for place in (location.rstrip("/"), f"{location.rstrip('/')}/{EXPORT}"):
        if _read(f"{place}/{EXPORT_MARKER}") is not None:
            port = json.loads(_read(f"{place}/{PORT}") or "{}")
            return _sized(_read(f"{place}/{DATA_LAYER}/{MODEL_CONFIG}"), _fixed_by(port))
    return _sized(_read(f"{location.rstrip('/')}/{MODEL_CONFIG}"), {})


def _sized(text: str | None, port: dict[str, Any]) -> tuple[ModelSize, dict[str, Any]] | None:
    try:
        described = json.loads(text or "null")
    except ValueError:
        return None
    size = ModelSize.of(described) if isinstance(described, dict) else None
    return None if size is None else (size, port)


def _fixed_by(port: Mapping[str, Any]) -> dict[str, Any]:
    """What an earlier run's port needs of this one, or it can't be loaded."""
    if not {"read_layers", "memory_dim"} <= port.keys():
        return {}
    return {
        "data.layer.read_layers": tuple(port["read_layers"]),
        "memory.layer.dim": port["memory_dim"],
    }


def _read(url: str) -> str | None:
    """The text of a file; None: there is no such file, or it can't be read."""
    try:
        with storage_errors(url, "can't be read"):
            fs, path = locate(url)
            return str(fs.cat_file(path).decode()) if fs.isfile(path) else None
    except (OSError, ValueError, ImportError):
        return None


def _from_hub(name: str) -> str:
    """The config.json of a model on the hub, out of its local cache where it is in it."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        try:
            path = hf_hub_download(name, MODEL_CONFIG, local_files_only=True)
        except LocalEntryNotFoundError:
            path = hf_hub_download(name, MODEL_CONFIG)
        return Path(path).read_text(encoding="utf-8")
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as err:
        raise ConfigError(
            f"data.layer.pretrained {name}: no such folder, and as a name on the Hugging Face hub "
            f"its {MODEL_CONFIG} can't be fetched ({type(err).__name__}), from which the settings "
            "follow that are left unset; check the name and the network, or fetch the model on a "
            "machine that has one and give the folder"
        ) from err


def _section(values: Any, *names: str) -> dict[str, Any]:
    for name in names:
        values = values.get(name) if isinstance(values, dict) else None
    return values if isinstance(values, dict) else {}


def _has_gpu(values: Mapping[str, Any], group: str) -> bool:
    gpus = _section(values, group, "workers").get("gpus", 0)
    return isinstance(gpus, int | float) and gpus > 0


def _unset(values: dict[str, Any], key: str) -> bool:
    """Whether a setting has no value; a null is taken out."""
    *parents, leaf = key.split(".")
    at: Any = values
    for parent in parents:
        if at.get(parent) is None:
            return True
        at = at[parent]
        if not isinstance(at, dict):
            return False  # a mistake of which validation says more
    if leaf in at and at[leaf] is None:
        del at[leaf]
    return leaf not in at


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, leaf = key.split(".")
    for parent in parents:
        if values.get(parent) is None:
            values[parent] = {}
        values = values[parent]
    values[leaf] = value
