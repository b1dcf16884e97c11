"""bf16 against float32: close, finite, and float32 where it must be."""

from __future__ import annotations

import pytest
import torch

from actors.layers import losses
from actors.layers.batch import memory_logits_at
from actors.layers.memory_layer import MemoryLayer
from actors.layers.mixture import predict_both
from actors.operators.precision import Precision, autocast, compute_dtype, in_float32, widen
from tests.unit.actors.layers.test_batch import batch_of
from tests.unit.actors.tiny import FAMILIES, build, build_memory, open_gates, tokens

CPU = torch.device("cpu")
EACH_FAMILY = pytest.mark.parametrize("family", sorted(FAMILIES))
SEGMENTS = torch.tensor([[0] * 4 + [1] * 5 + [-1] * 2] * 4)


def memory_of(rows: int = 60) -> MemoryLayer:
    return build_memory(rows, tie_embeddings=False)


def step(family: str, precision: Precision) -> tuple[float, dict[str, torch.Tensor]]:
    """One step of own, help, recall, self and balance: the loss and all gradients."""
    data, memory = open_gates(build(family)[0]), memory_of()
    batch = batch_of(tokens(4, 11), SEGMENTS)
    with autocast(precision, CPU):
        read = memory.read(batch.tokens_BT[:2], batch.segments_BT[:2])
        out, both = predict_both(data, memory, batch, read.y, batch.valid_BT[:2])
        logits_NV = memory_logits_at(memory, batch)
        theirs_NV = out.logits_BTV[batch.valid_BT]
        loss = losses.own(theirs_NV, batch.targets_N)
        loss = loss + losses.help_(both.mixed().logp, batch.rows(slice(None, 2)).targets_N)
        loss = loss + losses.self_(logits_NV, batch.targets_N)
        loss = loss + losses.recall(theirs_NV, logits_NV)
        loss = loss + losses.balance(read.side_scores)
    loss.backward()
    parameters = [*data.named_parameters(), *memory.named_parameters()]
    return loss.item(), {n: p.grad.to_dense() for n, p in parameters if p.grad is not None}


@EACH_FAMILY
def test_a_step_in_bf16_has_about_the_loss_of_one_in_float32(family: str) -> None:
    assert step(family, "bf16")[0] == pytest.approx(step(family, "fp32")[0], rel=0.01)


@EACH_FAMILY
def test_gradients_of_a_bf16_step_are_finite_float32_and_point_the_same_way(family: str) -> None:
    _, want = step(family, "fp32")
    _, got = step(family, "bf16")
    assert set(got) == set(want)
    assert all(g.dtype == torch.float32 and bool(g.isfinite().all()) for g in got.values())
    one, other = (torch.cat([g[n].flatten() for n in sorted(g)]) for g in (got, want))
    assert torch.nn.functional.cosine_similarity(one, other, dim=0) > 0.98


@EACH_FAMILY
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_packed_documents_stay_apart_in_bf16(family: str, attention: str) -> None:
    layer, _ = build(family)
    layer.model.set_attn_implementation(attention)
    ids = tokens(1, 11)
    other = ids.clone()
    other[0, :4] = (ids[0, :4] + 1) % 60
    with autocast("bf16", CPU):
        one, two = (layer(t, SEGMENTS[:1]).logits_BTV for t in (ids, other))
    assert bool(one.isfinite().all())
    assert torch.equal(one[:, 4:9], two[:, 4:9])
    assert not torch.equal(one[:, :4], two[:, :4])


@torch.no_grad()
def test_matrix_products_of_both_layers_run_in_bf16() -> None:
    data, memory = build("llama")[0], memory_of()
    ids = tokens(1, 11)
    with autocast("bf16", CPU):
        logits = data(ids, SEGMENTS[:1]).logits_BTV
        predicted = memory.predict(memory.read(ids, SEGMENTS[:1]).y)
    assert (logits.dtype, predicted.dtype) == (torch.bfloat16, torch.bfloat16)


@torch.no_grad()
def test_addresses_and_reads_are_float32_in_bf16() -> None:
    memory = memory_of()
    ids = tokens(1, 11)
    with autocast("bf16", CPU):
        u, _ = memory.encode(ids, SEGMENTS[:1])
        read = memory.read_at(u)
    dtypes = {t.dtype for t in (u, read.y, read.weights, read.side_scores)}
    assert dtypes == {torch.float32}


@torch.no_grad()
def test_the_same_encoding_reads_the_same_slots_in_bf16() -> None:
    memory, u = memory_of(), torch.randn(50, 16)
    with autocast("bf16", CPU):
        slots = memory.read_at(u).slots
    assert torch.equal(slots, memory.read_at(u).slots)


def test_losses_of_bf16_logits_are_computed_in_float32() -> None:
    logits = torch.randn(20, 300).bfloat16()
    targets = torch.randint(300, (20,))
    assert torch.equal(losses.own(logits, targets), losses.own(logits.float(), targets))
    assert losses.recall(logits, logits.roll(1, 0)).dtype == torch.float32


@torch.no_grad()
def test_float32_inside_the_context_of_fp32_changes_no_bit() -> None:
    data, _ = build("llama")
    batch = tokens(1, 11)
    with autocast("fp32", CPU):
        got = data(batch, SEGMENTS[:1]).logits_BTV
    assert torch.equal(got, data(batch, SEGMENTS[:1]).logits_BTV)


def test_what_products_give_is_autocasts_dtype_inside_of_it_alone() -> None:
    assert compute_dtype(CPU, torch.float32) == torch.float32
    with autocast("bf16", CPU):
        assert compute_dtype(CPU, torch.float32) == torch.bfloat16
        with in_float32(CPU):
            assert compute_dtype(CPU, torch.float32) == torch.float32


@pytest.mark.parametrize(
    ("given", "want"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_only_half_width_tensors_are_widened(given: torch.dtype, want: torch.dtype) -> None:
    assert widen(torch.ones(2, dtype=given)).dtype == want
