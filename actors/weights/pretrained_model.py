"""Loads Hugging Face causal LMs named by `data.layer.pretrained`: a folder, a run, or a hub name.

Reads safetensors only, never runs code from a checkpoint, and requests nothing from the hub that is
already in the local cache. Faults become ConfigErrors that say what to do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from actors.formats import first_line, listed
from actors.layers.causal_lm import (
    check_decoder,
    check_fields,
    front_config,
    learn_every_row,
    model_of,
    quietly,
    tell_ties,
)
from actors.machine.progress import Progress, bars_as
from actors.operators.packed_attention import kernels, why_not_packed
from actors.settings.layers import DataLayerSpec
from actors.tokenizers.pretrained_tokenizer import looks_local
from actors.weights.adapter_files import adapter_beside, with_adapter
from actors.weights.export_files import ADAPTER, DATA_LAYER, export_at, local_copy
from actors.weights.weight_files import LISTED, headers, refuse_other_than_checkpoint
from actors.wire import ConfigError

EXPERT = re.compile(r"\bexperts\.\d+\.")
NO_CODE = {"trust_remote_code": False}  # if unset, transformers prompts at a terminal


@contextmanager
def pretrained_path(spec: DataLayerSpec) -> Iterator[str]:
    """The argument of `from_pretrained` for `spec.pretrained`: a local folder, or a hub name.

    Raises:
        ConfigError: it does not exist, or is no checkpoint with safetensors: an adapter, a GGUF
            file, pickle, no weights, files missing or truncated.
    """
    location = spec.pretrained
    assert location is not None
    export = export_at(location)
    if export is not None:
        with local_copy(export, (DATA_LAYER, ADAPTER)) as root:
            refuse_other_than_checkpoint(root / DATA_LAYER, location)
            headers(root / DATA_LAYER, location)
            yield str(root / DATA_LAYER)
        return
    remote = "://" in location
    if not remote and not Path(location).exists():
        if looks_local(location):
            raise ConfigError(
                f"data.layer.pretrained: no folder {location}; relative paths are relative to the "
                "config file; give a checkpoint's folder, a run, or a hub name like owner/model"
            )
        yield location
        return
    if not remote:
        refuse_other_than_checkpoint(Path(location), location)
    with local_copy(location) as folder:
        refuse_other_than_checkpoint(folder, location)
        headers(folder, location)  # opens every weight file, so that truncated ones are found now
        yield str(folder)


def read_config(spec: DataLayerSpec, place: str) -> Any:
    """The config at `place`, with the fields of `spec`. Raises: ConfigError: it can't be used."""
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
    """Token -> id in the tokenizer.json at `place`, a folder or hub name; None: it has none."""
    from tokenizers import Tokenizer
    from transformers.utils import cached_file

    try:
        with quietly():
            path = _local_first(
                cached_file, place, "tokenizer.json", _raise_exceptions_for_missing_entries=False
            )
    except OSError:  # no network: loading the weights reports it
        return None
    if path is None:
        return None
    try:
        return dict(Tokenizer.from_file(str(path)).get_vocab())
    except Exception as err:  # the library raises nothing narrower
        raise ConfigError(f"{place}: its tokenizer.json can't be read: {err}") from err


def load_model(spec: DataLayerSpec, place: str) -> nn.Module:
    """The causal LM of `spec.pretrained`, in `spec.dtype` whatever the dtype of its files, with
    the adapter that an export has beside it.

    Args:
        spec: names the checkpoint and the fields of its config to change.
        place: from `pretrained_path`.

    Raises:
        ConfigError: no network for a hub name, not a causal LM, no safetensors, a truncated file,
            tensors missing from the files, tensors that the model does not have, or not finite.
    """
    from transformers import AutoModelForCausalLM

    dtype: torch.dtype = getattr(torch, spec.dtype)
    adapter = adapter_beside(place)
    loaded_as = dtype if adapter is None else torch.float32
    model, found = _load(AutoModelForCausalLM, place, read_config(spec, place), spec, loaded_as)
    model = _checked(spec, model, found)
    _refuse_no_numbers(spec, model)
    return model if adapter is None else with_adapter(model, adapter).to(dtype)


def _refuse_no_numbers(spec: DataLayerSpec, model: nn.Module) -> None:
    """Raises: ConfigError: a tensor holds NaN or infinity, which training would report as its own
    divergence.
    """
    for name, parameter in model.named_parameters():
        if parameter.numel() and not all(bool(x.isfinite()) for x in parameter.detach().aminmax()):
            raise ConfigError(
                f"data.layer.pretrained: {spec.pretrained}: {name} holds NaN or infinity; the "
                "checkpoint is damaged, or of a training that diverged: fetch it again, or take "
                "an earlier one"
            )


@contextmanager
def loading_seen(progress: Progress) -> Iterator[None]:
    """During the block `progress` sees how many tensors of a model transformers has loaded."""
    from transformers.utils import logging

    set_hook = getattr(logging, "set_tqdm_hook", None)
    if set_hook is None:  # an older transformers
        yield
        return
    bar = bars_as(progress, "the data layer")
    before = set_hook(lambda _factory, args, options: bar(*args, **options))
    try:
        yield
    finally:
        set_hook(before)


def load_front(spec: DataLayerSpec, place: str, num_layers: int) -> nn.Module:
    """Embedding and first decoder layers of `spec.pretrained`, without the head.

    Raises:
        ConfigError: as `load_model`; more layers than the model has.
    """
    from transformers import AutoModel

    config = front_config(read_config(spec, place), num_layers)
    model, found = _load(AutoModel, place, config, spec)
    _refuse_incomplete(spec, model, found)  # unexpected tensors are the rest of the model
    return model


def outline(spec: DataLayerSpec, place: str) -> nn.Module:
    """The causal LM of `spec.pretrained` without weights; its tensors take no memory.

    For local files, their tensors are compared with the model's, as in `load_model`. For a hub name
    only the config is read; also for models with experts, whose tensors are merged on loading.

    Raises:
        ConfigError: as `load_model`, as far as headers and config show it.
    """
    config = read_config(spec, place)
    if Path(place).is_dir():
        tensors = stand_ins(Path(place), str(spec.pretrained))
        if not any(EXPERT.search(name) for name in tensors):
            return _made(spec, place, config, tensors)
    with torch.device("meta"):
        return model_of(config, spec.attention)


def stand_ins(place: Path, location: str) -> dict[str, Tensor]:
    """For each tensor of the weight files, one of its shape whose elements are all the mean of one
    of its rows: it takes no memory, and different tensors have different stand-ins.

    Raises:
        ConfigError: as `headers`.
    """
    found: dict[str, Tensor] = {}
    for file, names in headers(place, location).items():
        with safe_open(file, "pt") as opened:
            for name in names:
                part = opened.get_slice(name)
                shape = part.get_shape()
                row = part[shape[0] // 2] if shape and shape[0] else torch.zeros(1)
                value = row.float().mean() if row.numel() else torch.zeros(())
                found[name] = value.reshape([1] * len(shape)).expand(shape)
    return found


def _made(spec: DataLayerSpec, place: str, config: Any, tensors: dict[str, Tensor]) -> nn.Module:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    model, found = _explained(
        spec,
        lambda: kind.from_pretrained(None, config=config, state_dict=tensors, **_options(spec)),
    )
    return _checked(spec, model, found)


def _load(
    auto: Any,
    place: str,
    config: Any,
    spec: DataLayerSpec,
    dtype: torch.dtype = torch.float32,
) -> tuple[nn.Module, Any]:
    model, found = _explained(
        spec,
        lambda: _local_first(
            auto.from_pretrained,
            place,
            config=config,
            use_safetensors=True,
            **_options(spec) | {"dtype": dtype},
            **NO_CODE,
        ),
    )
    learn_every_row(model)
    return model, found


def _options(spec: DataLayerSpec) -> dict[str, Any]:
    return {
        "dtype": torch.float32,
        "attn_implementation": kernels(spec.attention),
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # reported by us, with both shapes
    }


def _refuse_incomplete(spec: DataLayerSpec, model: nn.Module, found: Mapping[str, Any]) -> None:
    """Raises: ConfigError: a tensor is missing from the files, or has another shape."""
    where, kind = f"data.layer.pretrained: {spec.pretrained}", type(model).__name__
    if wrong := sorted(found["mismatched_keys"]):
        name, there, needed = wrong[0]
        raise ConfigError(
            f"{where}: {len(wrong)} tensors have another shape than {kind} needs by its "
            f"config.json, e.g. {name}: expected {list(needed)}, got {list(there)}; the config "
            "belongs to another checkpoint"
        )
    if missing := sorted(found["missing_keys"]):
        raise ConfigError(
            f"{where} lacks {len(missing)} of the tensors that {kind} needs, e.g. {missing[0]}; "
            "the checkpoint is incomplete or of another model type than its config.json says"
        )
    if wrong := sorted(map(str, found["error_msgs"])):
        raise ConfigError(f"{where}: not all of its tensors can be loaded: {wrong[0]}")


def _checked(spec: DataLayerSpec, model: nn.Module, found: Mapping[str, Any]) -> nn.Module:
    """The model, if its tensors are those of the files; ties in its config are corrected.

    Raises:
        ConfigError: tensors are missing, of another shape, or (unless `spec` allows it) unexpected.
    """
    unexpected = sorted(found["unexpected_keys"])
    if unexpected and not spec.allow_unexpected:
        raise ConfigError(
            f"data.layer.pretrained: {spec.pretrained} holds {len(unexpected)} tensors that "
            f"{type(model).__name__} by its config.json does not have: "
            f"{listed(unexpected, LISTED)}; without them it is another model. "
            "Correct config.json (layers, biases, model type), merge an adapter into its "
            "model, or, if they are not needed, set data.layer.allow_unexpected: true"
        )
    _refuse_incomplete(spec, model, found)
    tell_ties(model)
    return model


def _local_first(load: Callable[..., Any], place: str, *args: Any, **kwargs: Any) -> Any:
    """Loads from the local cache if possible, so that all processes get the same files."""
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
    """Calls `load` quietly; turns its errors into ConfigErrors."""
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
        what = (
            "fetch it again, or give a folder that save_pretrained wrote"
            if Path(str(spec.pretrained)).exists()
            else "check the name and the network, or fetch the model on a machine that has one and "
            "give the folder"
        )
        raise ConfigError(f"{where}: can't be loaded: {first_line(err)}; {what}") from err
    except (
        StrictDataclassError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        RuntimeError,
        ImportError,
    ) as err:
        if (why := why_not_packed(err)) is not None:
            raise ConfigError(f"{where}: {why}") from err
        raise ConfigError(
            f"{where}: not a causal LM that transformers can load without code of its own: "
            f"{first_line(err)}"
        ) from err
