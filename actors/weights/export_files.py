"""An export as it lies on disk: where a run has it, and what its parts say of themselves.

    DIR/tokenizer.json                                                   the run's own
    DIR/data_layer/    config.json, model.safetensors, tokenizer.json …  loads with
                       AutoModelForCausalLM
    DIR/memory_port/   port.json, port.safetensors                       what that would drop
    DIR/memory_layer/  memory.json, memory.safetensors

Reads, and never writes: `pair_files` writes. Called by `pair_files` (a pair to use), `layers` and
`causal_lm` (a run that starts from an earlier one).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from fsspec.implementations.local import LocalFileSystem
from torch import Tensor, nn

from actors.machine.host_memory import ByteArray, checksum
from actors.settings.layers import MemoryLayerSpec
from actors.storage import locate, storage_errors
from actors.wire import ConfigError, TandemError

MARKER = "export.json"
FOLDER = "export"  # of a run directory
TOKENIZER = "tokenizer.json"
DATA_LAYER, MEMORY_PORT, MEMORY_LAYER = "data_layer", "memory_port", "memory_layer"


def export_at(location: str) -> str | None:
    """The finished export at `location`, an export or a run's directory; None: there is none.

    Raises:
        ConfigError: a run without an export, since it has not ended, or a place that can't be read.
        StorageError: its storage is away.
    """
    place = location.rstrip("/") or "/"
    try:
        with storage_errors(location, "can't be looked into"):
            fs, path = locate(place)
            if fs.exists(f"{path}/{MARKER}"):
                return place
            if fs.exists(f"{path}/{FOLDER}/{MARKER}"):
                return f"{place}/{FOLDER}"
            unfinished = fs.exists(f"{path}/config.yaml") and not fs.exists(f"{path}/config.json")
    except (OSError, ValueError, ImportError) as err:
        raise ConfigError(f"{location}: can't be looked into: {err}") from err
    if unfinished:
        raise ConfigError(
            f"{location}: a run's directory, but without {FOLDER}/{MARKER}: that run has written "
            "no export; let it end, or give another run"
        )
    return None


@contextmanager
def local_copy(directory: str) -> Iterator[Path]:
    """The directory as a local folder: itself, or for other file systems a temporary copy.

    Raises:
        ConfigError: a file that can't be read.
        StorageError: its storage is away.
    """
    fs, source = locate(directory)
    if isinstance(fs, LocalFileSystem):
        yield Path(source)
        return
    with tempfile.TemporaryDirectory(prefix="tandem-load-") as temporary:
        with export_errors(directory), storage_errors(directory, "can't be read"):
            for path in fs.find(source):
                local = Path(temporary) / str(path)[len(source) :].lstrip("/")
                local.parent.mkdir(parents=True, exist_ok=True)
                fs.get_file(path, str(local))
        yield Path(temporary)


@contextmanager
def export_errors(directory: str) -> Iterator[None]:
    """Turns what reading a damaged export raises into a ConfigError that names it.

    An error of ours from inside has its own words and passes.
    """
    try:
        yield
    except TandemError:
        raise
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as err:
        raise ConfigError(f"{directory}: the export can't be loaded: {err}") from err
    except safetensors.SafetensorError as err:
        raise ConfigError(
            f"{directory}: the export can't be loaded, a file is truncated or altered: {err}"
        ) from err


@dataclass(frozen=True)
class PortDescription:
    """Where an exported port reads, and how wide a read is."""

    read_layers: tuple[int, ...]
    memory_dim: int


@dataclass(frozen=True)
class MemoryDescription:
    """What an exported memory layer is."""

    spec: MemoryLayerSpec
    vocab_rows: int
    num_tokens: int
    copied: dict[str, Any] | None  # config of the frozen copy, where the encoder is one


def describe_port(root: Path) -> PortDescription:
    """What the port under `root` is. Raises as `explained` catches."""
    port = _read_json(root / MEMORY_PORT / "port.json")
    return PortDescription(tuple(port["read_layers"]), int(port["memory_dim"]))


def describe_memory(root: Path) -> MemoryDescription:
    """What the memory layer under `root` is. Raises as `explained` catches."""
    memory = _read_json(root / MEMORY_LAYER / "memory.json")
    spec = MemoryLayerSpec(**memory["layer"])
    return MemoryDescription(spec, memory["vocab_rows"], memory["num_tokens"], memory.get("copied"))


def port_tensors(root: Path) -> dict[str, Tensor]:
    """The port's tensors by name. Raises as `explained` catches."""
    return safetensors.torch.load_file(str(root / MEMORY_PORT / "port.safetensors"))


def memory_tensors(root: Path) -> dict[str, Tensor]:
    """The memory layer's tensors by name. Raises as `explained` catches."""
    return safetensors.torch.load_file(str(root / MEMORY_LAYER / "memory.safetensors"))


def checksums(module: nn.Module) -> dict[str, str]:
    """A checksum of the bytes of each of the module's tensors, by name."""
    return {
        name: f"{checksum(_bytes(tensor)):016x}"
        for name, tensor in module.state_dict().items()
        if tensor.numel()
    }


def _bytes(tensor: Tensor) -> ByteArray:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def check_tensors(root: Path, part: str, module: nn.Module, directory: str) -> None:
    """Holds what was loaded of one part of the export under `root` against what was exported.

    Args:
        root: the export's local copy.
        part: DATA_LAYER, MEMORY_PORT or MEMORY_LAYER.
        module: what was loaded of it.
        directory: how the export is called in messages.

    Raises:
        ConfigError: the tensors that differ. Exports of earlier versions hold no checksums; what
            they say nothing of passes.
    """
    marker = _read_json(root / MARKER)
    exported: Mapping[str, str] = marker.get("checksums", {}).get(part, {})
    differing = [n for n, c in checksums(module).items() if exported.get(n, c) != c]
    if differing:
        raise ConfigError(
            f"{directory}: {len(differing)} tensors of {part} are not those that the run exported, "
            f"e.g. {differing[0]}: the files were changed since, or another version of "
            "transformers reads them otherwise; export again, or, where the change is meant, give "
            f"the folder {directory}/{DATA_LAYER} as a checkpoint"
        )


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))
