"""The short config of a memory for a model that exists already."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from actors.wire import ConfigError
from jobs.init import run_init
from orchestrator.console import Console
from orchestrator.settings.config import load_config
from tests.unit.actors.settings.test_fitted import SMOL
from tests.unit.actors.tiny import save_checkpoint
from tests.unit.actors.tokenizers.test_pretrained_tokenizer import byte_level, saved

QUIET = Console(quiet=True)
CHAT = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with the weights of a tiny model, the config of a large one and a chat's marks."""
    folder = tmp_path / "chatty"
    save_checkpoint(folder, rows=400)
    (folder / "config.json").write_text(json.dumps(SMOL))
    saved(folder, byte_level("<|endoftext|>", "<|im_start|>", "<|im_end|>"), **CHAT)
    return folder


@pytest.mark.parametrize("kind", ["facts", "text"])
def test_the_file_is_short_and_leaves_the_model_as_it_is(
    kind: str, model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    run_init(str(path), kind, False, False, QUIET, str(model))
    assert len(path.read_text().splitlines()) <= 12
    config = load_config(str(path))
    assert config.data.layer.train == "port"
    assert config.data.layer.pretrained == config.tokenizer.pretrained == str(model)
    assert (config.tokenizer.begin, config.tokenizer.end) == ("<|endoftext|>", "<|endoftext|>")
    assert (config.data.layer.read_layers, config.corpus.kind) == ((10, 20), kind)
    assert "read_layers" not in path.read_text()  # it follows the model


@pytest.mark.parametrize("kind", ["facts", "text"])
def test_windows_are_no_longer_than_the_models_sliding_attention_sees(
    kind: str, model: Path, tmp_path: Path
) -> None:
    (model / "config.json").write_text(json.dumps({**SMOL, "sliding_window": 48}))
    run_init(str(tmp_path / "mine.yaml"), kind, False, False, QUIET, str(model))
    assert load_config(str(tmp_path / "mine.yaml")).corpus.window == 48


def test_a_model_whose_own_marks_are_right_keeps_them(model: Path, tmp_path: Path) -> None:
    own = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    saved(model, byte_level("<|endoftext|>"), **own)
    run_init(str(tmp_path / "mine.yaml"), "facts", False, False, QUIET, str(model))
    written = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    assert written["tokenizer"] == {"pretrained": str(model)}


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer.json in that folder"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "holds an adapter"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "model.gguf"),
            "holds a GGUF file only",
        ),
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    ],
)
def test_what_is_no_model_that_can_train_is_refused_by_name(
    broken: object, message: str, model: Path, tmp_path: Path
) -> None:
    assert callable(broken)
    broken(model)
    with pytest.raises(ConfigError, match=message):
        run_init(str(tmp_path / "mine.yaml"), "facts", False, False, QUIET, str(model))
    assert not (tmp_path / "mine.yaml").exists()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone: no such folder; give a model's folder"):
        run_init(str(tmp_path / "a.yaml"), "facts", False, False, QUIET, str(tmp_path / "gone"))


def test_all_fields_and_a_model_are_not_asked_for_at_once(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--all explains every field"):
        run_init(str(tmp_path / "a.yaml"), "facts", True, False, QUIET, str(model))
