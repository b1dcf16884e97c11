"""What a data layer writes from nothing, and whether it can."""

from __future__ import annotations

import copy

import torch

from actors.layers.pair import Pair
from actors.teaching.own_text import can_write, own_texts
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


def test_a_layer_that_finds_the_memorys_text_much_less_likely_cannot_write(
    pair: Pair, tokenizer: Tokenizer
) -> None:
    assert can_write(pair, tokenizer, TEXTS, WINDOW)
    data = copy.deepcopy(pair.data)
    with torch.no_grad():  # so sure of anything that it is nearly always wrong
        data.model.get_output_embeddings().weight.mul_(100)
    assert not can_write(Pair(data, pair.memory), tokenizer, TEXTS, WINDOW)
