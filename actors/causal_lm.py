"""Makes and loads Hugging Face causal LMs: fresh ones, checkpoints, and the first layers of one.

Every model comes out in float32, checked to be causal and to keep packed documents apart. Loads
safetensors only and never runs code from a checkpoint. Knows no memory. Called by `layers`,
`pair_files` and `estimate`; transformers is imported inside, 4 s that only trainers spend.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from actors.data_layer import output_matrix, packed_inputs
from actors.exports import DATA_LAYER, find_export, local_copy
from actors.layer_spec import DataLayerSpec
from actors.wire import ConfigError

LEAK = 1e-4  # of the largest logit: more than rounding, less than any dependence
PROBE_TOKENS = 8
NO_CODE = {"trust_remote_code": False}  # unset, transformers would ask at a terminal


def build_model(spec: DataLayerSpec, vocab_rows: int) -> nn.Module:
    """A causal LM with fresh weights from the global torch generator.

    Raises:
        ConfigError: an unknown model type or field, a value that does not fit, no causal LM.
    """
    from huggingface_hub.errors import StrictDataclassError

    try:
        config = fresh_config(spec, vocab_rows)
        return model_of(config, spec.attention)
    except ConfigError:
        raise
    except (
        StrictDataclassError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RuntimeError,
        ZeroDivisionError,
    ) as err:
        fields = {**spec.fields, "vocab_size": vocab_rows}
        chosen = ", ".join(f"{name}={value}" for name, value in fields.items())
        raise ConfigError(f"data.layer: {spec.model_type} with {chosen}: {err}") from err


def fresh_config(spec: DataLayerSpec, vocab_rows: int) -> Any:
    """The Hugging Face config of a fresh model. Raises: as `build_model`, and what it catches."""
    from transformers import AutoConfig

    known = _known_fields(AutoConfig.for_model(spec.model_type))
    _check_fields(spec, known, spec.model_type)
    chosen = {**spec.fields, "vocab_size": vocab_rows}
    for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
        chosen.setdefault(token, 0)
    config = AutoConfig.for_model(spec.model_type, **chosen)
    _check_decoder(config, f"data.layer.model_type {spec.model_type}")
    return config


def model_of(config: Any, attention: str = "auto") -> nn.Module:
    """A causal LM of that config with fresh weights."""
    from transformers import AutoModelForCausalLM

    model: nn.Module = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation=_kernels(attention)
    )
    return model


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


def front_config(config: Any, num_layers: int) -> Any:
    """The config of a model's first layers alone.

    Raises:
        ConfigError: more layers than the model has.
    """
    whole = int(config.num_hidden_layers)
    if num_layers > whole:
        raise ConfigError(
            f"memory.layer.copy_layers {num_layers}: the data layer has only {whole} decoder layers"
        )
    front = copy.deepcopy(config)
    for name, value in vars(config).items():  # layer_types and the like, one entry per layer
        if "layer" in name and isinstance(value, list) and len(value) == whole:
            setattr(front, name, value[:num_layers])
    front.num_hidden_layers = num_layers
    return front


def front_of(described: dict[str, Any]) -> nn.Module:
    """First layers of a model, by a config as `to_dict` gives it; weights are to be loaded."""
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(**described)
    model: nn.Module = AutoModel.from_config(config, dtype=torch.float32)
    return model


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
    _check_fields(spec, _known_fields(config), str(config.model_type))
    for name, value in spec.fields.items():
        setattr(config, name, value)
    _check_decoder(config, f"data.layer.pretrained: {spec.pretrained} ({config.model_type})")
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


@torch.no_grad()
def check_model(model: nn.Module, name: str) -> None:
    """Runs eight tokens of two documents through the model.

    Raises:
        ConfigError: a position sees a later one (an encoder), or a document sees the one before it
            (a recurrent model, or one with a mask or positions of its own): every loss would be
            measured on text that had been seen.
    """
    training = model.training
    model.eval()
    rows = output_matrix(model).shape[0]
    ids_BT = torch.arange(PROBE_TOKENS)[None] % rows
    changed_BT = ids_BT.clone()
    changed_BT[0, -1] = (PROBE_TOKENS + 1) % rows
    half = PROBE_TOKENS // 2
    segments_BT = torch.arange(PROBE_TOKENS)[None] // half

    def logits(tokens_BT: Tensor, segments_BT: Tensor) -> Tensor:
        inputs = packed_inputs(segments_BT)
        out: Tensor = model(input_ids=tokens_BT, **inputs, use_cache=False).logits
        return out

    try:
        packed = logits(ids_BT, segments_BT)
        later = logits(changed_BT, segments_BT)
        alone = logits(ids_BT[:, half:], segments_BT[:, half:] - 1)
    except (TypeError, ValueError, RuntimeError, LookupError, AttributeError) as err:
        raise ConfigError(
            f"{name}: the model can't take windows of packed documents ({err}); use a family whose "
            "attention takes a mask, such as llama, qwen3 or gpt2"
        ) from err
    finally:
        model.train(training)
    if _differ(packed[:, :-1], later[:, :-1]):
        raise ConfigError(
            f"{name}: a position's logits depend on later tokens, so this is no causal LM; use a "
            "decoder model"
        )
    if _differ(packed[:, half:], alone):
        raise ConfigError(
            f"{name}: a document's logits depend on the document before it in a packed window; "
            "use a family whose attention takes a mask, such as llama, qwen3 or gpt2"
        )


def _differ(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() > LEAK * one.abs().max())


def _load(auto: Any, place: str, config: Any, spec: DataLayerSpec) -> nn.Module:
    model, found = _explained(
        spec,
        lambda: _local_first(
            auto.from_pretrained,
            place,
            config=config,
            dtype=torch.float32,
            attn_implementation=_kernels(spec.attention),
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


@contextmanager
def quietly() -> Iterator[None]:
    """Transformers without progress bars and without its table of the tensors that a front leaves out."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _kernels(attention: str) -> str | None:
    return None if attention == "auto" else attention


def _is_path(location: str) -> bool:
    return location.startswith((".", "/", "~")) or location.count("/") > 1


def _check_decoder(config: Any, name: str) -> None:
    """Raises: ConfigError for encoders and encoder-decoders, before their weights are read."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    kind = config.model_type
    encoder = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
    if (
        kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        or encoder
        or getattr(config, "is_encoder_decoder", False)
    ):
        raise ConfigError(
            f"{name}: not a causal LM but an encoder or another kind of model; expected a decoder "
            "that predicts the next token, such as llama, qwen3 or gpt2"
        )


def _check_fields(spec: DataLayerSpec, known: set[str], model_type: str) -> None:
    if unknown := sorted(set(spec.fields) - known):
        near = difflib.get_close_matches(unknown[0], known, n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"data.layer.fields: {model_type} has no field {unknown[0]}; did you mean {near}?"
        )


def _known_fields(config: Any) -> set[str]:
    """Names that a model's config knows, aliases included; Hugging Face takes any other too."""
    return {*config.to_dict(), *vars(config), *getattr(config, "attribute_map", {})}
