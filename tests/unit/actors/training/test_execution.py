"""Compiled and recomputed layers against plain ones, read for read and gradient for gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from actors.layers.causal_lm import build_model
from actors.layers.copy_encoder import CopyEncoder
from actors.layers.data_layer import DataLayer
from actors.layers.memory_layer import MemoryLayer
from actors.settings.layers import DataLayerSpec
from actors.training.execution import blocks_of, prepare_training
from actors.weights.pretrained_model import load_front
from tests.unit.actors.tiny import (
    FAMILIES,
    build_memory,
    memory_spec,
    one_document,
    open_gates,
    save_checkpoint,
    tokens,
)

RECOMPUTED = {"gradient_checkpointing": True}
COMPILED = {"compile": True}
TRACED = "aot_eager"  # as the default backend, but for the code that a compiler makes of it
SEGMENTS = torch.tensor([[0] * 5 + [1] * 6] * 3)


@pytest.fixture(autouse=True)
def _nothing_compiled() -> None:
    torch._dynamo.reset()


def build(family: str, **ways: Any) -> DataLayer:
    spec = DataLayerSpec(model_type=family, fields=FAMILIES[family], read_layers=(0, 1), **ways)
    torch.manual_seed(7)
    model = build_model(spec, 60)
    torch.manual_seed(8)
    return open_gates(DataLayer(model, spec, 16, 60)).train()


def gradients(layer: DataLayer, y: Tensor | None) -> dict[str, Tensor]:
    ids = tokens(3, 11)
    torch.manual_seed(0)  # dropout
    logits = layer(ids, SEGMENTS, y).logits_BTV
    nn.functional.cross_entropy(logits.flatten(0, 1), ids.roll(-1, 1).flatten()).backward()
    return {n: p.grad for n, p in layer.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("family", "ways"),
    [
        *((family, RECOMPUTED) for family in sorted(FAMILIES)),
        ("llama", COMPILED),
        ("gpt2", COMPILED),
        ("llama", RECOMPUTED | COMPILED),
    ],
)
def test_gradients_are_the_plain_layers(family: str, ways: dict[str, bool]) -> None:
    y = torch.randn(2, 11, 16)
    want = gradients(build(family), y)
    layer = build(family, **ways)
    prepare_training(layer, backend=TRACED)
    got = gradients(layer, y)
    assert set(got) == set(want)
    for name, gradient in got.items():
        torch.testing.assert_close(gradient, want[name], atol=1e-6, rtol=1e-4)


def test_gradients_computed_again_are_the_plain_layers_bit_for_bit() -> None:
    y = torch.randn(2, 11, 16)
    want = gradients(build("llama"), y)
    layer = build("llama", gradient_checkpointing=True)
    prepare_training(layer)
    assert all(torch.equal(g, want[n]) for n, g in gradients(layer, y).items())


@pytest.mark.parametrize("ways", [RECOMPUTED, COMPILED, RECOMPUTED | COMPILED])
def test_parameters_keep_their_names(ways: dict[str, bool]) -> None:
    layer = build("llama", **ways)
    names = list(layer.state_dict())
    prepare_training(layer, backend="eager")
    assert list(layer.state_dict()) == names


def test_recomputing_keeps_fewer_activations() -> None:
    kept = []
    for on in (False, True):
        layer = build("llama", gradient_checkpointing=on)
        prepare_training(layer)
        saved: list[int] = []
        ids = tokens(3, 11)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, saved=saved: (saved.append(t.numel()), t)[1], lambda t: t
        ):
            layer(ids, SEGMENTS)
        kept.append(sum(saved))
    assert kept[1] < 0.7 * kept[0]


def test_nothing_is_computed_again_without_gradient() -> None:
    layer = build("llama", gradient_checkpointing=True)
    prepare_training(layer)
    ids = tokens(3, 11)
    with torch.no_grad():
        got = layer(ids, SEGMENTS).logits_BTV
    assert torch.equal(got, build("llama")(ids, SEGMENTS).logits_BTV)


def test_a_cache_is_written_once_though_the_layer_is_in_training() -> None:
    layer = build("llama", gradient_checkpointing=True)
    prepare_training(layer)
    out = layer.model(input_ids=tokens(1, 5), use_cache=True)
    assert out.past_key_values.get_seq_length() == 5


def test_reads_that_come_and_go_compile_nothing_anew() -> None:
    counter = CompileCounter()
    layer = build("llama", compile=True)
    prepare_training(layer, backend=counter)
    ids = tokens(3, 11)
    seen = []
    for readers in (0, 2, 1, 3, 0, 2):
        y = torch.randn(readers, 11, 16) if readers else None
        layer(ids, SEGMENTS, y).logits_BTV.sum().backward()
        seen.append(counter.frame_count)
    assert seen[0] >= 1
    assert seen[-1] == seen[0]


def test_layers_of_one_kind_share_what_was_compiled() -> None:
    counter = CompileCounter()
    layer = build("llama", compile=True)
    prepare_training(layer, backend=counter)
    layer(tokens(3, 11), SEGMENTS)
    assert counter.frame_count < len(blocks_of(layer)) + 1


def test_by_default_nothing_is_wrapped() -> None:
    layer = build("llama")
    prepare_training(layer)
    assert not any("forward" in vars(block) for block in blocks_of(layer))


def test_a_compiled_memory_encodes_and_learns_as_before() -> None:
    ids, found = tokens(2, 11), []
    for memory in (build_memory(), build_memory(compile=True)):
        prepare_training(memory, backend=TRACED)
        u_BTD, _ = memory.encode(ids, SEGMENTS[:2])
        u_BTD.square().sum().backward()
        blocks = memory.encoder.blocks.named_parameters()
        found.append({"u": u_BTD.detach(), **{name: p.grad for name, p in blocks}})
    torch.testing.assert_close(found[1], found[0])


def test_a_compiled_frozen_copy_encodes_as_before(tmp_path: Path) -> None:
    place = save_checkpoint(tmp_path)
    spec = memory_spec(encoder="frozen_copy", dim=32, compile=True)
    front = load_front(DataLayerSpec(pretrained=place), place, 1)
    memory = MemoryLayer(spec, 60, 60, CopyEncoder(front, 32))
    ids = tokens(2, 11)
    want, _ = memory.encode(ids, one_document(ids))
    prepare_training(memory, backend=TRACED)
    torch.testing.assert_close(memory.encode(ids, one_document(ids))[0], want)
