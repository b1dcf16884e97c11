"""Models that will do, their first layers, and models that will not."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from actors.layers.causal_lm import build_model, check_model, fresh_config, front_config, front_of
from actors.layers.data_layer import decoder_layers
from actors.settings.layers import DataLayerSpec
from actors.wire import ConfigError
from tests.unit.actors.tiny import (
    FAMILIES,
    LLAMA,
)

EACH_FAMILY = pytest.mark.parametrize("family", sorted(FAMILIES))


def test_an_encoder_decoder_is_refused() -> None:
    with pytest.raises(ConfigError, match="not a causal LM"):
        build_model(DataLayerSpec(model_type="t5"), 60)


def test_a_mistyped_model_type_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no type 'lama' is known; did you mean llama\?"):
        build_model(DataLayerSpec(model_type="lama"), 60)


@EACH_FAMILY
def test_every_family_is_causal_and_keeps_documents_apart(family: str) -> None:
    check_model(build_model(DataLayerSpec(model_type=family, fields=FAMILIES[family]), 60), family)


def test_checking_a_model_leaves_it_in_training() -> None:
    model = build_model(DataLayerSpec(fields=LLAMA), 60).train()
    check_model(model, "llama")
    assert model.training


def test_a_model_that_sees_later_tokens_is_refused() -> None:
    model = build_model(DataLayerSpec(fields=LLAMA), 60)
    mix_all = lambda _m, _a, out: out + out.mean(1, keepdim=True)  # noqa: E731
    decoder_layers(model)[0].register_forward_hook(mix_all)
    with pytest.raises(ConfigError, match="depend on later tokens"):
        check_model(model, "llama")


def test_a_model_that_sees_the_document_before_is_refused() -> None:
    model = build_model(DataLayerSpec(fields=LLAMA), 60)
    sum_up = lambda _m, _a, out: out + out.cumsum(1)  # noqa: E731
    decoder_layers(model)[0].register_forward_hook(sum_up)
    with pytest.raises(ConfigError, match="document before"):
        check_model(model, "llama")


def test_a_model_that_takes_no_mask_is_refused() -> None:
    fields = {"hidden_size": 32, "n_layer": 2, "n_head": 2}
    model = build_model(DataLayerSpec(model_type="bloom", fields=fields), 60)
    with pytest.raises(ConfigError, match="can't take windows of packed documents"):
        check_model(model, "bloom")


def test_a_front_longer_than_the_model_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"copy_layers 3.*only 2 decoder layers"):
        front_config(fresh_config(DataLayerSpec(fields=LLAMA), 60), 3)


def test_a_front_of_a_config_that_names_no_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"frozen_copy.*names no decoder layers"):
        front_config(SimpleNamespace(model_type="pictures"), 1)


def test_a_front_keeps_one_entry_per_layer_of_lists_over_layers() -> None:
    config = fresh_config(DataLayerSpec(model_type="qwen2", fields=FAMILIES["qwen2"]), 60)
    assert len(config.layer_types) == 2
    assert front_config(config, 1).layer_types == ["full_attention"]


def test_a_front_is_made_again_of_its_config() -> None:
    config = front_config(fresh_config(DataLayerSpec(fields=LLAMA), 60), 1)
    first = front_of(config.to_dict())
    again = front_of(json.loads(json.dumps(first.config.to_dict())))
    again.load_state_dict(first.state_dict())
    assert len(decoder_layers(again)) == 1


@EACH_FAMILY
def test_the_token_that_marks_documents_has_an_embedding_that_learns(family: str) -> None:
    model = build_model(DataLayerSpec(model_type=family, fields=FAMILIES[family]), 60)
    assert model.config.pad_token_id == 0  # type: ignore[union-attr]
    marks = model.get_input_embeddings().weight  # type: ignore[operator]
    ids_BT = torch.zeros(1, 3, dtype=torch.int64)
    hidden = model(input_ids=ids_BT, output_hidden_states=True).hidden_states[0]  # type: ignore[operator]
    (gradient,) = torch.autograd.grad(hidden.square().sum(), marks)
    assert marks[0].abs().sum() > 0
    assert gradient[0].abs().sum() > 0
