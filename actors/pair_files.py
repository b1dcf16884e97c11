"""Writes a pair of layers in the formats people use, and reads it back. No pickle on either side.

    DIR/data_layer/    config.json, model.safetensors, tokenizer.json …   loads with
    AutoModelForCausalLM DIR/memory_port/   port.json, port.safetensors                         what
    from_pretrained would drop DIR/memory_layer/  memory.json, memory.safetensors

`DIR` may be any fsspec URL: files are written to a local folder first and copied, the marker
`export.json` last.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import fsspec
import safetensors.torch
import torch

from actors.data_layer import DataLayer, build_model
from actors.evaluation import Pair
from actors.layer_spec import DataLayerSpec, MemoryLayerSpec
from actors.memory_layer import MemoryLayer
from actors.spec import RunSpec
from actors.tokenizer import Tokenizer
from actors.wire import ConfigError

FORMAT = 1
MARKER = "export.json"


def export(spec: RunSpec, tokenizer: Tokenizer, pair: Pair, directory: str) -> None:
    """Writes both layers and the port under `directory`."""
    with tempfile.TemporaryDirectory(prefix="tandem-export-") as temporary:
        root = Path(temporary)
        _write_data_layer(spec, tokenizer, pair.data, root / "data_layer")
        port = {
            name: t.detach().cpu().contiguous() for name, t in pair.data.port.state_dict().items()
        }
        memory = {
            name: t.detach().cpu().contiguous() for name, t in pair.memory.state_dict().items()
        }
        layer = spec.data.layer
        described = {"read_layers": list(layer.read_layers), "memory_dim": spec.memory.layer.dim}
        _write_part(root / "memory_port", "port", port, described)
        described_memory = {
            "layer": spec.memory.layer.model_dump(mode="json"),
            "vocab_rows": pair.memory.vocab_rows,
            "num_tokens": pair.memory.num_tokens,
        }
        _write_part(root / "memory_layer", "memory", memory, described_memory)
        fs, target = fsspec.core.url_to_fs(directory, auto_mkdir=True)
        for path in sorted(p for p in root.rglob("*") if p.is_file()):
            fs.put_file(str(path), f"{target}/{path.relative_to(root).as_posix()}")
        with fs.open(f"{target}/{MARKER}", "w") as handle:
            json.dump({"format": FORMAT, "num_tokens": tokenizer.size}, handle)


def _write_data_layer(spec: RunSpec, tokenizer: Tokenizer, data: DataLayer, folder: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    plain = build_model(spec.data.layer, data.vocab_rows)
    plain.load_state_dict({k: v.detach().cpu().clone() for k, v in data.model.state_dict().items()})
    plain.save_pretrained(folder, safe_serialization=True)  # type: ignore[operator]
    (folder / "tandem_tokenizer.json").write_text(tokenizer.export_json(), encoding="utf-8")
    fast = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tandem_tokenizer.json"),
        bos_token=tokenizer.begin_token,
        eos_token=tokenizer.end_token,
    )
    fast.save_pretrained(folder)
    (folder / "tandem_tokenizer.json").unlink()


def _write_part(
    folder: Path, name: str, tensors: dict[str, torch.Tensor], described: dict[str, Any]
) -> None:
    folder.mkdir(parents=True)
    safetensors.torch.save_file(tensors, str(folder / f"{name}.safetensors"))
    (folder / f"{name}.json").write_text(
        json.dumps({"format": FORMAT, **described}, indent=2), encoding="utf-8"
    )


def load(directory: str) -> tuple[Pair, Tokenizer]:
    """The exported pair and its tokenizer, on the CPU, in eval mode.

    Raises:
        ConfigError: there is no finished export, or one of its files is missing or does not fit.
    """
    from transformers import AutoModelForCausalLM

    fs, source = fsspec.core.url_to_fs(directory)
    if not fs.exists(f"{source}/{MARKER}"):
        raise ConfigError(
            f"{directory}: no finished export there ({MARKER} is missing); give a run that has "
            "ended"
        )
    with tempfile.TemporaryDirectory(prefix="tandem-load-") as temporary:
        root = Path(temporary)
        for path in fs.find(source):
            local = root / str(path)[len(source) :].lstrip("/")
            local.parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(path, str(local))
        try:
            tokenizer = Tokenizer.from_pretrained(str(root / "data_layer"))
            port = json.loads((root / "memory_port" / "port.json").read_text(encoding="utf-8"))
            described = json.loads(
                (root / "memory_layer" / "memory.json").read_text(encoding="utf-8")
            )
            model = AutoModelForCausalLM.from_pretrained(root / "data_layer", local_files_only=True)
            layer_spec = DataLayerSpec(read_layers=tuple(port["read_layers"]))
            data = DataLayer(model, layer_spec, int(port["memory_dim"]), described["num_tokens"])
            data.port.load_state_dict(
                safetensors.torch.load_file(str(root / "memory_port" / "port.safetensors"))
            )
            spec = MemoryLayerSpec(**described["layer"])
            memory = MemoryLayer(spec, described["vocab_rows"], described["num_tokens"])
            memory.load_state_dict(
                safetensors.torch.load_file(str(root / "memory_layer" / "memory.safetensors"))
            )
        except (OSError, KeyError, ValueError, RuntimeError, safetensors.SafetensorError) as err:
            raise ConfigError(f"{directory}: the export can't be loaded: {err}") from err
    return Pair(data.eval().requires_grad_(False), memory.requires_grad_(False)), tokenizer
