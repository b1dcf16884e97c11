"""Both layers put together: batches, seeds, and the mixture against the naive formula."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from actors.corpus.windows import Windows
from actors.layers.batch import (
    Batch,
    add_noise,
    data_logits_at,
    memory_logits_at,
    rows_at,
    rows_to,
    to_batch,
)
from actors.layers.mixture import predict_both
from actors.machine.seeds import seed_everything, seed_of
from actors.settings.run import RunSpec
from actors.snapshots.flat_parameters import FlatParameters
from actors.snapshots.sections import section_of
from actors.tokenizers.tokenizer import Tokenizer
from actors.weights.builders import build_data_layer, build_memory_layer
from tests.unit.actors.tiny import build, build_memory, one_document, open_gates, tokens

CPU = torch.device("cpu")


def windows() -> Windows:
    return Windows(
        np.array([[7, 1, 2, 7, 3, 4], [7, 5, 6, 8, 0, 0]], np.int32),
        np.array([[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, -1, -1]], np.int32),
        np.array([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 0, 0]], np.bool_),
    )


def batch_of(ids: Tensor, segments: Tensor | None = None) -> Batch:
    segments = one_document(ids) if segments is None else segments
    learn = np.ones(ids.shape, np.bool_)
    return to_batch(Windows(ids.int().numpy(), segments.int().numpy(), learn), CPU)


def noisy(noise_frac: float) -> tuple[Batch, Batch]:
    batch = batch_of(tokens(20, 50))
    return batch, add_noise(batch, noise_frac, 60, (0, 7), torch.Generator().manual_seed(1))


def test_a_position_is_valid_where_the_next_token_is_learned_in_the_same_document() -> None:
    valid = to_batch(windows(), CPU).valid_BT.int().tolist()
    assert valid == [[1, 1, 0, 1, 1, 0], [0, 1, 1, 0, 0, 0]]


def test_the_target_of_a_valid_position_is_the_next_token() -> None:
    assert to_batch(windows(), CPU).targets_N.tolist() == [1, 2, 3, 4, 6, 8]


def test_padding_is_not_counted_as_tokens() -> None:
    assert to_batch(windows(), CPU).num_tokens == 10


def test_the_rows_of_a_batch_keep_their_targets() -> None:
    assert to_batch(windows(), CPU).rows(slice(1, None)).targets_N.tolist() == [6, 8]


def test_what_host_memory_knows_of_a_batch_is_what_its_tensors_say() -> None:
    for batch in (to_batch(windows(), CPU), to_batch(windows(), CPU).rows(slice(1, None))):
        asked = Batch(batch.tokens_BT, batch.segments_BT, batch.valid_BT, batch.targets_BT)
        assert batch.valid_at_N.tolist() == batch.valid_BT.flatten().nonzero()[:, 0].tolist()
        assert (
            batch.text_at_M.tolist() == (batch.segments_BT >= 0).flatten().nonzero()[:, 0].tolist()
        )
        for name in ("num_tokens", "num_valid", "one_document"):
            assert getattr(batch, name) == getattr(asked, name)
        assert torch.equal(batch.targets_N, asked.targets_N)


@pytest.mark.parametrize(
    ("segments", "one"), [([0, 0, 0], True), ([0, 0, 1], False), ([0, 0, -1], False)]
)
def test_a_batch_is_of_one_document_where_nothing_else_and_no_padding_is_in_it(
    segments: list[int], one: bool
) -> None:
    assert batch_of(tokens(2, 3), torch.tensor([[0, 0, 0], segments])).one_document == one


def test_places_pick_what_their_mask_picks_and_pass_the_same_gradient() -> None:
    x_BTD = torch.randn(2, 6, 5)[..., :3]  # as logits are cut to the tokenizer's ids
    batch = to_batch(windows(), CPU)
    gradients = []
    for where in (batch.valid_BT, batch.valid_at_N):
        leaf = x_BTD.clone().requires_grad_()
        picked = rows_at(leaf, where)
        (picked * torch.arange(18.0).view(6, 3)).sum().backward()
        gradients.append((picked.detach(), leaf.grad))
    for masked, placed in zip(*gradients, strict=True):
        assert torch.equal(masked, placed)


def test_rows_go_back_to_the_places_that_they_were_picked_at() -> None:
    x_BTD, batch = torch.randn(2, 6, 3), to_batch(windows(), CPU)
    back = rows_to(rows_at(x_BTD, batch.valid_at_N), batch.valid_at_N, batch.tokens_BT.shape)
    assert torch.equal(back, x_BTD * batch.valid_BT[..., None])
    nothing = rows_to(x_BTD[:0, 0], batch.valid_at_N[:0], batch.tokens_BT[:0].shape)
    assert nothing.shape == (0, 6, 3)


def test_the_data_layers_own_logits_at_the_valid_positions_are_those_of_its_pass() -> None:
    data, batch = build("llama")[0], to_batch(windows(), CPU)
    with torch.no_grad():
        everywhere = data(batch.tokens_BT, batch.segments_BT).logits_BTV
        assert torch.equal(data_logits_at(data, batch), everywhere[batch.valid_BT])


def test_noise_replaces_about_the_share_asked_for() -> None:
    batch, noised = noisy(0.3)
    share = (noised.tokens_BT != batch.tokens_BT).float().mean().item()
    assert share == pytest.approx(0.3, abs=0.05)


def test_noise_leaves_the_targets() -> None:
    batch, noised = noisy(0.9)
    assert torch.equal(noised.targets_BT, batch.targets_BT)


def test_noise_leaves_document_marks() -> None:
    batch, noised = noisy(0.9)
    for mark in (0, 7):
        marks = batch.tokens_BT == mark
        assert marks.any()
        assert bool((noised.tokens_BT[marks] == mark).all())


def test_no_noise_changes_no_token() -> None:
    batch, noised = noisy(0.0)
    assert torch.equal(noised.tokens_BT, batch.tokens_BT)


def test_a_seed_depends_on_every_part_and_their_order() -> None:
    parts = [(1, "data", 0, 1), (2, "data", 0, 1), (1, "memory", 0, 1), (1, "data", 1, 0)]
    parts += [(1, "data", 0, 2), (1, "data", 0, 1, "choices")]
    assert len({seed_of(*each) for each in parts}) == len(parts)


def test_a_seed_is_a_63_bit_number_and_always_the_same() -> None:
    seeds = [seed_of(3, "data", n) for n in range(50)]
    assert seeds == [seed_of(3, "data", n) for n in range(50)]
    assert 2**60 < max(seeds) < 2**63


def test_seeding_makes_the_next_numbers_the_same() -> None:
    seed_everything(1, "data", 2)
    before = torch.rand(3)
    seed_everything(1, "data", 2)
    assert torch.equal(torch.rand(3), before)


def data_digest(spec: RunSpec, tokenizer: Tokenizer) -> str:
    return FlatParameters(build_data_layer(spec, tokenizer, CPU), section_of).digest()


def memory_digest(spec: RunSpec, tokenizer: Tokenizer) -> str:
    return FlatParameters(build_memory_layer(spec, tokenizer, 400, CPU), section_of).digest()


@pytest.mark.parametrize("digest", [data_digest, memory_digest])
def test_every_process_builds_the_same_weights(
    spec: RunSpec, tokenizer: Tokenizer, digest: Callable[[RunSpec, Tokenizer], str]
) -> None:
    before = digest(spec, tokenizer)
    torch.manual_seed(1234)  # whatever was drawn before
    assert digest(spec, tokenizer) == before


@pytest.mark.parametrize("digest", [data_digest, memory_digest])
def test_another_seed_builds_other_weights(
    spec: RunSpec, tokenizer: Tokenizer, digest: Callable[[RunSpec, Tokenizer], str]
) -> None:
    other = spec.model_copy(update={"seed": 4})
    assert digest(other, tokenizer) != digest(spec, tokenizer)


@torch.no_grad()
def test_readers_are_answered_by_the_mixture_of_both_layers() -> None:
    data, memory = open_gates(build("llama")[0]), build_memory()
    batch = batch_of(tokens(3, 9), torch.tensor([[0] * 4 + [1] * 5] * 3))
    read = memory.read(batch.tokens_BT, batch.segments_BT)
    at = batch.valid_BT[:2]
    _, both = predict_both(data, memory, batch, read.y[:2], at)
    mixed = both.mixed()
    alone = batch.rows(slice(0, 2))
    out = data(alone.tokens_BT, alone.segments_BT, read.y[:2])
    p = out.logits_BTV[at].softmax(-1)
    q = memory.predict(read.y[:2][at]).softmax(-1)
    logit = data.port.mixing_logit(out.hidden_BTD[at], read.y[:2][at], p.log(), q.log())
    lam = torch.sigmoid(logit).unsqueeze(-1)
    torch.testing.assert_close(mixed.logp.exp(), (1 - lam) * p + lam * q, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_rest_of_a_batch_is_as_with_reads_off() -> None:
    data, memory = open_gates(build("llama")[0]), build_memory()
    batch = batch_of(tokens(3, 9))
    read = memory.read(batch.tokens_BT[:1], batch.segments_BT[:1])
    out, _ = predict_both(data, memory, batch, read.y[:1], batch.valid_BT[:1])
    off = data(batch.tokens_BT, batch.segments_BT).logits_BTV
    assert torch.equal(out.logits_BTV[1:], off[1:])


@torch.no_grad()
def test_a_read_that_is_dropped_is_not_heard_and_still_part_of_the_mixture() -> None:
    data, memory = open_gates(build("llama")[0]), build_memory()
    batch = batch_of(tokens(3, 9))
    y = memory.read(batch.tokens_BT, batch.segments_BT).y
    scale = torch.ones(3, 9)
    scale[:2] = 0.0
    out, both = predict_both(data, memory, batch, y, batch.valid_BT, scale)
    mixed = both.mixed()
    off, on = (data(batch.tokens_BT, batch.segments_BT, reads).logits_BTV for reads in (None, y))
    torch.testing.assert_close(out.logits_BTV[:2], off[:2])
    torch.testing.assert_close(out.logits_BTV[2:], on[2:])
    p, q = (logits[batch.valid_BT].softmax(-1) for logits in (out.logits_BTV, memory.predict(y)))
    lam = mixed.mixing.unsqueeze(-1)
    torch.testing.assert_close(mixed.logp.exp(), (1 - lam) * p + lam * q, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_batch_without_readers_has_an_empty_mixture() -> None:
    data, memory = open_gates(build("llama")[0]), build_memory()
    batch = batch_of(tokens(3, 9))
    read = memory.read(batch.tokens_BT[:0], batch.segments_BT[:0])
    _, both = predict_both(data, memory, batch, read.y[:0], batch.valid_BT[:0])
    mixed = both.mixed()
    assert mixed.logp.shape == (0, 60)


@torch.no_grad()
def test_a_mixture_over_a_padded_vocabulary_is_a_distribution_over_the_tokenizers_ids() -> None:
    data, memory = open_gates(build("llama", 64, 60)[0]), build_memory(64, 60)
    batch = batch_of(tokens(2, 9))
    read = memory.read(batch.tokens_BT, batch.segments_BT)
    _, both = predict_both(data, memory, batch, read.y[:2], batch.valid_BT)
    mixed = both.mixed()
    assert mixed.logp.shape == (16, 60)
    torch.testing.assert_close(mixed.logp.logsumexp(-1), torch.zeros(16), atol=1e-5, rtol=0)


@pytest.mark.parametrize("path", ["read", "prediction"])
def test_help_reaches_the_values_by_each_path_alone(path: str) -> None:
    data, memory = open_gates(build("llama")[0]).requires_grad_(False), build_memory()
    data.port.mix.weight.zero_()
    data.port.mix.bias.fill_(-200.0 if path == "read" else 0.0)  # lambda 0: the read alone
    if path == "prediction":
        for gate in data.port.gates.values():
            gate.write.weight.zero_()
    batch = batch_of(tokens(2, 9))
    read = memory.read(batch.tokens_BT, batch.segments_BT)
    _, both = predict_both(data, memory, batch, read.y[:2], batch.valid_BT)
    mixed = both.mixed()
    torch.nn.functional.nll_loss(mixed.logp, batch.targets_N).backward()
    assert memory.values.grad is not None
    assert memory.values.grad.to_dense().norm() > 1e-4


@torch.no_grad()
def test_predicting_at_the_valid_positions_equals_predicting_everywhere() -> None:
    memory = build_memory()
    batch = batch_of(tokens(2, 9), torch.tensor([[0] * 4 + [1] * 5, [0] * 7 + [-1] * 2]))
    everywhere = memory.predict(memory.read(batch.tokens_BT, batch.segments_BT).y)
    torch.testing.assert_close(memory_logits_at(memory, batch), everywhere[batch.valid_BT])
