"""A pair that is saved to be shared: the same bits come back, and transformers reads it too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.measuring.voices import VOICES
from actors.pair.tandem_model import TandemModel, load_tandem_model
from actors.wire import ConfigError
from tests.unit.jobs.tell.exported import tellable

PROMPTS = ["The capital of Avaria is", "Ships reach Belmont on the"]
SUFFIXES = {".safetensors", ".json", ".jinja", ".txt", ".md"}


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tellable(tmp_path_factory.mktemp("shared") / "tiny")


@torch.no_grad()
def predictions(model: TandemModel) -> dict[str, Tensor]:
    inputs = model.prompt_inputs(PROMPTS)
    return {voice: model(**inputs, voice=voice).logits for voice in VOICES}


def assert_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    for voice in VOICES:
        assert one[voice].dtype == other[voice].dtype
        assert torch.equal(one[voice], other[voice]), voice


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_three_voices_and_what_was_told_come_back_to_the_bit(
    export: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    model = load_tandem_model(str(export)).to(dtype)
    untold = predictions(model)
    write = model.tell("The capital of Atlantis is", "Dastan")
    told = predictions(model)
    assert not torch.equal(told["memory"], untold["memory"])
    model.save(tmp_path / "saved")
    again = load_tandem_model(str(tmp_path / "saved"))
    assert again.dtype == dtype
    assert again.memory_layer.values.dtype == torch.float32
    assert_same_bits(predictions(again), told)
    again.save(tmp_path / "again")
    twice = load_tandem_model(str(tmp_path / "again"))
    assert_same_bits(predictions(twice), told)
    twice.untell(write.id)
    assert_same_bits(predictions(twice), untold)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_transformers_loads_the_data_layer_from_the_folder_itself(
    export: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    model = load_tandem_model(str(export)).to(dtype)
    model.save(tmp_path / "saved")
    plain = AutoModelForCausalLM.from_pretrained(
        tmp_path / "saved", trust_remote_code=False, dtype="auto"
    ).eval()
    assert plain.dtype == dtype
    inputs = model.prompt_inputs(PROMPTS)
    with torch.no_grad():
        assert torch.equal(plain(**inputs).logits, model(**inputs, voice="own").logits)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "saved")
    inner = AutoTokenizer.from_pretrained(export / "data_layer")
    assert theirs(PROMPTS).input_ids == inner(PROMPTS).input_ids
    assert theirs.chat_template == inner.chat_template


def test_nothing_is_in_the_folder_but_tensors_json_and_text_and_no_weight_twice(
    export: Path, tmp_path: Path
) -> None:
    load_tandem_model(str(export)).save(tmp_path / "saved")
    files = [path for path in (tmp_path / "saved").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= SUFFIXES
    weights = [path.relative_to(tmp_path / "saved") for path in files if "model" in path.stem]
    assert sorted(p.as_posix() for p in weights if p.suffix == ".safetensors") == [
        "data_layer/model.safetensors"
    ]


def marker(folder: Path, **changes: Any) -> None:
    path = folder / "export.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def test_a_folder_of_an_older_version_loads(export: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(export, old)
    (old / "memory_layer" / "kept.safetensors").unlink()
    marker(old, format=1, dtype=None, checksums=None)
    assert set(json.loads((old / "export.json").read_text())) == {"format", "num_tokens"}
    model = load_tandem_model(str(old))
    assert_same_bits(predictions(model), predictions(load_tandem_model(str(export))))
    with pytest.raises(ValueError, match="was exported by an earlier version"):
        model.tell("a", "b")
    model.save(tmp_path / "renewed")
    assert json.loads((tmp_path / "renewed" / "export.json").read_text())["format"] == 2


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (3, "format 3, written by a newer version of Tandem; this one reads 1 to 2; update Tandem"),
        ("two", "format 'two', expected one of 1, 2; the file was changed"),
        (None, "format None, expected one of 1, 2"),
    ],
)
def test_a_folder_of_another_format_is_refused_with_what_to_do(
    export: Path, tmp_path: Path, found: Any, message: str
) -> None:
    other = tmp_path / "other"
    shutil.copytree(export, other)
    marker(other, format=found)
    with pytest.raises(ConfigError, match=message):
        load_tandem_model(str(other))


def test_a_type_that_is_not_kept_is_refused(export: Path, tmp_path: Path) -> None:
    model = load_tandem_model(str(export)).half()
    with pytest.raises(ConfigError, match="in float16; a pair is saved in one of float32, bfl"):
        model.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
