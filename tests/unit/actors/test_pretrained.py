"""Checkpoints of four families saved on the spot, and places that hold none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from actors.causal_lm import build_model
from actors.data_layer import DataLayer, decoder_layers, output_matrix
from actors.layer_spec import DataLayerSpec
from actors.pretrained import checkpoint, load_front, load_model, vocabulary_at
from actors.tokenizer import Tokenizer
from actors.wire import ConfigError
from tests.unit.actors.tiny import (
    FAMILIES,
    one_document,
    open_gates,
    save_checkpoint,
    tokens,
)

EACH_FAMILY = pytest.mark.parametrize("family", sorted(FAMILIES))


def load(place: str, **fields: object) -> nn.Module:
    spec = DataLayerSpec(pretrained=place, **fields)
    with checkpoint(spec) as found:
        return load_model(spec, found)


def front(place: str, num_layers: int) -> nn.Module:
    spec = DataLayerSpec(pretrained=place)
    with checkpoint(spec) as found:
        return load_front(spec, found, num_layers)


def refusal(place: str, **fields: object) -> str:
    with pytest.raises(ConfigError) as raised:
        load(place, **fields)
    return str(raised.value)


@EACH_FAMILY
@torch.no_grad()
def test_with_reads_off_a_checkpoint_speaks_as_the_plain_model_bit_for_bit(
    family: str, tmp_path: Path
) -> None:
    place = save_checkpoint(tmp_path, family, rows=64)
    spec = DataLayerSpec(pretrained=place, read_layers=(0, 1))
    layer = open_gates(DataLayer(load(place), spec, 16, 60)).eval()
    plain = AutoModelForCausalLM.from_pretrained(place).eval()
    ids = tokens(2, 9)
    want = plain(input_ids=ids).logits[..., :60]
    assert torch.equal(layer(ids, one_document(ids)).logits_BTV, want)


@EACH_FAMILY
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("at", [0, 2])
@torch.no_grad()
def test_a_read_enters_the_output_of_its_own_decoder_layer(
    family: str, attention: str, at: int, tmp_path: Path
) -> None:
    depth = {"n_layer": 3} if family == "gpt2" else {"num_hidden_layers": 3}
    place = save_checkpoint(tmp_path, family, **depth)
    spec = DataLayerSpec(pretrained=place, read_layers=(at,), attention=attention)
    layer = open_gates(DataLayer(load(place, attention=attention), spec, 16, 60)).eval()
    outputs: list[torch.Tensor] = []
    for block in decoder_layers(layer.model):
        block.register_forward_hook(
            lambda _m, _a, out: outputs.append(out[0] if isinstance(out, tuple) else out)
        )
    ids = tokens(1, 5)
    layer(ids, one_document(ids))
    layer(ids, one_document(ids), torch.randn(1, 5, 16))
    off, on = outputs[:3], outputs[3:]
    changed = [not torch.equal(a, b) for a, b in zip(off, on, strict=True)]
    assert changed == [index >= at for index in range(3)]
    assert layer.model.config._attn_implementation == attention


@pytest.mark.parametrize(("family", "tied"), [("gpt2", True), ("qwen2", True), ("qwen3", False)])
def test_tied_and_untied_embeddings_stay_as_they_are(
    family: str, tied: bool, tmp_path: Path
) -> None:
    model = load(save_checkpoint(tmp_path, family))
    assert (model.get_input_embeddings().weight is output_matrix(model)) == tied


def test_the_padding_token_of_a_checkpoint_learns_too(tmp_path: Path) -> None:
    model = load(save_checkpoint(tmp_path))
    assert model.config.pad_token_id == 0
    assert model.get_input_embeddings().padding_idx is None


def test_weights_kept_in_bf16_become_float32(tmp_path: Path) -> None:
    place = save_checkpoint(tmp_path / "wide")
    narrow = AutoModelForCausalLM.from_pretrained(place, dtype=torch.bfloat16)
    narrow.save_pretrained(tmp_path / "narrow")
    model = load(str(tmp_path / "narrow"))
    want = dict(narrow.named_parameters())
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert all(torch.equal(p, want[name].float()) for name, p in model.named_parameters())


def test_more_token_ids_than_the_checkpoint_has_rows_are_refused(tmp_path: Path) -> None:
    place = save_checkpoint(tmp_path, rows=60)
    with pytest.raises(ConfigError, match=r"61 ids.*60 output rows.*tokenizer\.pretrained"):
        DataLayer(load(place), DataLayerSpec(read_layers=(0,)), 16, 61)


def test_dropout_of_a_checkpoint_may_be_changed(tmp_path: Path) -> None:
    model = load(save_checkpoint(tmp_path, "gpt2"), fields={"resid_pdrop": 0.0})
    assert model.config.resid_pdrop == 0.0


def test_an_unknown_dropout_field_is_refused(tmp_path: Path) -> None:
    message = refusal(save_checkpoint(tmp_path), fields={"atention_dropout": 0.1})
    assert "did you mean attention_dropout" in message


def test_a_folder_that_does_not_exist_is_refused() -> None:
    assert "no folder ./nowhere/model" in refusal("./nowhere/model")


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    assert "has no config.json" in refusal(str(tmp_path))


def test_a_config_that_is_no_json_is_refused(tmp_path: Path) -> None:
    place = save_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{not json")
    assert place in refusal(place)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    place = save_checkpoint(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "truncated or altered" in refusal(place)


def test_weights_in_pickle_are_refused(tmp_path: Path) -> None:
    place = save_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    message = refusal(place)
    assert "pickle" in message
    assert "save_pretrained" in message


def test_a_checkpoint_that_lacks_a_layer_is_refused(tmp_path: Path) -> None:
    place = save_checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    assert "lacks" in refusal(place)
    assert "layers.2" in refusal(place)


def test_an_encoder_is_refused(tmp_path: Path) -> None:
    fields = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model("bert", **fields, intermediate_size=64, vocab_size=60)
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path)
    assert "not a causal LM" in refusal(str(tmp_path))
    with pytest.raises(ConfigError, match="not a causal LM"):
        build_model(DataLayerSpec(model_type="bert", fields=fields), 60)


def test_a_quantized_checkpoint_is_refused(tmp_path: Path) -> None:
    place = save_checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    quantized = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": quantized}))
    assert "quantized" in refusal(place)


def test_a_checkpoint_with_code_of_its_own_is_refused(tmp_path: Path) -> None:
    place = save_checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    own = {"model_type": "strange", "auto_map": {"AutoConfig": "code.Strange"}}
    (tmp_path / "config.json").write_text(json.dumps(config | own))
    (tmp_path / "code.py").write_text("raise SystemExit('ran')")
    assert "without code of its own" in refusal(place)


def test_a_hub_name_without_a_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = refusal("tandem-tests/no-such-model")
    assert "check the name and the network" in message


@EACH_FAMILY
def test_a_front_has_the_checkpoints_first_layers(family: str, tmp_path: Path) -> None:
    place = save_checkpoint(tmp_path, family)
    whole, first = load(place), front(place, 1)
    assert len(decoder_layers(first)) == 1
    want = decoder_layers(whole)[0].state_dict()
    assert all(torch.equal(t, want[n]) for n, t in decoder_layers(first)[0].state_dict().items())
    assert torch.equal(
        first.get_input_embeddings().weight,  # type: ignore[operator]
        whole.get_input_embeddings().weight,  # type: ignore[operator]
    )


def test_the_vocabulary_is_that_of_the_tokenizer_beside_the_weights(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    assert vocabulary_at(save_checkpoint(tmp_path)) is None
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    found = vocabulary_at(str(tmp_path))
    assert found is not None
    assert len(found) == tokenizer.size


def test_a_tokenizer_that_can_not_be_read_is_refused(tmp_path: Path) -> None:
    place = save_checkpoint(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"tokenizer\.json can't be read"):
        vocabulary_at(place)
