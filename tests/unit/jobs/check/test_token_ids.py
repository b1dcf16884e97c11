"""`check`, and a run before it starts a process, refuse what loading a model would refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import ray
from rich.console import Console

from actors.corpus.corpus import train_tokenizer
from actors.tokenizers.tokenizer import Tokenizer
from actors.wire import ConfigError
from jobs.check.check import check
from jobs.check.resources import AvailableResources, cpu_warnings
from orchestrator.reporting.progress_view import ProgressView
from orchestrator.run import train
from orchestrator.settings.config import load_config
from tests.integration.tiny import write_config, write_corpora
from tests.unit.actors.tiny import edit_config, save_checkpoint
from tests.unit.orchestrator.scripted import a_description


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run that starts from `base` with its tokenizer."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    write_corpora(tmp_path)
    path = write_config(tmp_path)
    tokenizer = train_tokenizer(load_config(str(path), []))
    save_checkpoint(tmp_path / "base", rows=tokenizer.size, max_position_embeddings=64)
    (tmp_path / "base" / "tokenizer.json").write_text(tokenizer.to_json())
    return str(path)


def loaded(config: str, *more: str, tokenizer: bool = True) -> Any:
    base = str(Path(config).parent / "base")
    chosen = [f"data.layer={{pretrained: {base}, read_layers: [0, 1]}}", *more]
    return load_config(config, [*chosen, *([f"tokenizer.pretrained={base}"] * tokenizer)])


def test_a_pretrained_model_with_its_tokenizer_can_be_trained(config: str) -> None:
    assert check(loaded(config))["status"] == "ok"


def test_a_pretrained_model_without_its_tokenizer_is_refused(config: str, tmp_path: Path) -> None:
    other = Tokenizer.train(["other words, other merges"] * 9, 300)
    (tmp_path / "base" / "tokenizer.json").write_text(other.to_json())
    with pytest.raises(
        ConfigError, match=r"other token ids than this run's.*tokenizer\.pretrained"
    ):
        check(loaded(config, tokenizer=False))


def lfs_pointer(base: Path) -> None:
    (base / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")


def truncated(base: Path) -> None:
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])


def gguf_only(base: Path) -> None:
    (base / "model.safetensors").rename(base / "model.gguf")


def no_weights(base: Path) -> None:
    (base / "model.safetensors").unlink()


def pickle_only(base: Path) -> None:
    (base / "model.safetensors").rename(base / "pytorch_model.bin")


def missing_shard(base: Path) -> None:
    (base / "model.safetensors").unlink()
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))


def adapter(base: Path) -> None:
    for path in base.iterdir():
        path.unlink()
    (base / "adapter_config.json").write_text('{"base_model_name_or_path": "a/b"}')


WRONG = [
    (lfs_pointer, "pointer of Git LFS"),
    (truncated, "truncated or altered"),
    (gguf_only, "holds a GGUF file only"),
    (no_weights, "has no weights"),
    (pickle_only, "as pickle only"),
    (missing_shard, "model-00001-of-00002.safetensors"),
    (adapter, "is an adapter"),
]


@pytest.mark.parametrize(("spoil", "said"), WRONG, ids=lambda x: getattr(x, "__name__", None))
def test_weights_that_can_not_be_loaded_are_refused_before_anything_starts(
    spoil: Any, said: str, config: str, tmp_path: Path
) -> None:
    wanted = loaded(config, tokenizer=spoil is not adapter)
    spoil(tmp_path / "base")
    with pytest.raises(ConfigError, match=said):
        check(wanted)
    with pytest.raises(ConfigError, match=said):
        train(wanted)
    assert not ray.is_initialized()
    assert not (tmp_path / "runs" / "run").exists()


def test_tensors_without_a_place_are_named_by_check(config: str, tmp_path: Path) -> None:
    edit_config(tmp_path / "base", num_hidden_layers=1)
    with pytest.raises(ConfigError, match=r"does not have: model\.layers\.1\.input_layernorm"):
        check(loaded(config, "data.layer.read_layers=[0]"))
    more = ("data.layer.read_layers=[0]", "data.layer.allow_unexpected=true")
    assert check(loaded(config, *more))["status"] == "ok"


def test_slow_bf16_of_this_machine_is_a_warning_of_check(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text("flags : fpu avx2\n")
    plain = (None, tmp_path / "cpuinfo")
    monkeypatch.setattr("jobs.check.resources.slow_bf16.__defaults__", plain[1:])
    slow = load_config(config, ["memory.precision=bf16"])
    (warning,) = cpu_warnings(slow, AvailableResources("here", {}, None, None, is_here=True))
    assert warning.startswith("memory.precision is bf16")
    assert cpu_warnings(slow, AvailableResources("a cluster", {}, None, None)) == []


def test_what_workers_say_of_their_machine_is_a_warning_at_the_start(config: str) -> None:
    said: list[str] = []
    progress = ProgressView(load_config(config, []), Console(quiet=True))
    progress.warning = said.append  # type: ignore[method-assign]
    ranks = {group: [a_description(group, warnings=("slow",))] * 2 for group in ("data", "memory")}
    progress.started(ranks)
    assert said == ["slow"]
