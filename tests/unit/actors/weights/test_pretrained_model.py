"""Checkpoints of four families saved on the spot, and places that hold none."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from actors.layers.causal_lm import build_model
from actors.layers.data_layer import DataLayer, decoder_layers, output_matrix
from actors.settings.layers import DataLayerSpec
from actors.tokenizers.tokenizer import Tokenizer
from actors.weights.pretrained_model import (
    load_front,
    load_model,
    outline,
    pretrained_path,
    vocabulary_at,
)
from actors.wire import ConfigError
from tests.unit.actors.tiny import (
    FAMILIES,
    edit_config,
    one_document,
    open_gates,
    save_checkpoint,
    tokens,
)

EACH_FAMILY = pytest.mark.parametrize("family", sorted(FAMILIES))


def load(place: str, **fields: object) -> nn.Module:
    spec = DataLayerSpec(pretrained=place, **fields)
    with pretrained_path(spec) as found:
        return load_model(spec, found)


def front(place: str, num_layers: int) -> nn.Module:
    spec = DataLayerSpec(pretrained=place)
    with pretrained_path(spec) as found:
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
    for place in ("./nowhere/model", ".nowhere", "nowhere/"):
        assert f"no folder {place}" in refusal(place)


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


def outlined(place: str, **fields: object) -> nn.Module:
    spec = DataLayerSpec(pretrained=place, **fields)
    with pretrained_path(spec) as found:
        return outline(spec, found)


def refused_both_ways(place: str) -> str:
    """What loading says, and looking at the headers alone says too."""
    message = refusal(place)
    with pytest.raises(ConfigError) as raised:
        outlined(place)
    assert str(raised.value) == message
    return message


def biased(folder: Path) -> str:
    """A checkpoint with biases of which its config says nothing."""
    place = save_checkpoint(folder, attention_bias=True)
    edit_config(folder, attention_bias=False)
    return place


def test_biases_that_the_config_does_not_know_are_named_and_refused(tmp_path: Path) -> None:
    message = refused_both_ways(biased(tmp_path))
    assert "holds 8 tensors that LlamaForCausalLM by its config.json does not have" in message
    assert "model.layers.0.self_attn.k_proj.bias" in message
    assert "data.layer.allow_unexpected: true" in message


def test_layers_beyond_the_config_are_named_and_refused(tmp_path: Path) -> None:
    place = save_checkpoint(tmp_path, num_hidden_layers=4)
    edit_config(tmp_path, num_hidden_layers=2)
    assert "model.layers.2.input_layernorm.weight" in refused_both_ways(place)


def with_tensors(folder: Path, extra: dict[str, torch.Tensor]) -> str:
    place = save_checkpoint(folder)
    tensors = load_file(folder / "model.safetensors") | extra
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return place


def test_adapter_tensors_inside_a_checkpoint_are_named_and_refused(tmp_path: Path) -> None:
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    assert name in refused_both_ways(with_tensors(tmp_path, {name: torch.zeros(4, 32)}))


def test_tensors_without_a_place_are_let_go_where_a_setting_says_so(tmp_path: Path) -> None:
    place = biased(tmp_path)
    model = load(place, allow_unexpected=True)
    assert not any(name.endswith("bias") for name in model.state_dict())
    outlined(place, allow_unexpected=True)


def test_what_transformers_itself_leaves_out_is_no_unexpected_tensor(tmp_path: Path) -> None:
    old = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.zeros(8) for i in range(2)}
    load(with_tensors(tmp_path, old))
    outlined(str(tmp_path))


def test_a_tensor_of_another_shape_is_named_and_refused(tmp_path: Path) -> None:
    place = save_checkpoint(tmp_path)
    edit_config(tmp_path, intermediate_size=80)
    message = refused_both_ways(place)
    assert "mlp.down_proj.weight: expected [32, 80], got [32, 64]" in message


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_no_numbers_are_named_and_refused(value: float, tmp_path: Path) -> None:
    save_checkpoint(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 2] = value
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    assert "model.layers.1.mlp.up_proj.weight holds NaN or infinity" in refusal(str(tmp_path))


def test_a_link_to_weights_that_are_gone_is_named(tmp_path: Path) -> None:
    save_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").symlink_to("../blobs/0a1b")
    said = "model.safetensors is a link to ../blobs/0a1b, which does not exist"
    assert said in refused_both_ways(str(tmp_path))


def test_a_missing_tensor_is_named_by_headers_too(tmp_path: Path) -> None:
    place = save_checkpoint(tmp_path)
    edit_config(tmp_path, num_hidden_layers=3)
    assert "model.layers.2" in refused_both_ways(place)


@torch.no_grad()
def test_a_head_of_its_own_is_kept_where_the_config_says_tied(tmp_path: Path) -> None:
    want = load(save_checkpoint(tmp_path)).get_output_embeddings().weight  # type: ignore[operator]
    edit_config(tmp_path, tie_word_embeddings=True)
    model = load(str(tmp_path))
    assert torch.equal(output_matrix(model), want)
    assert model.config.tie_word_embeddings is False
    outline = outlined(str(tmp_path))
    assert output_matrix(outline) is not outline.get_input_embeddings().weight  # type: ignore[operator]


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 99\n"


def shard(folder: Path) -> None:
    """Splits the weights into two files and an index."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    halves = {"one.safetensors": names[:9], "two.safetensors": names[9:]}
    for file, part in halves.items():
        save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
    where = {name: file for file, part in halves.items() for name in part}
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


def test_sharded_weights_are_loaded_and_looked_at(tmp_path: Path) -> None:
    whole = load(save_checkpoint(tmp_path)).state_dict()
    shard(tmp_path)
    assert all(torch.equal(t, whole[n]) for n, t in load(str(tmp_path)).state_dict().items())
    assert {n: t.shape for n, t in outlined(str(tmp_path)).state_dict().items()} == {
        n: t.shape for n, t in whole.items()
    }


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    place = save_checkpoint(tmp_path)
    shard(tmp_path)
    (tmp_path / "two.safetensors").unlink()
    message = refused_both_ways(place)
    assert "lacks 1 of the 2 files that model.safetensors.index.json names" in message
    assert "two.safetensors" in message


@pytest.mark.parametrize(("content", "said"), [(b"{", "can't be read"), (b"{}", "weight_map")])
def test_an_index_that_names_no_files_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    place = save_checkpoint(tmp_path)
    shard(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_bytes(content)
    assert said in refused_both_ways(place)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "generation_config.json"])
def test_a_pipe_in_the_folder_is_refused_and_not_waited_for(name: str, tmp_path: Path) -> None:
    place = save_checkpoint(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    assert f"{place}: {name} is a pipe, expected a file" in refused_both_ways(place)


def test_a_pipe_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model")
    assert f"{tmp_path}/model is a pipe, expected a file" in refused_both_ways(
        str(tmp_path / "model")
    )


def test_a_pointer_of_git_lfs_is_told_from_weights(tmp_path: Path) -> None:
    place = save_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(POINTER)
    message = refused_both_ways(place)
    assert "model.safetensors is a pointer of Git LFS" in message
    assert "git lfs pull" in message


def test_weights_of_whole_numbers_are_refused_and_masks_of_them_are_not(tmp_path: Path) -> None:
    place = save_checkpoint(tmp_path)
    weights = tmp_path / "model.safetensors"
    tensors = load_file(weights)
    mask = {"model.layers.0.self_attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.uint8)}
    save_file({**tensors, **mask}, weights, {"format": "pt"})
    assert load_model(DataLayerSpec(pretrained=place, allow_unexpected=True), place)
    name = "model.layers.0.mlp.up_proj.weight"
    save_file({**tensors, name: (50 * tensors[name]).to(torch.int8)}, weights, {"format": "pt"})
    message = refused_both_ways(place)
    assert f"model.safetensors holds {name} as I8, whole numbers: it is quantized" in message


def test_headers_alone_tell_that_a_file_is_truncated(tmp_path: Path) -> None:
    place = save_checkpoint(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "model.safetensors is truncated or altered" in refused_both_ways(place)


def test_a_folder_without_weights_is_refused_and_what_it_has_is_named(tmp_path: Path) -> None:
    place = save_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    message = refused_both_ways(place)
    assert "has no weights" in message
    assert "(there are: config.json, generation_config.json)" in message


def test_a_gguf_file_and_a_folder_with_only_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "small-q4.gguf").write_bytes(b"GGUF")
    for place in (tmp_path, tmp_path / "small-q4.gguf"):
        message = refused_both_ways(str(place))
        assert "GGUF file" in message
        assert "give the checkpoint that it was made from" in message


def test_an_adapter_is_refused_with_how_to_merge_it(tmp_path: Path) -> None:
    config = {"base_model_name_or_path": "owner/base", "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    message = refused_both_ways(str(tmp_path))
    assert "is an adapter, not a model" in message
    assert "from_pretrained('owner/base')" in message
    assert "merge_and_unload()" in message


def test_an_adapter_beside_a_whole_model_is_refused(tmp_path: Path) -> None:
    place = save_checkpoint(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "beside a whole model" in refused_both_ways(place)


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
