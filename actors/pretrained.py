"""Loads Hugging Face causal LMs from where `data.layer.pretrained` says: a folder, a run, the hub.

Reads safetensors only, never runs code from a checkpoint, and asks the hub for nothing that is
already here. What goes wrong comes out as a ConfigError that says what to do. Called by `layers`,
`starting`, `pair_files` and `estimate`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from actors.causal_lm import (
    check_decoder,
    check_fields,
    front_config,
    kernels,
    learn_every_row,
    quietly,
)
from actors.exports import DATA_LAYER, find_export, local_copy
from actors.layer_spec import DataLayerSpec
from actors.wire import ConfigError

NO_CODE = {"trust_remote_code": False}  # unset, transformers would ask at a terminal


@contextmanager
def checkpoint(spec: DataLayerSpec) -> Iterator[str]:
    """What `from_pretrained` takes for `spec.pretrained`: a local folder, or a hub name.

    Raises:
        ConfigError: a place without config.json, or one that does not exist.
    """
    location = spec.pretrained
    assert location is not None
    export = find_export(location)
    if export is not None:
        location = f"{export}/{DATA_LAYER}"
    remote = "://" in location
    if not remote and not Path(location).exists():
        if _is_path(location):
            raise ConfigError(
                f"data.layer.pretrained: no folder {location}; relative paths are relative to the "
                "config file; give a checkpoint's folder, a run, or a hub name like owner/model"
            )
        yield location
        return
    with local_copy(location) as folder:
        if not (folder / "config.json").is_file():
            raise ConfigError(
                f"data.layer.pretrained: {location} has no config.json; expected a folder as "
                "save_pretrained writes it, or a run with an export"
            )
        if not any(folder.glob("*.safetensors")) and any(folder.glob("*.bin")):
            raise ConfigError(
                f"data.layer.pretrained: {location} holds its weights as pickle only, which can "
                "run code when loaded and is refused; convert it: load it with transformers where "
                "you trust it and call save_pretrained, which writes safetensors"
            )
        yield str(folder)


def read_config(spec: DataLayerSpec, place: str) -> Any:
    """The config at `place`, with the dropout of `spec.fields`. Raises: ConfigError as above."""
    from transformers import AutoConfig

    config = _explained(spec, lambda: _local_first(AutoConfig.from_pretrained, place, **NO_CODE))
    if getattr(config, "quantization_config", None) is not None:
        raise ConfigError(
            f"data.layer.pretrained: {spec.pretrained} is quantized and can't be trained; give the "
            "model it was made from"
        )
    check_fields(spec, config)
    for name, value in spec.fields.items():
        setattr(config, name, value)
    check_decoder(config, f"data.layer.pretrained: {spec.pretrained} ({config.model_type})")
    return config


def vocabulary_at(place: str) -> dict[str, int] | None:
    """Token -> id by the tokenizer.json at `place`, a folder or a hub name; None: it has none."""
    from tokenizers import Tokenizer
    from transformers.utils import cached_file

    try:
        with quietly():
            path = _local_first(
                cached_file, place, "tokenizer.json", _raise_exceptions_for_missing_entries=False
            )
    except OSError:  # no network; what matters more will say so
        return None
    if path is None:
        return None
    try:
        return dict(Tokenizer.from_file(str(path)).get_vocab())
    except Exception as err:  # the library raises nothing narrower
        raise ConfigError(f"{place}: its tokenizer.json can't be read: {err}") from err


def load_model(spec: DataLayerSpec, place: str) -> nn.Module:
    """The causal LM of `spec.pretrained`, in float32 whatever its files are.

    Args:
        spec: names the checkpoint, and what may be changed of its config.
        place: where `checkpoint` found it.

    Raises:
        ConfigError: no network for a hub name, not a causal LM, no safetensors, a truncated file,
            or tensors that the model needs and the files lack.
    """
    from transformers import AutoModelForCausalLM

    return _load(AutoModelForCausalLM, place, read_config(spec, place), spec)


def load_front(spec: DataLayerSpec, place: str, num_layers: int) -> nn.Module:
    """Embedding and first decoder layers of `spec.pretrained`, without its head.

    Raises:
        ConfigError: as `load_model`; more layers than the model has.
    """
    from transformers import AutoModel

    config = front_config(read_config(spec, place), num_layers)
    return _load(AutoModel, place, config, spec)


def _load(auto: Any, place: str, config: Any, spec: DataLayerSpec) -> nn.Module:
    model, found = _explained(
        spec,
        lambda: _local_first(
            auto.from_pretrained,
            place,
            config=config,
            dtype=torch.float32,
            attn_implementation=kernels(spec.attention),
            use_safetensors=True,
            output_loading_info=True,
            **NO_CODE,
        ),
    )
    if missing := sorted(found["missing_keys"]):
        raise ConfigError(
            f"data.layer.pretrained: {spec.pretrained} lacks {len(missing)} of the tensors that "
            f"{type(model).__name__} needs, e.g. {missing[0]}; the checkpoint is incomplete or of "
            "another model type than its config.json says"
        )
    learn_every_row(model)
    loaded: nn.Module = model
    return loaded


def _local_first(load: Callable[..., Any], place: str, *args: Any, **kwargs: Any) -> Any:
    """Loads without asking the hub for what is already here; every process gets the same then."""
    try:
        found = load(place, *args, **kwargs, local_files_only=True)
    except OSError:
        if Path(place).exists():
            raise
        found = None
    if found is None and not Path(place).exists():
        found = load(place, *args, **kwargs)
    return found


def _explained(spec: DataLayerSpec, load: Callable[[], Any]) -> Any:
    """What `load` returns, quietly; what it raises as a ConfigError."""
    from huggingface_hub.errors import StrictDataclassError

    where = f"data.layer.pretrained: {spec.pretrained}"
    try:
        with quietly():
            return load()
    except SafetensorError as err:
        raise ConfigError(
            f"{where}: a safetensors file is truncated or altered ({err}); fetch it again"
        ) from err
    except OSError as err:
        first = str(err).splitlines()[0] if str(err) else type(err).__name__
        what = (
            "fetch it again, or give a folder that save_pretrained wrote"
            if Path(str(spec.pretrained)).exists()
            else "check the name and the network, or fetch the model on a machine that has one and "
            "give the folder"
        )
        raise ConfigError(f"{where}: can't be loaded: {first}; {what}") from err
    except (
        StrictDataclassError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        RuntimeError,
        ImportError,
    ) as err:
        first = str(err).splitlines()[0] if str(err) else type(err).__name__
        raise ConfigError(
            f"{where}: not a causal LM that transformers can load without code of its own: {first}"
        ) from err


def _is_path(location: str) -> bool:
    return location.startswith((".", "/", "~")) or location.count("/") > 1
