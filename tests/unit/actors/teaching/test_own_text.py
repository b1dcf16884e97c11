"""What a data layer writes from nothing, and whether it can."""

from __future__ import annotations

import copy

import torch

from actors.layers.pair import Pair
from actors.pair.writing import drawn_by
from actors.teaching.own_text import can_write, own_texts, written_by
from actors.tokenizers.tokenizer import Tokenizer
from tests.unit.actors.tiny import COUNTRIES, WINDOW

TEXTS = [f"The capital of {name} is {city}." for name, city in COUNTRIES]


def test_documents_follow_from_the_seed_alone(pair: Pair, tokenizer: Tokenizer) -> None:
    state = torch.get_rng_state()
    found = own_texts(pair.data, tokenizer, 20, 3, WINDOW)
    assert torch.equal(state, torch.get_rng_state())
    assert found == own_texts(pair.data, tokenizer, 20, 3, WINDOW)
    assert found != own_texts(pair.data, tokenizer, 20, 4, WINDOW)
    assert 0 < len(found) <= 20
    assert all(text.strip() for text in found)


def test_each_token_is_drawn_from_what_the_layer_predicts_after_those_before_it(
    pair: Pair, tokenizer: Tokenizer
) -> None:
    layer, end, opening = pair.data, tokenizer.end, list(tokenizer.opening)
    draws_BT = torch.rand(6, 12, generator=torch.Generator().manual_seed(1))
    found = written_by(layer, opening, draws_BT, end)
    lengths = {len(row) for row in found}
    assert len(lengths) > 1  # some ended before others, which left the cache
    for row, draws_T in zip(found, draws_BT, strict=True):
        wanted = list(opening)
        while len(wanted) < 12 and (wanted == opening or wanted[-1] != end):
            with torch.no_grad():
                logits = layer.model(input_ids=torch.tensor([wanted])).logits[:, -1]
            place = draws_T[len(wanted)][None]
            wanted += drawn_by(logits[:, : layer.num_tokens], place).tolist()
        assert row == wanted


def test_a_layer_that_finds_the_memorys_text_much_less_likely_cannot_write(
    pair: Pair, tokenizer: Tokenizer
) -> None:
    assert can_write(pair, tokenizer, TEXTS, WINDOW)
    data = copy.deepcopy(pair.data)
    with torch.no_grad():  # so sure of anything that it is nearly always wrong
        data.model.get_output_embeddings().weight.mul_(100)
    assert not can_write(Pair(data, pair.memory), tokenizer, TEXTS, WINDOW)
