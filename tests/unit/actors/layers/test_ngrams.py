"""A memory whose addresses are hashes of the last tokens."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from actors.layers.batch import to_batch
from actors.layers.memory_layer import Contexts, MemoryLayer
from actors.layers.ngrams import NgramAddresses
from actors.layers.pair import Pair
from actors.measuring.heldout import heldout_figures
from actors.measuring.probing import prompt_tokens
from actors.pair import telling
from actors.settings.corpus import CorpusSpec
from actors.tokenizers.tokenizer import Tokenizer
from actors.weights.builders import build_data_layer, build_memory_layer
from actors.weights.export_files import MemoryDescription
from actors.weights.pair_export import export_pair, load_pair
from actors.weights.starting_weights import check_memory
from actors.wire import ConfigError
from tests.unit.actors import tiny
from tests.unit.actors.pair.test_telling import Told, asked
from tests.unit.actors.tiny import (
    COUNTRIES,
    Exchange,
    build_memory,
    memory_spec,
    one_document,
    run_spec,
    tokens,
    values,
)
from tests.unit.actors.tiny_pair import CPU, shake

HASHED = {"addresses": "ngrams", "slots_side": 16, "heads": 2}
PRIMES = {41, 37, 31, 29, 23, 19}  # of 256 rows, six orders and heads: at most 42 each
LAYER = memory_spec(**HASHED).model_dump()


def test_equal_ngrams_read_equal_slots_and_each_order_and_head_rows_of_its_own() -> None:
    memory = build_memory(**HASHED)
    ids = tokens(6, 20, num=7)
    slots_BTHO = memory.read(ids, one_document(ids)).slots
    seen: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    for row, line in zip(slots_BTHO, ids.tolist(), strict=True):
        for at, length in itertools.product(range(20), range(3)):
            gram = tuple(line[max(0, at - length) : at + 1])
            found = seen.setdefault((length, (len(gram), *gram)), row[at, :, length].tolist())
            assert found == row[at, :, length].tolist()
    assert isinstance(memory.ngrams, NgramAddresses)
    assert set(memory.ngrams.rows_HO.flatten().tolist()) == PRIMES
    rows = slots_BTHO.flatten(0, 1)
    share = 256 // 6
    for head, length in itertools.product(range(2), range(3)):
        begin = share * (3 * head + length)
        assert (rows[:, head, length] >= begin).all()
        assert (rows[:, head, length] < begin + share).all()
        assert len(rows[:, head, length].unique()) > 4  # of 7 tokens


def test_documents_of_a_window_do_not_see_each_other() -> None:
    memory = build_memory(**HASHED)
    ids = tokens(1, 9)
    segments = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 1]])
    packed = memory.read(ids, segments).slots
    alone = memory.read(ids[:, 4:], one_document(ids[:, 4:])).slots
    assert torch.equal(packed[:, 4:], alone)
    assert not torch.equal(packed, memory.read(ids, one_document(ids)).slots)


@pytest.mark.parametrize("sizes", [(9,), (1,) * 9, (4, 1, 4)])
def test_tokens_one_by_one_have_the_contexts_of_all_at_once(sizes: tuple[int, ...]) -> None:
    contexts, ids = Contexts(3), tokens(2, 9)
    segments = torch.tensor([[0] * 9, [0] * 5 + [1] * 4])
    whole, _ = contexts(ids, segments)
    state, pieces = None, []
    for piece in ids.split(sizes, dim=1):
        at = sum(p.shape[1] for p in pieces)
        found, state = contexts(piece, segments[:, at : at + piece.shape[1]], state)
        pieces.append(found)
    assert torch.equal(torch.cat(pieces, dim=1), whole)
    assert whole[1, 5].tolist() == [int(ids[1, 5]) + 1, 0, 0]
    assert whole[0, 2].tolist() == [int(ids[0, at]) + 1 for at in (2, 1, 0)]


def test_reads_predictions_and_the_share_of_each_order_learn_and_nothing_else_is_there() -> None:
    memory = build_memory(**HASHED)
    ids = tokens(4, 12)
    logits = memory.predict(memory.read(ids, one_document(ids)).y)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
    names = {name for name, _ in memory.named_parameters()}
    assert names == {"values", "project.weight", "out.weight", "ngrams.shares"}
    assert all(p.grad is not None for p in memory.parameters())


def collisions_of(memory: MemoryLayer, contexts_MC: Tensor) -> float:
    """The slow way."""
    assert memory.ngrams is not None
    shared, total = 0, 0
    for length, head in itertools.product(range(3), range(2)):
        readers: dict[int, set[tuple[int, ...]]] = {}
        for context, slots in zip(
            contexts_MC.tolist(), memory.ngrams.slots(contexts_MC).tolist(), strict=True
        ):
            readers.setdefault(slots[head][length], set()).add(tuple(context[: length + 1]))
        shared += sum(len(grams) for grams in readers.values() if len(grams) > 1)
        total += sum(len(grams) for grams in readers.values())
    return shared / total


def test_collisions_are_the_ngrams_that_share_a_slot() -> None:
    memory = build_memory(**HASHED)
    assert memory.ngrams is not None
    ids = tokens(3, 9, num=20)
    contexts, _ = memory.encode(ids, one_document(ids))
    found = memory.ngrams.collisions(contexts.flatten(0, 1))
    assert found == pytest.approx(collisions_of(memory, contexts.flatten(0, 1)))
    assert 0.05 < found < 0.95


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gate": True}, "ngrams with gate true: there is no encoder"),
        ({"encoder": "frozen_copy"}, "ngrams with encoder frozen_copy"),
        ({"slots_side": 8}, "64 slots leave 10 rows to each of 3 orders in each of 2 heads"),
    ],
)
def test_what_hashes_do_not_have_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        memory_spec(**{**HASHED, **changes})


def test_a_memory_of_hashes_is_none_of_keys() -> None:
    hashed, keyed = memory_spec(**HASHED), memory_spec()
    assert hashed.identity() == memory_spec(**HASHED, topk=3, key_dim=4).identity()
    assert "ngram_tokens" not in keyed.identity()
    assert "conv_taps" not in hashed.identity()
    found = MemoryDescription(keyed, 60, 60, None)
    with pytest.raises(ConfigError, match="addresses is ngrams here"):
        check_memory(hashed, found, "there")


def test_it_trains_reports_its_collisions_and_a_checkpoint_goes_on_with_the_same_bits(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    spec = run_spec(facts_corpus, memory__layer=LAYER, intervals=6)
    exchange = Exchange(spec, tokenizer.to_json()).run(2)
    saved = exchange.memory.save()
    header, buckets = saved[0], [bucket.copy() for bucket in saved[1]]
    exchange.run(1)
    other = Exchange(spec, tokenizer.to_json())
    other.memory.restore([header], buckets)
    (data_header, data_buckets), _ = exchange.published[2]
    again = other.memory.interval(
        tiny.order(3, ranges=data_header.ranges), [data_header], data_buckets
    )
    assert again.header is not None
    assert again.header.checksums == exchange.published[3][1][0].checksums
    first, last = (values(exchange.reports[at][1]) for at in (0, 2))
    assert last["self"] < first["self"] - 0.3
    assert "balance" not in last
    assert "encoder" not in last
    batch = to_batch(exchange.memory.corpus.heldout(4), torch.device("cpu"))
    pair = Pair(exchange.data.layer.eval(), exchange.memory.layer)
    assert 0 < heldout_figures(pair, batch)["ngram_collisions_frac"] < 1


def test_what_is_told_is_said_fresh_and_taken_back_to_the_bit(tmp_path: Path) -> None:
    told = Told(tmp_path, addresses="ngrams", ngram_tokens=8, slots_side=32)
    ids = torch.tensor([prompt_tokens(told.tokenizer, asked("Avaria"))])
    segments = torch.zeros_like(ids)
    before = told.memory.read(ids, segments)
    names = [told.tell(asked(name), town) for name, town in COUNTRIES[:3]]
    assert told.says([asked(name) for name, _ in COUNTRIES[:3]], [t for _, t in COUNTRIES[:3]]) == 1
    read = told.memory.read(ids, segments)
    assert read.freshness is not None
    assert read.freshness[0, -1] > 0.9
    for name in names:
        telling.untell(told.memory, name, told.kept)
    assert torch.equal(told.memory.read(ids, segments).y, before.y)


def test_an_export_is_loaded_and_reads_what_it_read(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    spec = run_spec(facts_corpus, memory__layer=LAYER)
    data = build_data_layer(spec, tokenizer, CPU)
    pair = shake(Pair(data, build_memory_layer(spec, tokenizer, data.vocab_rows, CPU)))
    export_pair(spec, tokenizer, pair, str(tmp_path / "export"))
    loaded, _ = load_pair(str(tmp_path / "export"))
    ids = tokens(2, 9)
    before, after = (each.read(ids, one_document(ids)) for each in (pair.memory, loaded.memory))
    assert torch.equal(after.slots, before.slots)
    assert torch.equal(after.y, before.y)
    assert torch.equal(loaded.memory.predict(after.y), pair.memory.predict(before.y))
