"""The files of an export: where a run has it, and how its parts are described and loaded.

    DIR/tokenizer.json (in a shared folder: tandem_tokenizer.json)       the run's own
    DIR/data_layer/    config.json, model.safetensors, tokenizer.json …  loads with
                       AutoModelForCausalLM
    DIR/data_layer_adapter/  of peft, with `data.layer.lora.export: apart`
    DIR/memory_port/   port.json, port.safetensors                       what that would drop
    DIR/memory_layer/  memory.json, memory.safetensors
                       kept.safetensors    windows of what it trained on, for later writes
    DIR/memory_layer/writes/             what it was told since then: `writes_store`

Only reads; `pair_export` writes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
from fsspec.implementations.local import LocalFileSystem
from torch import Tensor, nn

from actors.corpus.windows import Windows
from actors.machine.host_memory import ByteArray, checksum
from actors.settings.layers import MemoryLayerSpec
from actors.storage import locate, no_file, storage_errors
from actors.tokenizers.tokenizer import Tokenizer
from actors.weights.remote_copies import shared_copy
from actors.wire import ConfigError, TandemError

MARKER = "export.json"
FOLDER = "export"  # of a run directory
TOKENIZER = "tokenizer.json"
SHARED_TOKENIZER = "tandem_tokenizer.json"  # where TOKENIZER is the data layer's, for transformers
FORMATS = (1, 2)  # of the marker, that can be read; 2 since the data layer has a type
DATA_LAYER, MEMORY_PORT, MEMORY_LAYER = "data_layer", "memory_port", "memory_layer"
ADAPTER = "data_layer_adapter"  # of peft, where adapters are apart from the model
BASE, DTYPE = "base", "dtype"  # of the marker: the model that came in, where it is; of the weights
KEPT = f"{MEMORY_LAYER}/kept.safetensors"
WRITES = f"{MEMORY_LAYER}/writes"
MEMORY_DESCRIPTION = f"{MEMORY_LAYER}/memory.json"


def export_at(location: str) -> str | None:
    """The finished export at `location`, an export or a run's directory; None: it is neither.

    Raises:
        ConfigError: a run without an export, since it has not ended; or it can't be read.
        StorageError: its storage is away.
    """
    url = location.rstrip("/") or "/"
    try:
        with storage_errors(location, "can't be read"):
            fs, path = locate(url)
            for place, found in ((path, url), (f"{path}/{FOLDER}", f"{url}/{FOLDER}")):
                if fs.exists(f"{place}/{MARKER}"):
                    with export_errors(found):
                        refuse_other_format(json.loads(fs.cat_file(f"{place}/{MARKER}")), found)
                    return found
            unfinished = fs.exists(f"{path}/config.yaml") and not fs.exists(f"{path}/config.json")
    except (OSError, ValueError, ImportError) as err:
        raise ConfigError(
            f"{location}: can't be read: {err}; give a run's directory or its {FOLDER} folder"
        ) from err
    if unfinished:
        raise ConfigError(
            f"{location}: a run's directory without {FOLDER}/{MARKER}: that run has written no "
            "export yet; let it end, or give another run"
        )
    return None


@contextmanager
def local_copy(directory: str, parts: Sequence[str] = ("",)) -> Iterator[Path]:
    """The directory as a local folder, to read: itself, or a copy from another file system, which
    the processes of this machine share and which has no named writes: they may change at any time.

    Args:
        directory: any fsspec URL.
        parts: files and folders in it that are copied; default: all. Those that don't exist are
            left out.

    Raises:
        ConfigError: a file can't be read, or is none but a pipe, a socket or a device.
        StorageError: its storage is away.
    """
    fs, source = locate(directory)
    if isinstance(fs, LocalFileSystem):
        for part in parts:
            top = Path(source, part)
            for path in (top, *sorted(top.glob("*")), *sorted(top.glob("*/*"))):
                if found := no_file(path):
                    raise ConfigError(f"{path} {found}")
        yield Path(source)
        return
    with ExitStack() as opened:
        with export_errors(directory), storage_errors(directory, "can't be read"):
            paths = [p for part in parts for p in fs.find(f"{source}/{part}".rstrip("/"))]
            names = [str(path)[len(source) :].lstrip("/") for path in paths]
            names = [name for name in names if not name.startswith(f"{WRITES}/")]
            copy = opened.enter_context(shared_copy(fs, source, names))
        yield copy


@contextmanager
def export_errors(directory: str) -> Iterator[None]:
    """Turns errors from a damaged export into a ConfigError that names it.

    Our own errors already have a message for users and pass.
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


def read_tokenizer(root: Path) -> Tokenizer:
    """The run's own tokenizer of the export under `root`; call it inside `export_errors`."""
    shared = root / SHARED_TOKENIZER
    path = shared if shared.is_file() else root / TOKENIZER
    return Tokenizer.from_json(path.read_text(encoding="utf-8"))


def read_marker(root: Path) -> dict[str, Any]:
    """The marker of the export under `root`; call it inside `export_errors`."""
    return _read_json(root / MARKER)


def refuse_other_format(marker: Mapping[str, Any], directory: str) -> None:
    """Raises: ConfigError: an export with that marker has a format that this version can't read."""
    found = marker.get("format")
    if isinstance(found, int) and found > max(FORMATS):
        raise ConfigError(
            f"{directory}: its {MARKER} has format {found}, written by a newer version of Tandem; "
            f"this one reads {min(FORMATS)} to {max(FORMATS)}; update Tandem (pip install -U "
            "tandem-memory), or save the pair again with an older one"
        )
    if found not in FORMATS:
        raise ConfigError(
            f"{directory}: its {MARKER} has format {found!r}, expected one of "
            f"{', '.join(map(str, FORMATS))}; the file was changed: fetch the folder again, or "
            "export again"
        )


def data_layer_dtype(root: Path) -> torch.dtype:
    """Type of the data layer's weights under `root`; call it inside `export_errors`."""
    found: torch.dtype = getattr(torch, _read_json(root / MARKER).get(DTYPE, "float32"))
    return found


@dataclass(frozen=True)
class PortDescription:
    """The layers after which an exported port reads, and the width of a read."""

    read_layers: tuple[int, ...]
    memory_dim: int


@dataclass(frozen=True)
class MemoryDescription:
    """Settings and sizes of an exported memory layer."""

    spec: MemoryLayerSpec
    vocab_rows: int
    num_tokens: int
    copied: dict[str, Any] | None  # config of the frozen copy, if the encoder is one


@dataclass(frozen=True)
class KeptModel:
    """A data layer of which the run trained nothing: the files that came in.

    Attributes:
        base: identity of its weights.
        dtype: in which the run held it.
    """

    base: str
    dtype: Literal["float32", "bfloat16"]


def describe_kept(root: Path) -> KeptModel | None:
    """What the marker under `root` says of a model that came in; None: the run trained it."""
    marker = _read_json(root / MARKER)
    return KeptModel(marker[BASE], marker[DTYPE]) if BASE in marker else None


def describe_port(root: Path) -> PortDescription:
    """Description of the port under `root`; call it inside `export_errors`."""
    port = _read_json(root / MEMORY_PORT / "port.json")
    return PortDescription(tuple(port["read_layers"]), int(port["memory_dim"]))


def describe_memory(root: Path) -> MemoryDescription:
    """Description of the memory layer under `root`; call it inside `export_errors`."""
    memory = _read_json(root / MEMORY_DESCRIPTION)
    spec = MemoryLayerSpec(**memory["layer"])
    return MemoryDescription(spec, memory["vocab_rows"], memory["num_tokens"], memory.get("copied"))


def port_tensors(root: Path) -> dict[str, Tensor]:
    """The port's tensors by name; call it inside `export_errors`."""
    return safetensors.torch.load_file(str(root / MEMORY_PORT / "port.safetensors"))


def memory_tensors(root: Path) -> dict[str, Tensor]:
    """The memory layer's tensors by name; call it inside `export_errors`."""
    return safetensors.torch.load_file(str(root / MEMORY_LAYER / "memory.safetensors"))


def write_kept(root: Path, windows: Windows) -> None:
    """Writes the sample of text that the memory keeps."""
    tensors = {
        "tokens": torch.from_numpy(np.ascontiguousarray(windows.tokens_NT)),
        "segments": torch.from_numpy(np.ascontiguousarray(windows.segments_NT)),
        "learn": torch.from_numpy(np.ascontiguousarray(windows.learn_NT)),
    }
    safetensors.torch.save_file(tensors, str(root / KEPT))


def read_kept(root: Path) -> Windows | None:
    """What `write_kept` wrote; None: nothing, as in exports of earlier versions."""
    if not (root / KEPT).is_file():
        return None
    tensors = safetensors.torch.load_file(str(root / KEPT))
    return Windows(*(tensors[name].numpy() for name in ("tokens", "segments", "learn")))


def checksums(module: nn.Module, dtype: torch.dtype | None = None) -> dict[str, str]:
    """A checksum of the bytes of each tensor of the module, by name; of floats in that type."""
    return {
        name: f"{checksum(_bytes(_in_type(tensor, dtype))):016x}"
        for name, tensor in module.state_dict().items()
        if tensor.numel()
    }


def _in_type(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor if dtype is None or not tensor.is_floating_point() else tensor.to(dtype)


def _bytes(tensor: Tensor) -> ByteArray:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def check_tensors(root: Path, part: str, module: nn.Module, directory: str) -> None:
    """Compares what was loaded of one part of an export with the checksums in the export.

    Args:
        root: the export's local copy.
        part: DATA_LAYER, MEMORY_PORT or MEMORY_LAYER.
        module: loaded from that part.
        directory: name of the export in messages.

    Raises:
        ConfigError: tensors differ; names one. Tensors without a checksum pass: exports of earlier
            versions have none.
    """
    marker = _read_json(root / MARKER)
    exported: Mapping[str, str] = marker.get("checksums", {}).get(part, {})
    dtype = data_layer_dtype(root) if part == DATA_LAYER else None
    differing = [n for n, c in checksums(module, dtype).items() if exported.get(n, c) != c]
    if differing:
        raise ConfigError(
            f"{directory}: {len(differing)} tensors of {part} are not those that the run exported, "
            f"e.g. {differing[0]}: the files were changed, or this version of transformers "
            "reads them differently; export again, or, if the change is intended, give the folder "
            f"{directory}/{DATA_LAYER} as a checkpoint"
        )


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))
