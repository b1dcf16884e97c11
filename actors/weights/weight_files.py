"""Checks a checkpoint's folder before a weight is read.

Reads only names, sizes and the headers of safetensors files, which takes milliseconds for any size
of model; so `tandem check` and the start of a run report what loading would report minutes later.
Knows no model, and no torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from actors.formats import listed
from actors.storage import no_file
from actors.wire import ConfigError

ADAPTER = "adapter_config.json"
CONFIG = "config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
LFS_POINTER = b"version https://git-lfs"
WHOLE = frozenset(f"{sign}{bits}" for sign in "IU" for bits in (8, 16, 32, 64))  # types
LISTED = 8  # names in a message
NEEDED = (".json", ".safetensors")  # endings of files whose loss is no small matter


def refuse_other_than_checkpoint(place: Path, location: str) -> None:
    """Raises: ConfigError: it is a GGUF file, an adapter, pickle, or a folder without a config; it
    is or holds a pipe, a socket or a device, or a link to nothing.
    """
    where = f"data.layer.pretrained: {location}"
    for path in (place, *(sorted(place.iterdir()) if place.is_dir() else ())):
        if found := no_file(path):
            raise ConfigError(f"{where}{'' if path == place else f': {path.name}'} {found}")
        if path.is_symlink() and not path.exists() and path.suffix in NEEDED:
            raise ConfigError(
                f"{where}: {path.name} is a link to {path.readlink()}, which does not exist; fetch "
                "the model again (a cache keeps its files elsewhere)"
            )
    if place.suffix.lower() == ".gguf":
        raise ConfigError(f"{where} is a GGUF file; {_instead_of_gguf()}")
    if place.is_file():
        raise ConfigError(
            f"{where} is a file; give the folder that holds {CONFIG} and the safetensors"
        )
    ggufs = sorted(place.glob("*.gguf"))
    whole = (place / WEIGHTS).is_file() or (place / INDEX).is_file()
    if (place / ADAPTER).is_file():
        raise ConfigError(f"{where} {_adapter(place, whole)}")
    if ggufs and not any(place.glob("*.safetensors")):
        raise ConfigError(f"{where} holds a GGUF file only ({ggufs[0].name}); {_instead_of_gguf()}")
    if not (place / CONFIG).is_file():
        raise ConfigError(
            f"{where} has no {CONFIG} (there are: {_listed(place)}); expected a folder as "
            "save_pretrained writes it, or a run with an export"
        )
    if not any(place.glob("*.safetensors")) and any(place.glob("*.bin")):
        raise ConfigError(
            f"{where} holds its weights as pickle only, which can run code when loaded and is "
            "refused; convert it: load it with transformers if you trust it and call "
            "save_pretrained, which writes safetensors"
        )


def _instead_of_gguf() -> str:
    return (
        "llama.cpp's quantized weights can't be trained: give the checkpoint that it was made from "
        f"({CONFIG} and safetensors)"
    )


def _adapter(place: Path, whole: bool) -> str:
    if whole:
        return (
            f"holds an adapter ({ADAPTER}) beside a whole model, and which of them is meant "
            "is not clear; move the adapter's files elsewhere, or merge the two into one model"
        )
    try:
        base = json.loads((place / ADAPTER).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, LookupError, TypeError):
        base = "BASE"
    return (
        "is an adapter, not a model; merge it into its base and give the result: "
        f"PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base!r}), "
        f"{place.name!r}).merge_and_unload().save_pretrained(FOLDER)"
    )


def weight_files(place: Path, location: str) -> tuple[Path, ...]:
    """The safetensors files that transformers would load.

    Raises:
        ConfigError: there are none, the index can't be read, or files that it names are missing.
    """
    where = f"data.layer.pretrained: {location}"
    named = _read_json(place / CONFIG, where).get("transformers_weights") or WEIGHTS
    if (place / named).is_file() and not named.endswith(".json"):
        return (place / named,)
    index = place / (named if named.endswith(".json") else INDEX)
    if not index.is_file():
        raise ConfigError(
            f"{where} has no weights: neither {WEIGHTS} nor {INDEX} (there are: "
            f"{_listed(place)}); fetch them too, or give a folder that save_pretrained wrote"
        )
    try:
        names = sorted(set(_read_json(index, where)["weight_map"].values()))
    except (KeyError, AttributeError, TypeError) as err:
        raise ConfigError(
            f"{where}: {index.name} names no files of tensors (weight_map); fetch it again"
        ) from err
    missing = [name for name in names if not (place / name).is_file()]
    if missing:
        raise ConfigError(
            f"{where} lacks {len(missing)} of the {len(names)} files that {index.name} names, e.g. "
            f"{missing[0]}; fetch them too"
        )
    return tuple(place / name for name in names)


def headers(place: Path, location: str) -> dict[Path, list[str]]:
    """The names of the tensors in each of the folder's weight files.

    Raises:
        ConfigError: as `weight_files`; a file is a Git LFS pointer, truncated, not safetensors, or
            holds matrices of whole numbers.
    """
    found: dict[Path, list[str]] = {}
    for file in weight_files(place, location):
        where = f"data.layer.pretrained: {location}: {file.name}"
        with file.open("rb") as handle:
            if handle.read(len(LFS_POINTER)) == LFS_POINTER:
                raise ConfigError(
                    f"{where} is a pointer of Git LFS ({file.stat().st_size} bytes), not the "
                    "weights; run `git lfs pull` there, or fetch the file again"
                )
        try:
            with safe_open(file, "np") as opened:
                found[file] = list(opened.keys())
                _refuse_whole_numbers(opened, found[file], where)
        except SafetensorError as err:
            raise ConfigError(
                f"{where} is truncated or altered ({file.stat().st_size:,} bytes: {err}); fetch it "
                "again"
            ) from err
    return found


def _refuse_whole_numbers(opened: Any, names: Sequence[str], where: str) -> None:
    """Raises: ConfigError: a matrix of weights is of whole numbers, which transformers would load
    as they are, without the scales that they need; masks among the buffers may be.
    """
    for name in names:
        part = opened.get_slice(name) if name.endswith(".weight") else None
        if part is not None and part.get_dtype() in WHOLE and len(part.get_shape()) > 1:
            raise ConfigError(
                f"{where} holds {name} as {part.get_dtype()}, whole numbers: it is quantized, and "
                "can't be trained; give the model it was made from"
            )


def _read_json(path: Path, where: str) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as err:
        raise ConfigError(f"{where}: {path.name} can't be read: {err}; fetch it again") from err


def _listed(place: Path) -> str:
    names = sorted(p.name for p in place.iterdir()) if place.is_dir() else []
    return listed(names, LISTED) or "no files"
