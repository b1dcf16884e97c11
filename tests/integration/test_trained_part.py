"""Runs of which only a part of the data layer trains: what moves, what is stored, what leaves."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from actors.layers.causal_lm import build_model
from actors.settings.layers import DataLayerSpec
from actors.wire import CheckpointError, ConfigError
from jobs.api import load
from jobs.cli import app
from orchestrator.run import RunResult
from orchestrator.settings.config import Config, load_config
from orchestrator.settings.file_names import SUMMARY
from tests.integration.tiny import run_in_process, write_config, write_corpora

LLAMA = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
FAMILIES = {"llama": LLAMA, "gpt2": GPT2}
SETTINGS = (
    "checkpoints={every: 1, keep_last: 9}",
    "evaluation.every=2",
    "tokenizer.vocab_size=300",
)


def save_base(folder: Path, family: str, seed: int = 5, dtype: str = "float32") -> Path:
    """A checkpoint whose weights are large enough that every change of them shows."""
    torch.manual_seed(seed)
    model = build_model(DataLayerSpec(model_type=family, fields=FAMILIES[family]), 300)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    write_corpora(folder)
    layer = {"pretrained": "llama", "read_layers": [0, 1]}
    write_config(folder, data={"layer": layer, "batch_size": 4, "steps_per_interval": 3})
    save_base(folder / "llama", "llama", dtype="bfloat16")
    save_base(folder / "gpt2", "gpt2")
    save_base(folder / "other", "llama", seed=6, dtype="bfloat16")
    return folder


def settings(place: Path, name: str, *overrides: str) -> Config:
    return load_config(str(place / "tiny.yaml"), [*SETTINGS, f"name={name}", *overrides])


def port_run(place: Path, name: str, *overrides: str) -> RunResult:
    return run_in_process(settings(place, name, "data.layer.train=port", *overrides))


@pytest.fixture(scope="module")
def port(place: Path) -> RunResult:
    return port_run(place, "port")


def exported(result: RunResult) -> Path:
    return Path(result.path) / "export"


def digests(result: RunResult) -> dict[str, str]:
    return dict(result.summary["digest"])


def checkpoint_bytes(result: RunResult, group: str) -> int:
    """Bytes of a group's newest checkpoint."""
    newest = sorted((Path(result.path) / "checkpoints").iterdir())[-1]
    return sum(path.stat().st_size for path in newest.glob(f"{group}-*.safetensors"))


def interrupted_after(result: RunResult, name: str, interval: int) -> None:
    """The run's directory under another name, as a kill after that interval would have left it."""
    path = Path(result.path)
    target = path.parent / name
    shutil.copytree(path, target)
    (target / SUMMARY).unlink()
    shutil.rmtree(target / "export")
    for folder in (target / "checkpoints").iterdir():
        if int(folder.name) != interval:
            shutil.rmtree(folder)
    text = (target / "config.yaml").read_text()
    (target / "config.yaml").write_text(text.replace(f"name: {path.name}\n", f"name: {name}\n"))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_with_port_the_exported_model_is_the_one_that_came_in(place: Path, family: str) -> None:
    result = port_run(
        place, f"kept-{family}", f"data.layer.pretrained={place / family}", "intervals=2"
    )
    came_in, left = (
        load_file(folder / "model.safetensors")
        for folder in (place / family, exported(result) / "data_layer")
    )
    assert came_in.keys() == left.keys()
    assert {t.dtype for t in left.values()} == {t.dtype for t in came_in.values()}
    assert all(torch.equal(left[name], tensor) for name, tensor in came_in.items())
    again = AutoModelForCausalLM.from_pretrained(exported(result) / "data_layer")
    assert next(again.parameters()).dtype == next(iter(came_in.values())).dtype


def test_a_pair_of_a_model_that_was_kept_is_saved_with_that_models_bits_and_the_runs_figures(
    place: Path, port: RunResult, tmp_path: Path
) -> None:
    model = load(port.path)
    model.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    ids = torch.tensor([[0, 5, 9, 11]])
    with torch.no_grad():
        for voice in ("own", "help", "memory"):
            assert torch.equal(again(ids, voice=voice).logits, model(ids, voice=voice).logits)
    came_in = load_file(place / "llama" / "model.safetensors")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", trust_remote_code=False)
    state = plain.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in came_in.items())
    card = (tmp_path / "saved" / "README.md").read_text()
    heldout, before = port.summary["heldout"], port.summary["before"]["heldout"]
    row = f"{before['help_loss']:.4f} | {heldout['help_loss']:.4f}"
    assert f"| both together, nats per token | {row} |" in card
    for line in ("| began with | llama |", "| of the data layer trained | port |"):
        assert line in card
    assert f"`{port.summary['digest']['memory']}`" in card
    assert str(place) not in card + (tmp_path / "saved" / "origin.json").read_text()


def test_with_port_only_the_port_is_published_and_stored(place: Path, port: RunResult) -> None:
    tensors = load_file(exported(port) / "memory_port" / "port.safetensors")
    size = sum(t.numel() * 4 for t in tensors.values())
    assert checkpoint_bytes(port, "data") < 3 * size + 4096  # weights, two moments, the rest
    rows = json.loads((Path(port.path) / SUMMARY).read_text())
    assert rows["heldout"]["help_loss"] > 0
    assert tensors["gates.0.write.weight"].abs().max() > 0  # 0 at the start


def test_a_resumed_port_run_ends_with_the_bits_of_an_undisturbed_one(
    place: Path, port: RunResult
) -> None:
    interrupted_after(port, "port-resumed", 2)
    config = settings(place, "port-resumed", "data.layer.train=port")
    assert digests(run_in_process(config, resume=True)) == digests(port)


def test_a_resume_on_another_base_names_both(place: Path, port: RunResult) -> None:
    interrupted_after(port, "port-moved", 2)
    kept = place / "llama" / "model.safetensors"
    mine = kept.read_bytes()
    base = json.loads((exported(port) / "export.json").read_text())["base"]
    try:
        kept.write_bytes((place / "other" / "model.safetensors").read_bytes())
        config = settings(place, "port-moved", "data.layer.train=port")
        with pytest.raises(CheckpointError, match=rf"digest {base}.* digest [0-9a-f]+"):
            run_in_process(config, resume=True)
    finally:
        kept.write_bytes(mine)


def test_an_export_whose_model_was_changed_is_refused(place: Path, port: RunResult) -> None:
    broken = place / "broken"
    shutil.copytree(exported(port), broken)
    shutil.copy(place / "other" / "model.safetensors", broken / "data_layer")
    found = CliRunner().invoke(app, ["ask", str(broken), "The capital of Baran is"])
    assert found.exit_code == 2
    assert json.loads((broken / "export.json").read_text())["base"] in " ".join(
        found.output.split()
    )


def test_a_port_run_starts_from_a_port_run(place: Path, port: RunResult) -> None:
    result = port_run(
        place, "port-again", f"data.layer.pretrained={port.path}",
        f"memory.layer.start_from={port.path}", "intervals=1",
        f"tokenizer.pretrained={port.path}/export/data_layer",
    )  # fmt: skip
    bases = [json.loads((exported(r) / "export.json").read_text())["base"] for r in (port, result)]
    assert bases[0] == bases[1]
    assert digests(result) != digests(port)


def test_a_port_in_bfloat16_trains_and_exports_what_came_in(place: Path) -> None:
    result = port_run(
        place, "port-bf16", "data.layer.dtype=bfloat16", "intervals=1",
        f"data.layer.pretrained={place / 'gpt2'}",
    )  # fmt: skip
    left = load_file(exported(result) / "data_layer" / "model.safetensors")
    came_in = load_file(place / "gpt2" / "model.safetensors")
    assert all(torch.equal(left[name], tensor) for name, tensor in came_in.items())
    assert result.summary["heldout"]["help_loss"] > 0


def test_commands_work_with_a_port_run(place: Path, port: RunResult, monkeypatch: Any) -> None:
    monkeypatch.chdir(place)
    runner = CliRunner()
    for command in (
        ["ask", port.path, "The capital of Baran is"],
        ["evaluate", port.path],
        ["learn", port.path, "--facts", "facts.jsonl", "--steps", "2", "--no-port"],
        ["check", "tiny.yaml", "data.layer.train=port", "name=checked"],
    ):
        found = runner.invoke(app, command)
        assert found.exit_code == 0, (command, found.output)
    learned = Path(f"{port.path}-learned")
    summary = json.loads((learned / SUMMARY).read_text())
    assert summary["digest"]["data"] == digests(port)["data"]


@pytest.fixture(scope="module", params=["merged", "apart"])
def lora(place: Path, request: pytest.FixtureRequest) -> RunResult:
    config = settings(
        place, f"lora-{request.param}", "data.layer.train=lora", "data.layer.lora.r=2",
        f"data.layer.lora.export={request.param}", "data.optimizer.lr=1e-2",
    )  # fmt: skip
    return run_in_process(config)


def own_logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(torch.arange(12)[None]).logits
    return logits


def test_adapters_train_and_leave_as_transformers_and_peft_load_them(
    place: Path, lora: RunResult
) -> None:
    folder = exported(lora)
    model = AutoModelForCausalLM.from_pretrained(folder / "data_layer", dtype=torch.float32)
    before = AutoModelForCausalLM.from_pretrained(place / "llama", dtype=torch.float32)
    is_apart = lora.path.endswith("apart")
    assert torch.equal(own_logits(model), own_logits(before)) == is_apart
    if is_apart:
        model = PeftModel.from_pretrained(model, folder / "data_layer_adapter")
    assert (own_logits(model) - own_logits(before)).abs().max() > 1e-3
    pair = load(lora.path)
    assert torch.allclose(own_logits(model), own_logits(pair.data_layer.model), atol=1e-5)


def test_only_adapters_and_port_are_stored(lora: RunResult) -> None:
    port = load_file(exported(lora) / "memory_port" / "port.safetensors")
    # r (inputs + outputs) of q, k, v, o, gate, up, down, in two layers
    adapters = 2 * 2 * (4 * 32 + 3 * 48)
    size = 4 * (adapters + sum(t.numel() for t in port.values()))
    assert size < checkpoint_bytes(lora, "data") < 3 * size + 8192


def test_a_resumed_lora_run_ends_with_the_bits_of_an_undisturbed_one(
    place: Path, lora: RunResult
) -> None:
    name = f"{Path(lora.path).name}-resumed"
    interrupted_after(lora, name, 2)
    config = load_config(str(Path(lora.path).parent / name / "config.yaml"))
    assert digests(run_in_process(config, resume=True)) == digests(lora)


def test_commands_work_with_a_lora_run(
    place: Path, lora: RunResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    runner = CliRunner()
    for command in (
        ["ask", lora.path, "The capital of Baran is"],
        ["evaluate", lora.path],
        ["learn", lora.path, "--facts", "facts.jsonl", "--steps", "2"],
        ["check", "tiny.yaml", "data.layer.train=lora", "name=checked-lora"],
    ):
        found = runner.invoke(app, command)
        assert found.exit_code == 0, (command, found.output)
    learned = Path(f"{lora.path}-learned") / "export"
    for folder in ("data_layer", "data_layer_adapter"):
        there = sorted((exported(lora) / folder).glob("*.safetensors"))
        again = sorted((learned / folder).glob("*.safetensors"))
        assert [p.read_bytes() for p in again] == [p.read_bytes() for p in there]


def test_a_port_run_starts_from_a_lora_run(place: Path, lora: RunResult) -> None:
    result = port_run(
        place, f"port-of-{Path(lora.path).name}", f"data.layer.pretrained={lora.path}",
        "intervals=1", f"tokenizer.pretrained={lora.path}/export/data_layer",
    )  # fmt: skip
    first, second = load(lora.path), load(result.path)
    assert torch.equal(own_logits(first.data_layer.model), own_logits(second.data_layer.model))


def test_parameters_train_by_pattern_and_others_keep_their_bits(place: Path) -> None:
    result = run_in_process(
        settings(
            place,
            "patterns",
            "data.layer.train=['*.layers.1.*', '*norm*']",
            "intervals=2",
            "data.optimizer.lr=1e-2",
            f"data.layer.pretrained={place / 'llama'}",
        )
    )
    came_in = load_file(place / "llama" / "model.safetensors")
    left = load_file(exported(result) / "data_layer" / "model.safetensors")
    for name, tensor in came_in.items():
        trains = ".layers.1." in name or "norm" in name
        assert torch.equal(left[name], tensor.float()) != trains, name


def test_a_pattern_that_matches_nothing_names_the_nearest(place: Path) -> None:
    config = settings(place, "typo", "data.layer.train=['*.layers.1.mlp.gate.*']")
    with pytest.raises(ConfigError, match=r"gate\.\*; nearest: .*mlp\.gate_proj\.weight"):
        run_in_process(config)


def test_a_tied_name_is_sent_to_the_one_that_trains(place: Path) -> None:
    config = settings(place, "tied", "data.layer.train=[lm_head.weight]")
    with pytest.raises(ConfigError, match=r"tied to model\.embed_tokens\.weight"):
        run_in_process(config)


def test_a_target_that_the_model_lacks_names_the_nearest(place: Path) -> None:
    config = settings(
        place, "target", "data.layer.train=lora", "data.layer.lora.targets=[query_proj]"
    )
    with pytest.raises(ConfigError, match=r"no linear module named query_proj; nearest: .*q_proj"):
        run_in_process(config)


def test_lora_without_peft_says_what_to_install(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    config = settings(place, "no-peft", "data.layer.train=lora")
    with pytest.raises(ConfigError, match=r"pip install 'tandem-memory\[lora\]'"):
        run_in_process(config)


def test_a_port_beside_fresh_weights_is_refused(place: Path) -> None:
    with pytest.raises(ConfigError, match="train port needs `pretrained`"):
        settings(place, "fresh", "data.layer.train=port", "data.layer.pretrained=null")


def test_a_port_without_help_is_refused(place: Path) -> None:
    with pytest.raises(ConfigError, match="port with losses"):
        settings(place, "no-help", "data.layer.train=port", "losses.help=0")
