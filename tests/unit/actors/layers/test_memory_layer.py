"""The memory layer against exhaustive search, loops over tokens, and itself fed in pieces."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from actors.layers.memory_layer import EncoderState, MemoryLayer, product_topk
from tests.unit.actors.tiny import build_memory, one_document, tokens

BLOCKS = pytest.mark.parametrize(
    ("dilations", "attention_heads"),
    [((1,), 0), ((1, 2, 4), 0), ((3,), 2), ((1, 2), 2), ((2, 1, 4), 2)],
)


TIED = pytest.mark.parametrize("tied", [True, False])


def fed_in_pieces(memory: MemoryLayer, ids: Tensor, segments: Tensor, sizes: list[int]) -> Tensor:
    state: EncoderState | None = None
    pieces, at = [], 0
    for size in sizes:
        piece = slice(at, at + size)
        u, state = memory.encode(ids[:, piece], segments[:, piece], state)
        pieces.append(u)
        at += size
    assert at == ids.shape[1]
    return torch.cat(pieces, dim=1)


@pytest.mark.parametrize(("side", "k"), [(4, 1), (4, 4), (9, 5), (20, 16), (40, 32)])
def test_product_topk_finds_the_scores_of_an_exhaustive_search(side: int, k: int) -> None:
    s1, s2 = torch.randn(20, 2, side), torch.randn(20, 2, side)
    scores, _ = product_topk(torch.stack([s1, s2]), k)
    for n, h in itertools.product(range(20), range(2)):
        one, two = s1[n, h].tolist(), s2[n, h].tolist()
        every = sorted((a + b for a in one for b in two), reverse=True)
        assert sorted(scores[n, h].tolist(), reverse=True) == pytest.approx(every[:k])


@pytest.mark.parametrize(("side", "k"), [(4, 1), (4, 4), (9, 5), (20, 16), (40, 32)])
def test_product_topk_names_the_slots_of_an_exhaustive_search(side: int, k: int) -> None:
    s1, s2 = torch.randn(20, 2, side), torch.randn(20, 2, side)
    _, slots = product_topk(torch.stack([s1, s2]), k)
    for n, h in itertools.product(range(20), range(2)):
        one, two = s1[n, h].tolist(), s2[n, h].tolist()
        every = {i * side + j: one[i] + two[j] for i in range(side) for j in range(side)}
        assert set(slots[n, h].tolist()) == set(sorted(every, key=lambda slot: -every[slot])[:k])


@pytest.mark.parametrize("gated", [True, False])
def test_a_read_is_the_weighted_sum_of_the_best_slots_through_the_gate(gated: bool) -> None:
    memory = build_memory(gate=gated).requires_grad_(False)
    u = torch.randn(3, 16)
    got = memory.read_at(u).y
    for n in range(3):
        q = memory.query.weight @ u[n]
        total = torch.zeros(16)
        for head in range(2):
            scores = {}
            for i, j in itertools.product(range(8), range(8)):
                score = 0.0
                for side, key in ((0, i), (1, j)):
                    start = (head * 2 + side) * 8
                    half, unit = q[start : start + 8], memory.keys[head, side, key]
                    cosine = float(half @ unit / (half.norm() * unit.norm()))
                    score += math.exp(float(memory.tau[head])) * cosine
                scores[i * 8 + j] = score
            best = sorted(scores, key=lambda slot: -scores[slot])[:4]
            norm = sum(math.exp(scores[slot]) for slot in best)
            for slot in best:
                total += math.exp(scores[slot]) / norm * memory.values[slot]
        if memory.gate is not None:
            gate = memory.gate.weight @ u[n]
            total = total * gate * torch.sigmoid(gate)
        torch.testing.assert_close(got[n], total)


def test_without_a_gate_equal_slots_make_every_read_the_same() -> None:
    memory = build_memory(gate=False).requires_grad_(False)
    memory.values.copy_(memory.values[:1].expand_as(memory.values))
    y = memory.read(tokens(2, 5), one_document(tokens(2, 5))).y
    torch.testing.assert_close(y, y[:1, :1].expand_as(y))


def test_the_weights_of_a_head_sum_to_one() -> None:
    weights = build_memory().read(tokens(2, 5), one_document(tokens(2, 5))).weights
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 5, 2))


@BLOCKS
def test_a_document_in_a_packed_window_is_read_as_if_it_stood_alone(
    dilations: tuple[int, ...], attention_heads: int
) -> None:
    memory = build_memory(conv_dilations=dilations, attention_heads=attention_heads)
    lengths = (5, 9, 1, 6)
    documents = [tokens(1, length, seed=length) for length in lengths]
    segments = torch.cat([torch.full((1, n), i) for i, n in enumerate(lengths)], dim=1)
    packed = memory.read(torch.cat(documents, dim=1), segments).y
    alone = [memory.read(document, one_document(document)).y for document in documents]
    torch.testing.assert_close(packed, torch.cat(alone, dim=1), atol=1e-5, rtol=1e-4)


@BLOCKS
def test_padding_changes_no_read(dilations: tuple[int, ...], attention_heads: int) -> None:
    memory = build_memory(conv_dilations=dilations, attention_heads=attention_heads)
    document = tokens(1, 7)
    padded = torch.cat([document, torch.zeros(1, 3, dtype=torch.long)], dim=1)
    segments = torch.cat([one_document(document), torch.full((1, 3), -1)], dim=1)
    alone = memory.read(document, one_document(document)).y
    torch.testing.assert_close(memory.read(padded, segments).y[:, :7], alone, atol=1e-5, rtol=1e-4)


@BLOCKS
def test_a_token_changes_no_read_before_it(
    dilations: tuple[int, ...], attention_heads: int
) -> None:
    memory = build_memory(conv_dilations=dilations, attention_heads=attention_heads)
    ids = tokens(1, 12)
    other = ids.clone()
    other[0, 6] = (ids[0, 6] + 1) % 60
    before, after = (memory.read(t, one_document(t)).y for t in (ids, other))
    torch.testing.assert_close(before[:, :6], after[:, :6], atol=1e-6, rtol=1e-5)


@BLOCKS
def test_a_token_changes_the_reads_of_its_reach(
    dilations: tuple[int, ...], attention_heads: int
) -> None:
    memory = build_memory(conv_dilations=dilations, attention_heads=attention_heads)
    ids = tokens(1, 12)
    other = ids.clone()
    other[0, 6] = (ids[0, 6] + 1) % 60
    before, after = (memory.encode(t, one_document(t))[0] for t in (ids, other))
    assert bool(((before - after).abs().amax(-1)[0, [6, 6 + dilations[0]]] > 1e-3).all())


@BLOCKS
@pytest.mark.parametrize("sizes", [[1] * 13, [5, 1, 7], [12, 1]])
def test_tokens_fed_piece_by_piece_are_encoded_as_in_one_pass(
    dilations: tuple[int, ...], attention_heads: int, sizes: list[int]
) -> None:
    memory = build_memory(conv_dilations=dilations, attention_heads=attention_heads)
    ids = tokens(2, 13)
    segments = torch.tensor([[0] * 13, [0] * 4 + [1] * 9])  # a document ends within the second
    whole, _ = memory.encode(ids, segments)
    torch.testing.assert_close(
        fed_in_pieces(memory, ids, segments, sizes), whole, atol=1e-5, rtol=1e-4
    )


@BLOCKS
@pytest.mark.parametrize("rows", [[2, 0, 1], [1, 1], [0]])
def test_a_state_of_chosen_rows_goes_on_as_they_would(
    dilations: tuple[int, ...], attention_heads: int, rows: list[int]
) -> None:
    memory = build_memory(conv_dilations=dilations, attention_heads=attention_heads)
    ids = tokens(3, 9)
    segments = torch.tensor([[0] * 9, [0] * 4 + [1] * 5, [-1] * 2 + [0] * 7])
    whole, _ = memory.encode(ids, segments)
    _, state = memory.encode(ids[:, :6], segments[:, :6])
    got, _ = memory.encode(ids[rows, 6:], segments[rows, 6:], state.select(torch.tensor(rows)))
    torch.testing.assert_close(got, whole[rows, 6:], atol=1e-5, rtol=1e-4)


def test_the_state_of_convolutions_does_not_grow() -> None:
    memory = build_memory(conv_dilations=(1, 2), attention_heads=0)
    _, state = memory.encode(tokens(1, 20), torch.zeros(1, 20, dtype=torch.long))
    assert [tuple(past.shape) for past in state.inputs] == [(1, 2, 16), (1, 4, 16)]


def test_shuffling_the_values_changes_what_is_predicted() -> None:
    memory = build_memory().requires_grad_(False)
    ids = tokens(1, 6)
    before = memory.predict(memory.read(ids, one_document(ids)).y)
    memory.values.copy_(memory.values[torch.randperm(len(memory.values))])
    after = memory.predict(memory.read(ids, one_document(ids)).y)
    assert (before - after).abs().max() > 1e-2


def test_nothing_leads_round_the_slots() -> None:
    memory = build_memory().requires_grad_(False)
    memory.values.zero_()
    ids = tokens(1, 6)
    predicted = memory.predict(memory.read(ids, one_document(ids)).y)
    torch.testing.assert_close(predicted, torch.zeros(1, 6, 60))


def test_the_gradient_of_the_values_is_sparse_over_exactly_the_rows_read() -> None:
    memory = build_memory()
    ids = tokens(1, 3)
    read = memory.read(ids, one_document(ids))
    memory.predict(read.y).logsumexp(-1).sum().backward()
    assert memory.values.grad is not None
    rows = memory.values.grad._indices()[0]
    assert set(rows.tolist()) == set(read.slots.flatten().tolist())


def test_the_sparse_gradient_equals_the_dense_one() -> None:
    memory = build_memory(gate=True)
    assert memory.gate is not None
    ids, upstream = tokens(1, 3), torch.randn(1, 3, 16)
    read = memory.read(ids, one_document(ids))
    read.y.backward(upstream)
    u, _ = memory.encode(ids, one_document(ids))
    gate = torch.nn.functional.silu(memory.gate(u)).detach()
    want = torch.zeros_like(memory.values)
    for t, h, k in itertools.product(range(3), range(2), range(4)):
        slot, weight = read.slots[0, t, h, k], read.weights[0, t, h, k].detach()
        want[slot] += weight * gate[0, t] * upstream[0, t]
    assert memory.values.grad is not None
    torch.testing.assert_close(memory.values.grad.to_dense(), want)


@TIED
@pytest.mark.parametrize("gated", [True, False])
def test_every_parameter_learns_from_the_prediction(tied: bool, gated: bool) -> None:
    memory = build_memory(tie_embeddings=tied, gate=gated)
    ids = tokens(4, 12)
    logits = memory.predict(memory.read(ids, one_document(ids)).y)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
    silent = [n for n, p in memory.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@TIED
def test_the_encodings_guess_teaches_encoder_and_output_matrix_alone(tied: bool) -> None:
    memory = build_memory(tie_embeddings=tied)
    ids = tokens(4, 12)
    u, _ = memory.encode(ids, one_document(ids))
    torch.nn.functional.cross_entropy(memory.guess(u).flatten(0, 1), ids.flatten()).backward()
    learns = {n for n, p in memory.named_parameters() if p.grad is not None and p.grad.any()}
    encoder = {n for n, _ in memory.named_parameters() if n.startswith(("encoder.", "out."))}
    assert learns == encoder


@TIED
def test_rows_beyond_the_tokenizer_are_not_predicted(tied: bool) -> None:
    memory = build_memory(rows=64, num_tokens=60, tie_embeddings=tied)
    assert memory.predict(torch.randn(2, 3, 16)).shape == (2, 3, 60)
    assert memory.guess(torch.randn(2, 3, 16)).shape == (2, 3, 60)


@TIED
def test_a_padded_vocabulary_predicts_the_ids_of_the_tokenizer_as_its_rows_say(tied: bool) -> None:
    memory = build_memory(rows=64, num_tokens=60, tie_embeddings=tied).requires_grad_(False)
    rows = memory.encoder.embed.weight if memory.out is None else memory.out.weight
    y = torch.randn(16)
    projected = memory.project.weight @ y
    normed = projected / math.sqrt(float(projected.square().mean()) + 1e-6)
    want = torch.stack([rows[v] @ normed for v in range(60)])
    torch.testing.assert_close(memory.predict(y), want)


def test_tied_embeddings_are_one_matrix_fewer() -> None:
    sizes = [
        sum(p.numel() for p in build_memory(tie_embeddings=tied).parameters())
        for tied in (True, False)
    ]
    assert sizes[1] - sizes[0] == 60 * 16


def test_more_tokens_than_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"61 ids.*60 output rows"):
        build_memory(rows=60, num_tokens=61)
