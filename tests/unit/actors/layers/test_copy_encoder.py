"""The frozen copy against the plain model's own hidden states, and itself fed in pieces."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from actors.layers.copy_encoder import CopyEncoder
from actors.layers.memory_layer import EncoderState, MemoryLayer, rms
from actors.settings.layers import DataLayerSpec
from actors.snapshots.flat_parameters import FlatParameters
from actors.snapshots.sections import section_of
from actors.weights.pretrained_model import load_front
from tests.unit.actors.tiny import FAMILIES, memory_spec, one_document, save_checkpoint, tokens

EACH_FAMILY = pytest.mark.parametrize("family", sorted(FAMILIES))


def build(folder: Path, family: str = "llama", dim: int = 16, **fields: object) -> MemoryLayer:
    """A memory of width `dim` that addresses with the first of two layers."""
    place = save_checkpoint(folder, family, **fields)
    front = load_front(DataLayerSpec(pretrained=place), place, 1)
    torch.manual_seed(9)
    encoder = CopyEncoder(front, dim)
    return MemoryLayer(memory_spec(encoder="frozen_copy", dim=dim), 60, 60, encoder)


def fed_in_pieces(memory: MemoryLayer, ids: Tensor, segments: Tensor, sizes: list[int]) -> Tensor:
    state: EncoderState | None = None
    pieces = []
    for piece, part in zip(ids.split(sizes, 1), segments.split(sizes, 1), strict=True):
        u, state = memory.encode(piece, part, state)
        pieces.append(u)
    return torch.cat(pieces, dim=1)


@EACH_FAMILY
@torch.no_grad()
def test_encodings_are_the_plain_models_hidden_states_after_the_copied_layers(
    family: str, tmp_path: Path
) -> None:
    memory = build(tmp_path, family, dim=32)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = tokens(2, 9)
    want = rms(plain(input_ids=ids, output_hidden_states=True).hidden_states[1])
    torch.testing.assert_close(memory.encode(ids, one_document(ids))[0], want)


@torch.no_grad()
def test_another_width_is_reached_by_a_trained_projection(tmp_path: Path) -> None:
    narrow, wide = build(tmp_path / "a", dim=16), build(tmp_path / "b", dim=32)
    ids = tokens(1, 5)
    hidden = wide.encode(ids, one_document(ids))[0]
    want = rms(hidden @ narrow.encoder.project.weight.T)
    torch.testing.assert_close(narrow.encode(ids, one_document(ids))[0], want)
    assert wide.encoder.project is None


@EACH_FAMILY
@torch.no_grad()
def test_a_document_in_a_packed_window_is_encoded_as_if_it_stood_alone(
    family: str, tmp_path: Path
) -> None:
    memory = build(tmp_path, family)
    documents = [tokens(1, length, seed=length) for length in (5, 9, 1)]
    segments = torch.tensor([[0] * 5 + [1] * 9 + [2] + [-1] * 2])
    packed = torch.cat([*documents, torch.zeros(1, 2, dtype=torch.long)], dim=1)
    alone = torch.cat([memory.encode(d, one_document(d))[0] for d in documents], dim=1)
    got = memory.encode(packed, segments)[0][:, :15]
    torch.testing.assert_close(got, alone, atol=1e-5, rtol=1e-4)


@EACH_FAMILY
@pytest.mark.parametrize("sizes", [[1] * 13, [5, 1, 7]])
@pytest.mark.parametrize("second", [[0] * 13, [0] * 4 + [1] * 9])
@torch.no_grad()
def test_tokens_fed_piece_by_piece_are_encoded_as_in_one_pass(
    family: str, sizes: list[int], second: list[int], tmp_path: Path
) -> None:
    memory = build(tmp_path, family)
    ids, segments = tokens(2, 13), torch.tensor([[0] * 13, second])
    whole, _ = memory.encode(ids, segments)
    got = fed_in_pieces(memory, ids, segments, sizes)
    torch.testing.assert_close(got, whole, atol=1e-5, rtol=1e-4)


@EACH_FAMILY
@torch.no_grad()
def test_padding_between_pieces_changes_no_encoding(family: str, tmp_path: Path) -> None:
    memory = build(tmp_path, family)
    ids = tokens(1, 6)
    want = memory.encode(ids, one_document(ids))[0]
    padded = torch.cat([ids[:, :4], ids[:, :2], ids[:, 4:]], dim=1)
    segments = torch.tensor([[0, 0, 0, 0, -1, -1, 0, 0]])
    got = fed_in_pieces(memory, padded, segments, [4, 4])[:, [0, 1, 2, 3, 6, 7]]
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_state_may_be_used_more_than_once(tmp_path: Path) -> None:
    memory = build(tmp_path)
    ids = tokens(1, 6)
    _, state = memory.encode(ids[:, :4], one_document(ids[:, :4]))
    one, two = (memory.encode(ids[:, 4:], one_document(ids[:, 4:]), state)[0] for _ in range(2))
    assert torch.equal(one, two)


@torch.no_grad()
def test_every_tensor_of_a_state_has_the_batch_first(tmp_path: Path) -> None:
    memory = build(tmp_path)
    ids = tokens(3, 6)
    _, state = memory.encode(ids, one_document(ids))
    rows = torch.tensor([2, 0])
    chosen = EncoderState(tuple(t[rows] for t in state.inputs), state.segments_BR[rows])
    after = tokens(3, 2, seed=1)
    want = memory.encode(after, one_document(after), state)[0][rows]
    got = memory.encode(after[rows], one_document(after[rows]), chosen)[0]
    torch.testing.assert_close(got, want)


def test_dropout_of_the_copy_stays_off_in_training(tmp_path: Path) -> None:
    memory = build(tmp_path, "gpt2", resid_pdrop=0.5, embd_pdrop=0.5).train()
    ids = tokens(1, 6)
    one, two = (memory.encode(ids, one_document(ids))[0] for _ in range(2))
    assert torch.equal(one, two)
    assert memory.training


def test_the_copy_has_no_gradient_and_all_else_has(tmp_path: Path) -> None:
    memory = build(tmp_path)
    ids = tokens(4, 12)
    logits = memory.predict(memory.read(ids, one_document(ids)).y)
    nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
    silent = [n for n, p in memory.named_parameters() if p.grad is None]
    copied = [n for n, _ in memory.named_parameters() if n.startswith("encoder.copy.")]
    assert silent == copied


@pytest.mark.parametrize("mirror", [False, True])
def test_the_copy_is_not_in_the_buffer_of_layer_or_mirror(mirror: bool, tmp_path: Path) -> None:
    memory = build(tmp_path).requires_grad_(not mirror)
    named = [n for n, _ in memory.named_parameters() if not n.startswith("encoder.copy.")]
    entries = FlatParameters(memory, section_of).entries
    assert sorted(e.name for e in entries) == sorted(named)
    assert "encoder.project.weight" in named


def test_the_prediction_has_an_output_matrix_of_its_own(tmp_path: Path) -> None:
    memory = build(tmp_path)
    assert memory.spec.tie_embeddings
    assert memory.out is not None
    assert memory.predict(torch.randn(2, 16)).shape == (2, 60)


def test_the_config_of_a_copy_names_no_place(tmp_path: Path) -> None:
    encoder = build(tmp_path).encoder
    assert isinstance(encoder, CopyEncoder)
    assert str(tmp_path) not in str(encoder.config)
