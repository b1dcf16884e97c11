"""Passes that go on from the first layer that reads, against whole ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from actors.layers.data_layer import DataLayer, decoder_layers
from actors.settings.layers import DataLayerSpec
from actors.training.execution import prepare_training
from tests.unit.actors.layers.test_general_loss import count_runs
from tests.unit.actors.tiny import FAMILIES, build, one_document, open_gates, tokens


def deeper(family: str) -> DataLayer:
    """Of four layers, which reads after the second and the fourth."""
    depth = "n_layer" if family == "gpt2" else "num_hidden_layers"
    model = build(family, **{depth: 4})[0].model
    spec = DataLayerSpec(
        model_type=family, fields={**FAMILIES[family], depth: 4}, read_layers=(1, 3)
    )
    return open_gates(DataLayer(model, spec, 16, 60)).eval()


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("packed", [False, True])
def test_a_pass_that_goes_on_gives_the_bits_of_a_whole_one(family: str, packed: bool) -> None:
    layer, ids, y_BTM = deeper(family), tokens(3, 11), torch.randn(3, 11, 16)
    segments = (torch.arange(11) // 6).expand(3, -1) if packed else one_document(ids)
    with torch.no_grad():
        alone, front = layer.hidden_and_front(ids, segments)
        assert front is not None
        runs: list[int] = []
        for number, block in enumerate(decoder_layers(layer.model)):
            count_runs(block, number, runs)
        given = layer.hidden(ids, segments, y_BTM, front_BTD=front)
        assert runs == [2, 3]
        whole = layer.hidden(ids, segments, y_BTM)
    assert runs[2:] == [0, 1, 2, 3]
    assert torch.equal(given, whole)
    assert not torch.equal(given, alone)


@pytest.mark.parametrize("recompute", [False, True])
def test_reads_get_the_gradients_of_a_whole_pass(recompute: bool) -> None:
    layer, ids = deeper("llama"), tokens(2, 9)
    layer.model.requires_grad_(False)
    if recompute:
        layer.spec = layer.spec.model_copy(update={"gradient_checkpointing": True})
        prepare_training(layer)
    y_BTM = torch.randn(2, 9, 16, requires_grad=True)
    with torch.no_grad():
        _, front = layer.hidden_and_front(ids, one_document(ids))
    assert front is not None

    def gradients(front_BTD: Tensor | None) -> tuple[Tensor, ...]:
        hidden = layer.hidden(ids, one_document(ids), y_BTM, front_BTD=front_BTD)
        gates = [gate.write.weight for _, gate in layer.port.read_gates()]
        return torch.autograd.grad(hidden.square().sum(), [y_BTM, *gates])

    for given, whole in zip(gradients(front), gradients(None), strict=True):
        assert torch.equal(given, whole)


def test_a_model_with_dropout_is_not_gone_on_with_and_draws_as_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer, ids = build("gpt2", resid_pdrop=0.5)[0], tokens(2, 9)
    layer.train()

    def drawn(run: Any) -> tuple[Tensor, Tensor]:
        torch.manual_seed(3)
        return run(), torch.rand(1)

    plain = drawn(lambda: layer.hidden(ids, one_document(ids)))
    for _ in range(2):
        hidden, after = drawn(lambda: layer.hidden_and_front(ids, one_document(ids)))
        assert hidden[1] is None
        assert torch.equal(hidden[0], plain[0])
        assert torch.equal(after, plain[1])


def test_a_model_whose_later_layers_need_what_earlier_ones_did_is_not_gone_on_with() -> None:
    """As where layers share keys and values."""
    layer, ids, shared = deeper("llama"), tokens(2, 9), {}
    blocks = decoder_layers(layer.model)
    first, last = blocks[0].forward, blocks[3].forward

    def keeps(*args: Any, **named: Any) -> Any:
        shared["of"] = named["position_ids"]
        return first(*args, **named)

    def takes(*args: Any, **named: Any) -> Any:
        shared.pop("of")
        return last(*args, **named)

    blocks[0].forward, blocks[3].forward = keeps, takes
    with torch.no_grad():
        hidden, front = layer.hidden_and_front(ids, one_document(ids))
        again, none = layer.hidden_and_front(ids, one_document(ids))
    assert (front, none) == (None, None)
    assert torch.equal(hidden, again)
    assert blocks[0].forward is keeps


def test_the_layers_compute_again_after_a_pass_that_failed() -> None:
    layer, ids = deeper("llama"), tokens(2, 9)
    with torch.no_grad():
        want, front = layer.hidden_and_front(ids, one_document(ids))
        assert front is not None
        with pytest.raises(RuntimeError):
            layer.hidden(ids, one_document(ids), front_BTD=front[:, :5])
        assert torch.equal(layer.hidden(ids, one_document(ids)), want)
