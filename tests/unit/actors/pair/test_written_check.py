"""How good a writer the memory is, by what the data layer makes of its documents."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from actors.corpus.windows import Piece, Windows, pack
from actors.layers.pair import Pair
from actors.pair.writing import write_documents
from actors.pair.written_check import LONGEST, documents, losses_of, written_figures
from actors.tokenizers.tokenizer import Tokenizer
from tests.unit.actors.tiny import WINDOW, Exchange


@pytest.fixture
def heldout(trained: Exchange) -> Windows:
    return trained.memory.corpus.heldout(6)


def loss_of(pair: Pair, piece: Piece, first: int) -> float:
    """The slow way: one document, the data layer alone."""
    tokens = torch.tensor([list(piece.tokens)])
    with torch.no_grad():
        logits = pair.data(tokens, torch.zeros_like(tokens)).logits_BTV[0]
    return F.cross_entropy(logits[first - 1 : -1], tokens[0, first:]).item()


def test_the_documents_of_windows_come_back_with_what_is_given_of_them() -> None:
    pieces = [Piece([5, 6, 7, 8], 2), Piece([1, 2, 3], 0), Piece(list(range(9)), 4)]
    found = documents(pack(pieces, 10, 0))
    assert sorted((list(p.tokens), p.num_given) for p in found) == sorted(
        (list(p.tokens), p.num_given) for p in pieces
    )
    (cut,) = documents(pack([Piece(list(range(LONGEST + 9)), 3)], LONGEST + 9, 0))
    assert (len(cut.tokens), cut.num_given) == (LONGEST, 3)
    assert documents(pack([Piece(list(range(LONGEST + 9)), LONGEST)], LONGEST + 9, 0)) == []


@pytest.mark.parametrize("batch_tokens", [16, 4096])
def test_the_loss_is_that_of_the_last_tokens_or_of_all_that_are_learned(
    pair: Pair, batch_tokens: int
) -> None:
    pieces = [Piece([5, 6, 7, 8, 9], 2), Piece([1, 2, 3], 0), Piece([4, 4], 0)]
    want = [loss_of(pair, p, max(1, p.num_given)) for p in pieces]
    assert losses_of(pair, pieces, None, batch_tokens) == pytest.approx(want, rel=1e-4)
    want = [loss_of(pair, p, max(1, len(p.tokens) - 2)) for p in pieces]
    assert losses_of(pair, pieces, 2, batch_tokens) == pytest.approx(want, rel=1e-4)


def test_likely_is_what_costs_no_more_than_nearly_all_held_out_documents(
    pair: Pair, tokenizer: Tokenizer, heldout: Windows
) -> None:
    said = written_figures(pair, tokenizer, heldout, 12, 5)
    compared = documents(heldout)
    own = [loss_of(pair, p, max(1, p.num_given)) for p in compared]
    assert said["written_nats_limit"] == pytest.approx(np.quantile(own, 0.95), rel=1e-4)
    num_last = int(statistics.median(len(p.tokens) - max(1, p.num_given) for p in compared))
    written = write_documents(pair.memory, tokenizer, 12, 5, WINDOW, windows=1)
    found = [loss_of(pair, p, max(1, len(p.tokens) - num_last)) for p in written]
    likely = sum(loss <= said["written_nats_limit"] for loss in found)
    assert said["written_likely_frac"] == pytest.approx(likely / 12)
    assert said["written_nats"] == pytest.approx(statistics.fmean(found), rel=1e-4)


def test_a_memory_that_writes_scraps_writes_nothing_likely(
    pair: Pair, tokenizer: Tokenizer, heldout: Windows
) -> None:
    """A table that says the same at every position."""
    values = pair.memory.values.detach().clone()
    try:
        with torch.no_grad():
            pair.memory.values.copy_(torch.full_like(values, 0.3))
        said = written_figures(pair, tokenizer, heldout, 12, 5)
    finally:
        with torch.no_grad():
            pair.memory.values.copy_(values)
    assert said["written_likely_frac"] <= 0.25
    assert written_figures(pair, tokenizer, heldout, 0, 5) == {}
    assert written_figures(pair, tokenizer, heldout[:0], 4, 5) == {}
