"""Writes a pair of layers in standard formats, and reads it back. No pickle on either side.

`export_files` has the layout. `DIR` may be any fsspec URL: files are written to a local folder
first, then copied, the marker `export.json` last. What the memory was told goes beside it, apart
from what was trained: `writes_store`.
"""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from actors.layers.causal_lm import model_of, quietly, tell_ties
from actors.layers.copy_encoder import CopyEncoder
from actors.layers.data_layer import DataLayer
from actors.layers.pair import Pair
from actors.machine.progress import Progress, unseen
from actors.operators.precision import cast_weights
from actors.settings.layers import PORT, DataLayerSpec
from actors.settings.run import RunSpec
from actors.storage import locate, remove, storage_errors, writable
from actors.tokenizers.tokenizer import Tokenizer
from actors.weights.adapter_files import adapter_beside, with_adapter, write_adapter
from actors.weights.base_identity import base_digest, check_kept, local_folder
from actors.weights.export_files import (
    ADAPTER,
    BASE,
    DATA_LAYER,
    DTYPE,
    FORMATS,
    MARKER,
    MEMORY_LAYER,
    MEMORY_PORT,
    TOKENIZER,
    WRITES,
    check_tensors,
    checksums,
    data_layer_dtype,
    describe_kept,
    describe_memory,
    describe_port,
    export_errors,
    local_copy,
    port_tensors,
    read_kept,
    read_marker,
    read_tokenizer,
    refuse_other_format,
    write_kept,
)
from actors.weights.pretrained_model import load_model, loading_seen, pretrained_path
from actors.weights.starting_weights import memory_at
from actors.weights.weight_files import CONFIG, INDEX, weight_files
from actors.weights.writes_store import WritesStore
from actors.wire import ConfigError, ExportError

FORMAT, PART_FORMAT = max(FORMATS), 1
GENERATION = "generation_config.json"


def export_pair(spec: RunSpec, tokenizer: Tokenizer, pair: Pair, directory: str) -> None:
    """Writes both layers and the port under `directory`.

    Raises:
        StorageError: its storage is away or full.
    """
    with export_folder(spec, tokenizer, pair) as root:
        copy_export(root, directory)


@contextmanager
def export_folder(spec: RunSpec, tokenizer: Tokenizer, pair: Pair) -> Iterator[Path]:
    """The complete export in a temporary local folder, which exists during the block."""
    assert tuple(spec.data.layer.read_layers) == tuple(pair.data.spec.read_layers)
    with pair_folder(tokenizer, pair) as root:
        yield root


@contextmanager
def pair_folder(tokenizer: Tokenizer, pair: Pair) -> Iterator[Path]:
    """As `export_folder`, of a pair from wherever: all that the export says is in it."""
    with tempfile.TemporaryDirectory(prefix="tandem-export-") as temporary:
        root = Path(temporary)
        (root / TOKENIZER).write_text(tokenizer.to_json(), encoding="utf-8")
        kept = pair.data.spec.exports_what_came_in
        if kept:
            copy_checkpoint(pair.data.spec, root / DATA_LAYER, pair.data.base)
            if pair.data.spec.has_adapters:
                write_adapter(pair.data.model, root / ADAPTER)
        plain = exported_pair(pair)
        if not kept:
            _write_model(plain.data, root / DATA_LAYER)
        tokenizer.write(root / DATA_LAYER)
        memory = pair.memory
        port = {"read_layers": list(pair.data.spec.read_layers), "memory_dim": memory.spec.dim}
        _write_part(root / MEMORY_PORT, "port", pair.data.port, port)
        copied = memory.encoder.config if isinstance(memory.encoder, CopyEncoder) else None
        described = {
            "layer": memory.spec.model_copy(update={"start_from": None}).model_dump(mode="json"),
            "vocab_rows": memory.vocab_rows,
            "num_tokens": memory.num_tokens,
            "copied": copied,
        }
        _write_part(root / MEMORY_LAYER, "memory", memory, described)
        if memory.kept is not None:
            write_kept(root, memory.kept)
        marker = {
            "format": FORMAT,
            "num_tokens": tokenizer.size,
            DTYPE: str(plain.data.model.dtype).removeprefix("torch."),
            "checksums": {
                part: checksums(module)
                for part, module in exported_modules(plain).items()
                if part != DATA_LAYER or not kept
            },
        }
        if kept:
            digest = base_digest(str(root / DATA_LAYER), str(pair.data.spec.pretrained))
            marker[BASE] = digest
        (root / MARKER).write_text(json.dumps(marker, indent=1), encoding="utf-8")
        del plain  # a whole model, where adapters were added
        if len(memory.writes):
            with WritesStore(str(root)).changing("export") as change:
                change.keep(memory.writes)
        yield root


def exported_pair(pair: Pair) -> Pair:
    """The pair as its export has it: adapters are added to the weights of the files that came in,
    in float32; any other pair is returned as it is.

    Raises:
        ExportError: the files are no longer those that the run began with.
    """
    data = pair.data
    if not data.spec.has_adapters:
        return pair
    layer = data.spec.model_copy(update={"dtype": "float32"})
    with pretrained_path(layer) as place, tempfile.TemporaryDirectory() as temporary:
        refuse_changed_base(layer, place, data.base)
        write_adapter(data.model, folder := Path(temporary) / ADAPTER)
        model = with_adapter(load_model(layer, place), folder)
    spec = DataLayerSpec(read_layers=layer.read_layers)
    plain = DataLayer(model, spec, pair.memory.spec.dim, data.num_tokens)
    plain.port.load_state_dict(data.port.state_dict())
    plain.to(pair.memory.values.device)
    return Pair(plain.eval().requires_grad_(False), pair.memory)


def save_pair(
    tokenizer: Tokenizer,
    pair: Pair,
    directory: str,
    finish: Callable[[Path], None] = lambda root: None,
) -> None:
    """Writes a pair, with what it was told, as an export of its own.

    Args:
        tokenizer: the run's.
        pair: that is written.
        directory: that is not there yet.
        finish: adds to the complete export, in a local folder, before it is copied.

    Raises:
        ConfigError: there is something at `directory` already.
        StorageError: its storage is away or full.
    """
    with storage_errors(directory, "the pair can't be saved"):
        fs, target = locate(directory)
        is_taken = fs.exists(target)
    if is_taken:
        raise ConfigError(f"{directory} exists already; save to another folder, or remove it")
    with pair_folder(tokenizer, pair) as root:
        finish(root)
        copy_export(root, directory.rstrip("/"))


def exported_modules(pair: Pair) -> dict[str, nn.Module]:
    """The exported modules of a pair, by folder of the export."""
    return {DATA_LAYER: pair.data.model, MEMORY_PORT: pair.data.port, MEMORY_LAYER: pair.memory}


def copy_export(root: Path, directory: str) -> None:
    """Copies a complete export from a local folder to `directory`, the marker last.

    Raises:
        StorageError: its storage is away or full.
    """
    marker = root / MARKER
    with storage_errors(directory, "the export can't be written"):
        fs, target = writable(directory)
        with suppress(FileNotFoundError):  # told to the memory that was there before
            remove(fs, f"{target}/{WRITES}")
        for path in sorted(p for p in root.rglob("*") if p.is_file() and p != marker):
            fs.put_file(str(path), f"{target}/{path.relative_to(root).as_posix()}")
        fs.put_file(str(marker), f"{target}/{MARKER}")


def copy_checkpoint(layer: DataLayerSpec, folder: Path, base: str) -> None:
    """Copies config and weights of a model that kept its bits as they came in.

    Raises:
        ExportError: they are no longer those with digest `base`.
    """
    assert layer.pretrained is not None
    folder.mkdir(parents=True)
    with pretrained_path(layer) as place:
        source = local_folder(place)
        names = {CONFIG, INDEX, GENERATION} | {
            file.name for file in weight_files(source, layer.pretrained)
        }
        for name in sorted(name for name in names if (source / name).is_file()):
            shutil.copyfile(source / name, folder / name)
        if (adapter := adapter_beside(place)) is not None:
            shutil.copytree(adapter, folder.parent / ADAPTER)
    refuse_changed_base(layer, str(folder), base)


def refuse_changed_base(layer: DataLayerSpec, place: str, base: str) -> None:
    """Raises: ExportError: the weights at `place` are not those with digest `base`."""
    assert layer.pretrained is not None
    if (found := base_digest(place, layer.pretrained)) != base:
        raise ExportError(
            f"{layer.pretrained} was changed while the run went on: its weights had digest {base} "
            f"when the run began, and have {found} now. Nothing was exported; put the files back "
            "and resume the run"
        )


def _write_model(data: DataLayer, folder: Path) -> None:
    """Writes a plain model with these weights, without the port."""
    tell_ties(data.model)
    with torch.device("meta"):
        plain = model_of(copy.deepcopy(data.model.config))
    plain.load_state_dict(_tensors(data.model), assign=True)
    plain.tie_weights()
    generation = getattr(data.model, "generation_config", None)
    if generation is not None:
        plain.generation_config = copy.deepcopy(generation)
    with quietly():
        plain.save_pretrained(folder)


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """The module's tensors by name, each copied to memory of its own on the CPU."""
    return {
        name: tensor.detach().cpu().clone().contiguous()
        for name, tensor in module.state_dict().items()
    }


def _write_part(folder: Path, name: str, module: nn.Module, described: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    safetensors.torch.save_file(_tensors(module), str(folder / f"{name}.safetensors"))
    (folder / f"{name}.json").write_text(
        json.dumps({"format": PART_FORMAT, **described}, indent=2), encoding="utf-8"
    )


def load_pair(directory: str, progress: Progress = unseen) -> tuple[Pair, Tokenizer]:
    """The exported pair and its tokenizer, on the CPU, in eval mode; `progress` sees how many of
    the data layer's tensors are loaded.

    Raises:
        ConfigError: there is no finished export, or one of its files is missing or does not fit.
        StorageError: its storage is away.
    """
    with storage_errors(directory, "can't be read"):
        fs, source = locate(directory)
        is_finished = fs.exists(f"{source}/{MARKER}")
    if not is_finished:
        raise ConfigError(
            f"{directory}: no finished export there ({MARKER} is missing); give a run that has "
            "ended"
        )
    with local_copy(directory) as root, export_errors(directory):
        refuse_other_format(read_marker(root), directory)
        tokenizer = read_tokenizer(root)
        port, described = describe_port(root), describe_memory(root)
        kept = describe_kept(root)
        layer = DataLayerSpec(read_layers=port.read_layers)
        if kept is not None:
            check_kept(root, kept, directory)
            layer = DataLayerSpec(
                read_layers=port.read_layers,
                pretrained=directory,
                allow_unexpected=True,  # what the run began with, whatever that was
                train=PORT,
                dtype=kept.dtype,
            )
        with loading_seen(progress):
            model = _load_model(root / DATA_LAYER, directory, layer)
        progress("loading the memory")
        cast_weights(model, data_layer_dtype(root))
        data = DataLayer(model, layer, port.memory_dim, described.num_tokens)
        data.base = "" if kept is None else kept.base
        data.port.load_state_dict(port_tensors(root))
        memory = memory_at(root, described, described.spec)
        memory.kept = read_kept(root)
        for part, module in exported_modules(Pair(data, memory)).items():
            check_tensors(root, part, module, directory)
    memory.writes = WritesStore(directory).read().writes
    return Pair(data.eval().requires_grad_(False), memory.requires_grad_(False)), tokenizer


def _load_model(folder: Path, directory: str, layer: DataLayerSpec) -> nn.Module:
    spec = layer.model_copy(update={"pretrained": str(folder)})
    try:
        with pretrained_path(spec) as place:
            return load_model(spec, place)
    except ConfigError as err:
        raise ConfigError(f"{directory}: the export can't be loaded: {err}") from err
