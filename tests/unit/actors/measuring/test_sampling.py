"""Openings of real text, and how a data layer continues them."""

from __future__ import annotations

import numpy as np
import torch

from actors.corpus.windows import Piece, pack
from actors.measuring.sampling import NO_TOKEN, SLACK, continued, openings, pieces_of
from tests.unit.actors.tiny import build

END = 0
PROMPTS = [Piece([END, 5, 6, 7, END], 3), Piece([END, 5, 6, 9, 8, 7, END], 5)]


def spoken(pieces: list[Piece], window: int = 16) -> torch.Tensor:
    layer, _ = build("llama", 20)
    torch.manual_seed(1)
    return continued(layer, pieces, window, END, torch.device("cpu"))


def test_an_opening_is_what_is_given_of_each_document() -> None:
    windows = pack(PROMPTS, 16, END)
    found = [(list(p.tokens), p.num_given) for p in openings(windows)]
    assert found == [(list(p.tokens), p.num_given) for p in PROMPTS]


def test_of_plain_text_the_first_half_is_given() -> None:
    windows = pack([Piece([END, 1, 2, 3, 4, END])], 16, END)
    assert [p.num_given for p in openings(windows)] == [3]


def test_what_is_given_stays_and_something_is_said_after_it() -> None:
    rows_NT = spoken(PROMPTS)
    for row, piece in zip(rows_NT.tolist(), PROMPTS, strict=True):
        assert row[0] == piece.num_given
        assert row[1 : 1 + piece.num_given] == list(piece.tokens[: piece.num_given])


def test_the_filling_to_the_left_is_not_heard() -> None:
    layer, _ = build("llama", 20)
    torch.nn.init.zeros_(layer.model.get_output_embeddings().weight)
    bias = torch.linspace(0, 1, 20)

    def logits(_module: object, args: tuple[torch.Tensor, ...], _out: object) -> torch.Tensor:
        return 1e4 * (args[0].sum(-1, keepdim=True) * bias).sin()  # sure, and of its input alone

    layer.model.get_output_embeddings().register_forward_hook(logits)
    alone = continued(layer, PROMPTS[:1], 16, END, torch.device("cpu"))
    among = continued(layer, PROMPTS, 16, END, torch.device("cpu"))
    shared = min(len(piece) for piece in (pieces_of(alone, END)[0].tokens,
                                          pieces_of(among, END)[0].tokens))  # fmt: skip
    assert shared > PROMPTS[0].num_given
    assert alone[0, : 1 + shared].tolist() == among[0, : 1 + shared].tolist()


def test_a_document_ends_at_its_first_end_after_the_opening() -> None:
    rows = torch.tensor([[2, END, 5, 6, 7, END, END, END], [2, END, 5, 6, 7, 8, 9, 4]])
    found = [(list(p.tokens), p.num_given) for p in pieces_of(rows, END)]
    assert found == [([END, 5, 6, 7, END], 2), ([END, 5, 6, 7, 8, 9, 4], 2)]


def test_where_nothing_was_said_there_is_no_document() -> None:
    assert pieces_of(torch.tensor([[2, END, 5, END, END]]), END) == []
    assert pieces_of(torch.tensor([[2, END, 5, NO_TOKEN, NO_TOKEN]]), END) == []


def test_a_document_that_was_cut_has_no_end() -> None:
    (piece,) = pieces_of(torch.tensor([[2, END, 5, 6, NO_TOKEN]]), END)
    assert list(piece.tokens) == [END, 5, 6]


def test_a_document_never_outgrows_the_window() -> None:
    long = Piece(np.arange(1, 16, dtype=np.int32), 14)
    assert spoken([long]).shape == (1, 17)
    assert all(len(piece.tokens) <= 16 for piece in pieces_of(spoken([long]), END))


def test_no_openings_make_no_rows() -> None:
    assert spoken([]).shape == (0, 17)


def test_where_no_mark_closes_documents_each_goes_on_for_as_long_as_its_text_does() -> None:
    layer, _ = build("llama", 20)
    layer.model.generation_config.eos_token_id = 3  # a mark that the model has and the run has not
    torch.nn.init.zeros_(layer.model.get_output_embeddings().weight)  # says anything, 3 too
    rows_NT = continued(layer, 8 * PROMPTS, 16, None, torch.device("cpu"))
    assert (rows_NT == 3).any()
    said = [len(piece.tokens) - piece.num_given for piece in pieces_of(rows_NT, None)]
    assert set(said) == {max(len(p.tokens) - p.num_given for p in PROMPTS) + SLACK}
