"""What a run starts from: a checkpoint's tokenizer and positions, an earlier run's port and memory.

Checks that they fit the run, and says what to change if they don't.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from actors.layers.causal_lm import front_of
from actors.layers.copy_encoder import CopyEncoder
from actors.layers.memory_layer import MemoryLayer
from actors.settings.fitted import attention_reach
from actors.settings.layers import DataLayerSpec, MemoryLayerSpec
from actors.settings.run import RunSpec
from actors.tokenizers.tokenizer import Tokenizer
from actors.weights.base_identity import check_kept
from actors.weights.export_files import (
    ADAPTER,
    DATA_LAYER,
    MARKER,
    MEMORY_LAYER,
    MEMORY_PORT,
    TOKENIZER,
    MemoryDescription,
    check_tensors,
    describe_kept,
    describe_memory,
    describe_port,
    export_at,
    export_errors,
    local_copy,
    memory_tensors,
    port_tensors,
)
from actors.weights.pretrained_model import load_front, pretrained_path, vocabulary_at
from actors.wire import ConfigError

VOCABULARY = f"{DATA_LAYER}/{TOKENIZER}"  # of an export: all of it that token ids are read from
KNOWN_FRAC = 0.5  # of a run's tokens that the checkpoint's tokenizer must have; some were added


def check_positions(config: Any, window: int) -> None:
    """Raises: ConfigError: a window is longer than the model's positions or its attention.

    In all of these fields None, 0 and negative values mean that there is no limit.
    """
    config = config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and 0 < positions < window:
        raise ConfigError(
            f"corpus.window {window} is longer than the model's {positions} positions; "
            "lower it, or for fresh weights raise max_position_embeddings in data.layer.fields"
        )
    for kind, reach in attention_reach(lambda name: getattr(config, name, None)):
        if reach < window:
            raise ConfigError(
                f"corpus.window {window} is longer than the {reach} tokens that the model's {kind} "
                f"attention sees, which packed windows don't follow; lower it to {reach}"
            )


def check_tokens(spec: RunSpec, tokenizer: Tokenizer) -> None:
    """Checks, without building the layers, that starting weights were trained on this run's ids.

    Raises:
        ConfigError: as `check_vocabulary`.
    """
    layer, start_from = spec.data.layer, spec.memory.layer.start_from
    if layer.pretrained is not None:
        with pretrained_path(layer) as place:
            check_vocabulary(place, "data.layer.pretrained", layer.pretrained, tokenizer)
    if start_from is not None:
        with local_copy(require_export(start_from), (VOCABULARY,)) as root:
            place = str(root / DATA_LAYER)
            check_vocabulary(place, "memory.layer.start_from", start_from, tokenizer)


def check_vocabulary(place: str, field: str, location: str, tokenizer: Tokenizer) -> None:
    """Checks that weights were trained on this run's token ids.

    Args:
        place: a local folder or hub name with the weights and their tokenizer.
        field, location: the setting that named them, and its value.
        tokenizer: the run's.

    Raises:
        ConfigError: their tokenizer has another id for a token, or lacks most of the tokens.
    """
    theirs = vocabulary_at(place)
    if theirs is None:
        return
    ours = tokenizer.vocabulary()
    shared = [token for token in ours if token in theirs]
    moved = [token for token in shared if ours[token] != theirs[token]]
    if not moved and len(shared) >= KNOWN_FRAC * len(ours):
        return
    export = export_at(location)
    theirs_at = location if export is None else f"{export}/{DATA_LAYER}"
    name, advice = f"{field}: {location}", f"set tokenizer.pretrained: {theirs_at}"
    if moved:
        token = min(moved, key=lambda token: ours[token])
        raise ConfigError(
            f"{name}: its weights were trained with other token ids than this run's: {token!r} is "
            f"{theirs[token]} there and {ours[token]} here; {advice}"
        )
    raise ConfigError(
        f"{name}: its tokenizer has only {len(shared)} of this run's {len(ours)} tokens; {advice}"
    )


def check_model_of_run(model: nn.Module, layer: DataLayerSpec) -> None:
    """Compares the loaded model with the checksums in the export of an earlier run, if
    `layer.pretrained` names one.

    Raises:
        ConfigError: tensors differ.
    """
    assert layer.pretrained is not None
    export = export_at(layer.pretrained)
    if export is None:
        return
    with local_copy(export, (MARKER,)) as root, export_errors(export):
        kept = describe_kept(root)
        if kept is None:
            check_tensors(root, DATA_LAYER, model, export)
            return
    with local_copy(export, (MARKER, DATA_LAYER, ADAPTER)) as root, export_errors(export):
        check_kept(root, kept, export)


def start_port(port: nn.Module, layer: DataLayerSpec, memory_dim: int) -> None:
    """Loads the port of the earlier run that `layer.pretrained` names; other checkpoints have none.

    Raises:
        ConfigError: that port reads after other layers, or has another width.
    """
    assert layer.pretrained is not None
    export = export_at(layer.pretrained)
    if export is None:
        return
    with local_copy(export, (MARKER, MEMORY_PORT)) as root, export_errors(export):
        found = describe_port(root)
        wanted = tuple(sorted(layer.read_layers)), memory_dim
        if (tuple(sorted(found.read_layers)), found.memory_dim) != wanted:
            raise ConfigError(
                f"data.layer.pretrained: the memory port of {export} reads {found.memory_dim} wide "
                f"after layers {list(found.read_layers)}, this run {memory_dim} wide after layers "
                f"{list(layer.read_layers)}; set data.layer.read_layers and memory.layer.dim as "
                "there, or data.layer.fresh_port: true"
            )
        port.load_state_dict(port_tensors(root))
        check_tensors(root, MEMORY_PORT, port, export)


def make_encoder(spec: RunSpec, seed: Callable[[], None]) -> CopyEncoder | None:
    """The frozen copy that makes a fresh memory layer's addresses; None: convolutions or hashes do.

    Args:
        spec: the run.
        seed: called after loading, before the first weight is drawn.

    Raises:
        ConfigError: as `load_front`.
    """
    layer, data = spec.memory.layer, spec.data.layer
    if layer.encoder == "conv" or layer.hashes:
        seed()
        return None
    with pretrained_path(data) as place:
        front = load_front(data, place, layer.copy_layers)
    seed()
    return CopyEncoder(front, layer.dim)


def start_memory(layer: MemoryLayerSpec, tokenizer: Tokenizer, vocab_rows: int) -> MemoryLayer:
    """The memory layer of the run that `layer.start_from` names, with its weights.

    Raises:
        ConfigError: no such run, or its memory differs from this run's; names the fields.
    """
    location = layer.start_from
    assert location is not None
    export = require_export(location)
    parts = (MARKER, MEMORY_LAYER, VOCABULARY)
    with local_copy(export, parts) as root, export_errors(export):
        found = describe_memory(root)
        check_memory(layer, found, location)
        check_vocabulary(str(root / DATA_LAYER), "memory.layer.start_from", location, tokenizer)
        if (found.vocab_rows, found.num_tokens) != (vocab_rows, tokenizer.size):
            raise ConfigError(
                f"memory.layer.start_from: the memory of {location} predicts {found.num_tokens} "
                f"token ids over {found.vocab_rows} rows, this run's data layer {tokenizer.size} "
                f"over {vocab_rows}; set tokenizer.pretrained to {export}/{DATA_LAYER} and "
                f"data.layer.pretrained to {location}"
            )
        memory = memory_at(root, found, layer)
        check_tensors(root, MEMORY_LAYER, memory, export)
        return memory


def require_export(location: str) -> str:
    """The export that `memory.layer.start_from` names. Raises: ConfigError: there is none."""
    export = export_at(location)
    if export is None:
        raise ConfigError(
            f"memory.layer.start_from: neither a run nor an export at {location}; give the "
            "directory of a run that has ended; relative paths are relative to the config file"
        )
    return export


def check_memory(layer: MemoryLayerSpec, found: MemoryDescription, location: str) -> None:
    """Raises: ConfigError: fields of the exported memory differ from this run's; names each."""
    own, exported = layer.identity(), found.spec.identity()
    differing = [
        f"memory.layer.{name} is {own.get(name)} here and {exported.get(name)} there"
        for name in {**own, **exported}
        if own.get(name) != exported.get(name)
    ]
    if differing:
        raise ConfigError(
            f"memory.layer.start_from: the memory of {location} differs: "
            f"{'; '.join(differing)}; set these as there, or start with a fresh memory"
        )


def memory_at(root: Path, found: MemoryDescription, layer: MemoryLayerSpec) -> MemoryLayer:
    """The memory layer exported under `root`, with its weights; call it inside `export_errors`."""
    encoder = None if found.copied is None else CopyEncoder(front_of(found.copied), layer.dim)
    memory = MemoryLayer(layer, found.vocab_rows, found.num_tokens, encoder)
    memory.load_state_dict(memory_tensors(root))
    return memory
