"""What notebooks import: a run is found and loaded, or the message says why not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
import torch
from transformers import AutoModelForCausalLM

import jobs.api
from jobs.api import ConfigError, TandemModel, load
from tests.unit.actors.tiny_pair import exported


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of which only the export is left, and its config."""
    run = tmp_path_factory.mktemp("api") / "run"
    exported(run / "export")
    (run / "config.yaml").write_text("name: run\n", encoding="utf-8")
    return run


@pytest.fixture
def run(kept: Path, tmp_path: Path) -> Path:
    """The run, for a test to damage."""
    return Path(shutil.copytree(kept, tmp_path / "run"))


@pytest.fixture
def remote(kept: Path) -> Iterator[str]:
    url = f"memory://tandem-{uuid4().hex}"
    fs = fsspec.filesystem("memory")
    fs.put(str(kept), url.removeprefix("memory:/"), recursive=True)
    yield url
    fs.rm(url.removeprefix("memory:/"), recursive=True)


def test_everything_promised_is_there() -> None:
    assert [name for name in jobs.api.__all__ if not hasattr(jobs.api, name)] == []
    assert {"load", "load_config", "train", "RunResult"} <= set(jobs.api.__all__)


def test_a_run_and_its_export_give_the_same_model(kept: Path) -> None:
    ids = torch.tensor([[0, 5, 9]])
    models = [load(kept), load(str(kept)), load(f"{kept}/"), load(kept / "export")]
    logits = [model(ids).logits for model in models]
    assert all(isinstance(model, TandemModel) for model in models)
    assert all(torch.equal(found, logits[0]) for found in logits)


def test_a_run_on_any_storage_is_loaded(kept: Path, remote: str) -> None:
    ids = torch.tensor([[0, 5, 9]])
    assert torch.equal(load(remote)(ids).logits, load(kept)(ids).logits)
    assert load(remote).ask("Ships", max_new_tokens=2) == load(kept).ask("Ships", max_new_tokens=2)


def test_a_place_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a run"):
        load(tmp_path)


def test_a_run_without_an_export_is_refused(run: Path) -> None:
    (run / "export" / "export.json").unlink()
    with pytest.raises(ConfigError, match="no finished export"):
        load(run)


@pytest.mark.parametrize(
    "name",
    [
        "data_layer/model.safetensors",
        "data_layer/tokenizer.json",
        "memory_port/port.safetensors",
        "memory_layer/memory.safetensors",
        "memory_layer/memory.json",
    ],
)
@pytest.mark.parametrize("harm", ["missing", "truncated"])
def test_a_missing_or_truncated_file_is_refused(run: Path, name: str, harm: str) -> None:
    path = run / "export" / name
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ConfigError, match="can't be loaded"):
        load(run)


def test_a_pair_is_loaded_in_another_type_and_its_own_voice_is_that_of_transformers(
    kept: Path,
) -> None:
    ids = torch.tensor([[0, 5, 9]])
    model = load(kept, dtype="bfloat16", device="cpu")
    plain = AutoModelForCausalLM.from_pretrained(kept / "export/data_layer", dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert model.memory_layer.values.dtype == torch.float32
    with torch.no_grad():
        assert torch.equal(model(ids, voice="own").logits, plain.eval()(ids).logits)
        assert torch.isfinite(model(ids).logits[..., :3]).all()


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_a_pair_whose_data_layer_is_spread_says_the_same(
    kept: Path, tmp_path: Path, where: str
) -> None:
    parts = ("model.embed_tokens", "model.layers.0", "model.norm", "model.rotary_emb", "lm_head")
    spread = {**dict.fromkeys(parts, "cpu"), "model.layers.1": where}
    model = load(kept, device_map=spread, offload_folder=tmp_path)
    ids, plain = torch.tensor([[0, 5, 9]]), load(kept)
    with torch.no_grad():
        for voice in ("own", "help", "memory"):
            assert torch.equal(model(ids, voice=voice).logits, plain(ids, voice=voice).logits)
    assert model.ask("Ships", max_new_tokens=4) == plain.ask("Ships", max_new_tokens=4)
    on_disk = [name for name, p in model.data_layer.model.named_parameters() if p.is_meta]
    assert bool(on_disk) == (where == "disk")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "dtype 'int8': expected one of float32, bfloat16"),
        ({"device": "cpu", "device_map": "auto"}, "give either device or device_map"),
        ({"device": "nowhere"}, "device 'nowhere' can't be used"),
        ({"device_map": {"model.layers.7": "cpu"}}, "device_map .*: .*give one of auto"),
    ],
)
def test_a_place_or_type_that_can_not_be_used_is_said(
    kept: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load(kept, **options)
