"""Logits of chosen hidden states are those of the model's own forward pass, with its gradients,
whatever its family does to them.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from actors.layers.causal_lm import build_model
from actors.layers.data_layer import DataLayer
from actors.settings.layers import DataLayerSpec
from tests.unit.actors.tiny import GPT2, LLAMA, one_document, open_gates, tokens

ROWS = 60
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "gpt2": GPT2,
    "gemma2": {**LLAMA, "head_dim": 16, "final_logit_softcapping": 0.5},
    "gemma3_text": {**LLAMA, "head_dim": 16},
    "granite": {**LLAMA, "logits_scaling": 4.0},
    "cohere": {**LLAMA, "logit_scale": 0.0625},
    "phi": LLAMA,  # its output matrix has a bias
}


def layer_of(family: str, num_tokens: int) -> DataLayer:
    torch.manual_seed(7)
    spec = DataLayerSpec(model_type=family, fields=FAMILIES[family], read_layers=(0, 1))
    model = build_model(spec, ROWS).eval()
    head = model.get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        torch.nn.init.normal_(head.bias)
    return open_gates(DataLayer(model, spec, 16, num_tokens).eval())


def gradients(layer: DataLayer) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in layer.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("num_tokens", [ROWS, 50])
def test_chosen_positions_have_the_models_own_logits_and_gradients(
    family: str, num_tokens: int
) -> None:
    layer, ids = layer_of(family, num_tokens), tokens(2, 9, num=50)
    y = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(1))
    factors = torch.randn(5, num_tokens, generator=torch.Generator().manual_seed(2))
    at = torch.tensor([0, 3, 4, 10, 17])
    out = layer(ids, one_document(ids), y)
    want = out.logits_BTV.flatten(0, 1)[at]
    loss = (factors * want).sum()
    if num_tokens < ROWS:
        assert out.beyond_BT is not None
        loss = loss + out.beyond_BT.flatten()[at].sum()
    loss.backward()
    expected = gradients(layer)
    layer.zero_grad()
    hidden_NH = layer.hidden(ids, one_document(ids), y).flatten(0, 1)[at]
    got, beyond_N = layer.outputs_at(hidden_NH, into_grad=True)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    loss = (factors * got).sum()
    if num_tokens < ROWS:
        assert beyond_N is not None
        loss = loss + beyond_N.sum()
    else:
        assert beyond_N is None
    loss.backward()
    found = gradients(layer)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("family", ["gemma2", "granite", "cohere"])
def test_these_families_change_what_their_output_matrix_gives(family: str) -> None:
    layer = layer_of(family, ROWS)
    hidden_NH = torch.randn(3, 32, generator=torch.Generator().manual_seed(3))
    plain = layer.model.get_output_embeddings()(hidden_NH)
    assert (layer.logits_at(hidden_NH) - plain).abs().max() > 1e-3
