"""An export made ready to be shared: a folder that Tandem loads as a pair, and transformers as the
plain data layer.

    DIR/                      an export (`weights.export_files`), and besides
        config.json, tokenizer.json, …           those of data_layer/, for transformers
        model.safetensors.index.json             says that their weights are in data_layer/
        tandem_tokenizer.json                    the run's own tokenizer
        origin.json, README.md                   where it comes from, with figures; the model card

Safetensors, JSON and text; the weights are there once.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import safe_open

from actors.layers.pair import Pair
from actors.sharing.model_card import model_card, pair_figures
from actors.storage import locate, storage_errors
from actors.tokenizers.tokenizer import Tokenizer
from actors.weights.export_files import DATA_LAYER, SHARED_TOKENIZER, TOKENIZER, export_errors
from actors.weights.pair_export import save_pair
from actors.weights.weight_files import INDEX, weight_files
from actors.wire import ConfigError

ORIGIN, CARD = "origin.json", "README.md"
DTYPES = ("float32", "bfloat16")


def save_shared(
    tokenizer: Tokenizer, pair: Pair, directory: str, origin: Mapping[str, Any] | None
) -> None:
    """Writes a pair, with what it was told, as a folder to share.

    Args:
        tokenizer: the run's.
        pair: in float32, or with a data layer in bfloat16.
        directory: that is not there yet; any fsspec URL.
        origin: what is known of the run that it comes from.

    Raises:
        ConfigError: there is something at `directory` already; or another type.
        StorageError: its storage is away or full.
    """
    found = str(pair.data.model.dtype).removeprefix("torch.")
    if found not in DTYPES:
        raise ConfigError(
            f"{directory}: the data layer is in {found}; a pair is saved in one of "
            f"{', '.join(DTYPES)}; convert it first, e.g. model.to(torch.bfloat16)"
        )
    save_pair(tokenizer, pair, directory, partial(_make_shared, pair, dict(origin or {})))


def _make_shared(pair: Pair, origin: dict[str, Any], root: Path) -> None:
    (root / TOKENIZER).rename(root / SHARED_TOKENIZER)
    inner = root / DATA_LAYER
    weights = weight_files(inner, str(inner))
    for path in sorted(inner.iterdir()):
        if path.is_dir():
            shutil.copytree(path, root / path.name)
        elif path not in weights and path.name != INDEX:
            shutil.copyfile(path, root / path.name)
    places: dict[str, str] = {}
    for file in weights:
        with safe_open(file, "pt") as opened:
            places |= dict.fromkeys(opened.keys(), f"{DATA_LAYER}/{file.name}")
    index = {"metadata": {}, "weight_map": dict(sorted(places.items()))}
    _write_json(root / INDEX, index)
    _write_json(root / ORIGIN, origin)
    card = model_card(origin, pair_figures(pair))
    (root / CARD).write_text(card, encoding="utf-8")


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")


def read_origin(directory: str) -> dict[str, Any]:
    """What a shared folder says of where it comes from; nothing of another export.

    Raises:
        ConfigError: it is no JSON.
        StorageError: its storage is away.
    """
    with export_errors(directory), storage_errors(directory, "can't be read"):
        fs, place = locate(f"{directory.rstrip('/')}/{ORIGIN}")
        if not fs.exists(place):
            return {}
        return dict(json.loads(fs.cat_file(place).decode()))
