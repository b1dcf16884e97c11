"""What a data layer writes from nothing, and whether it can."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from actors.layers.batch import rows_at, to_batch
from actors.layers.pair import Pair
from actors.pair.drawing import Draws
from actors.teaching.own_text import can_write, own_texts, written_by
from actors.teaching.texts import in_windows
from actors.tokenizers.tokenizer import Tokenizer
from tests.unit.actors.tiny import COUNTRIES, WINDOW

TEXTS = [f"The capital of {name} is {city}." for name, city in COUNTRIES]


def draws_of(numbers: Sequence[int]) -> Draws:
    return Draws.of("own", 1, numbers, 12, torch.device("cpu"))


def test_documents_follow_from_the_seed_alone(pair: Pair, tokenizer: Tokenizer) -> None:
    state = torch.get_rng_state()
    found = own_texts(pair.data, tokenizer, 20, 3, WINDOW)
    assert torch.equal(state, torch.get_rng_state())
    assert found == own_texts(pair.data, tokenizer, 20, 3, WINDOW)
    assert found != own_texts(pair.data, tokenizer, 20, 4, WINDOW)
    assert 0 < len(found) == len(set(found)) <= 20
    assert all(text.strip() for text in found)


def test_each_token_is_drawn_from_what_the_layer_predicts_after_those_before_it(
    pair: Pair, tokenizer: Tokenizer
) -> None:
    layer, end, opening = pair.data, tokenizer.end, list(tokenizer.opening)
    found = written_by(layer, opening, draws_of(range(60)), end)
    lengths = {len(row) for row in found}
    assert len(lengths) > 1  # some ended before others, which left the cache
    for number, row in enumerate(found):
        wanted, draws = list(opening), draws_of([number])
        while len(wanted) < 12 and (wanted == opening or wanted[-1] != end):
            with torch.no_grad():
                logits = layer.model(input_ids=torch.tensor([wanted])).logits[:, -1]
            wanted += draws.take(logits[:, : layer.num_tokens], len(wanted)).tolist()
        assert row == wanted


def test_a_layer_that_finds_the_memorys_text_much_less_likely_cannot_write(
    pair: Pair, tokenizer: Tokenizer
) -> None:
    assert can_write(pair, tokenizer, TEXTS, WINDOW)
    data = copy.deepcopy(pair.data)
    with torch.no_grad():  # so sure of anything that it is nearly always wrong
        data.model.get_output_embeddings().weight.mul_(100)
    assert not can_write(Pair(data, pair.memory), tokenizer, TEXTS, WINDOW)


def test_what_the_memory_alone_has_learned_since_does_not_count_against_the_layer(
    pair: Pair, tokenizer: Tokenizer
) -> None:
    memory = copy.deepcopy(pair.memory)
    new = [f"Nobody in {name} has a king." for name in ("Marovia", "Norland", "Orsenia", "Pelk")]
    windows = in_windows(tokenizer, new, WINDOW)
    batch = to_batch(windows, torch.device("cpu"))
    dense = [p for name, p in memory.named_parameters() if name != "values"]
    optimizer = torch.optim.Adam(dense, lr=0.02)
    for _ in range(60):
        read = memory.read(batch.tokens_BT, batch.segments_BT)
        logits_NV = memory.predict(rows_at(read.y, batch.valid_at_N))
        loss = torch.nn.functional.cross_entropy(logits_NV, batch.targets_N)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    since = Pair(pair.data, memory)
    assert not can_write(since, tokenizer, new, WINDOW)
    assert can_write(since, tokenizer, [*new, *new, *TEXTS], WINDOW)
