"""A group's state in shares: whole, verified, and enough to go on to the bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from actors.settings.corpus import CorpusSpec
from actors.settings.run import RunSpec
from actors.snapshots import buckets as snapshot_layout
from actors.snapshots import checkpoint_shares
from actors.snapshots.flat_parameters import ByteArray
from actors.tokenizers.tokenizer import Tokenizer
from actors.training.trainer import Trainer
from actors.wire import CheckpointError, CheckpointHeader
from tests.unit.actors.tiny import Exchange, copied, order, run_spec, snapshot

FIELDS = {"run": "r", "group": "data", "interval": 4, "step": 80, "peer_version": 3}
BOTH = pytest.mark.parametrize("group", ["data", "memory"])


@pytest.fixture(autouse=True)
def _small_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_layout, "SHARE_BYTES", 256)


def tensors(fill: float | None = None) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = {
        "parameters": torch.randn(1000, generator=generator),
        "rows": torch.randint(100, (33, 3), generator=generator),
        "counts": torch.arange(7, dtype=torch.int32),
    }
    return made if fill is None else {name: torch.full_like(t, fill) for name, t in made.items()}


def saved(num_ranks: int) -> tuple[list[CheckpointHeader], list[ByteArray]]:
    parts = [
        checkpoint_shares.save_share(tensors(), {"step": 80}, rank, num_ranks, **FIELDS)
        for rank in range(num_ranks)
    ]
    return [h for h, _ in parts], [bucket for _, buckets in parts for bucket in buckets]


def test_shares_that_were_cut_otherwise_are_restored_too(monkeypatch: pytest.MonkeyPatch) -> None:
    headers, buckets = saved(3)
    monkeypatch.setattr(snapshot_layout, "SHARE_BYTES", 4 << 20)
    into = tensors(fill=0)
    checkpoint_shares.restore_state(into, headers, buckets)
    assert all(torch.equal(into[name], tensor) for name, tensor in tensors().items())


def test_each_rank_has_a_share_here() -> None:
    headers, _ = saved(5)
    assert [len(header.sizes) for header in headers] == [1] * 5


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 5])
def test_the_shares_of_any_number_of_ranks_are_the_whole_state(num_ranks: int) -> None:
    headers, buckets = saved(num_ranks)
    target = tensors(fill=1)
    assert checkpoint_shares.restore_state(target, headers, buckets) == {"step": 80}
    assert all(torch.equal(target[name], t) for name, t in tensors().items())


def test_a_share_is_a_copy() -> None:
    live = tensors()
    _, buckets = checkpoint_shares.save_share(live, {}, 0, 1, **FIELDS)
    before = buckets[0].copy()
    live["parameters"].zero_()
    assert np.array_equal(buckets[0], before)


def refused(headers: list[CheckpointHeader], buckets: list[ByteArray], match: str) -> None:
    target = tensors(fill=1)
    with pytest.raises(CheckpointError, match=match):
        checkpoint_shares.restore_state(target, headers, buckets)
    assert all(torch.equal(t, torch.ones_like(t)) for t in target.values())


def test_of_an_altered_share_nothing_is_taken_over() -> None:
    headers, buckets = saved(2)
    buckets[1][17] ^= 1
    refused(headers, buckets, "checkpoint of data interval 4: part 1 checksum")


def test_a_share_that_is_missing_is_named() -> None:
    headers, buckets = saved(2)
    refused(headers[:1], buckets[:1], "expected")


def test_the_state_of_another_run_is_refused_with_what_differs() -> None:
    headers, buckets = saved(1)
    other = tuple((name, dtype, size + 4) for name, dtype, size in headers[0].layout)
    refused([replace(headers[0], layout=other)], buckets, "its tensors are not this run's")


def trainer_of(exchange: Exchange, group: str) -> Trainer:
    return exchange.data if group == "data" else exchange.memory


@BOTH
def test_a_restored_trainer_goes_on_to_the_bit(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer, group: str
) -> None:
    mix = {"just_trained": 0.3, "fresh": 0.3, "replay": 0.2, "sampled": 0.2}
    spec = run_spec(facts_corpus.model_copy(update={"token_noise": 0.2}), mix=mix, intervals=6)
    exchange = Exchange(spec, tokenizer.to_json()).run(3)
    first = trainer_of(exchange, group)
    header, buckets = first.save()
    again = trainer_of(Exchange(spec, tokenizer.to_json()), group)
    again.restore([header], buckets)
    assert again.publish()[0] == first.publish()[0]
    data, memory = exchange.published[-1]
    peer_header, peer_buckets = memory if group == "data" else data
    outcomes = []
    for trainer in (first, again):
        ranges = () if group == "data" else peer_header.ranges
        now = order(4, ranges=ranges)
        outcomes.append(copied(snapshot(trainer.interval(now, [peer_header], peer_buckets))))
    (one, one_buckets), (other, other_buckets) = outcomes
    assert one == other
    assert np.array_equal(one_buckets[0], other_buckets[0])


@BOTH
def test_a_checkpoint_has_the_size_that_was_announced(
    spec: RunSpec, tokenizer: Tokenizer, group: str
) -> None:
    trainer = trainer_of(Exchange(spec, tokenizer.to_json()), group)
    before = trainer.description()["checkpoint_bytes"]
    header, buckets = trainer.save()
    assert before == header.total_bytes == sum(bucket.size for bucket in buckets)


@BOTH
def test_an_interval_returns_a_checkpoint_only_where_it_is_asked_for(
    spec: RunSpec, tokenizer: Tokenizer, group: str
) -> None:
    exchange = Exchange(spec, tokenizer.to_json())
    data, memory = exchange.published[0]
    header, buckets = memory if group == "data" else data
    plain = trainer_of(exchange, group).interval(order(1), [header], buckets)
    assert (plain.checkpoint_header, plain.checkpoint_buckets) == (None, [])
    asked = trainer_of(exchange, group).interval(order(2, checkpoint=True), [header], ())
    assert asked.checkpoint_header is not None
    assert asked.checkpoint_header.interval == 2


@BOTH
def test_an_interval_that_publishes_nothing_returns_no_snapshot(
    spec: RunSpec, tokenizer: Tokenizer, group: str
) -> None:
    exchange = Exchange(spec, tokenizer.to_json())
    data, memory = exchange.published[0]
    header, buckets = memory if group == "data" else data
    trainer = trainer_of(exchange, group)
    quiet = trainer.interval(order(1, publish=False), [header], buckets)
    assert (quiet.header, quiet.buckets) == (None, [])
    loud = trainer.interval(order(2), [header], ())
    assert loud.header is not None
    if group == "data":
        assert sum(r.stop - r.start for r in loud.header.ranges) == 2 * 4 * 4  # of both intervals


def test_a_rounded_snapshot_is_half_as_long_and_near(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    spec = run_spec(facts_corpus, exchange={"wire": "bf16"})
    exchange = Exchange(spec, tokenizer.to_json())
    sizes = exchange.data.description()
    header, buckets = copied(exchange.data.publish())
    assert 2 * sizes["wire_bytes"] == sizes["snapshot_bytes"] == 2 * header.total_bytes
    exchange.memory.mirror.buffer.zero_()
    exchange.memory.adopt([header], buckets)
    mine = exchange.data.own.buffer.view(torch.float32)
    theirs = exchange.memory.mirror.buffer.view(torch.float32)
    assert torch.equal(theirs, mine.bfloat16().float())
    assert not torch.equal(theirs, mine)


def test_the_exact_snapshot_of_a_rounded_run_is_exact(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    spec = run_spec(facts_corpus, exchange={"wire": "bf16"})
    exchange = Exchange(spec, tokenizer.to_json())
    header, buckets = copied(exchange.data.publish(exact=True))
    exchange.memory.mirror.buffer.zero_()
    exchange.memory.adopt([header], buckets)
    assert exchange.memory.mirror.digest() == exchange.data.own.digest()


def test_a_checkpoint_beside_another_base_is_refused_and_both_are_named() -> None:
    fields = {**FIELDS, "base": "b" * 16}
    header, buckets = checkpoint_shares.save_share(tensors(), {}, 0, 1, **fields)
    target = tensors(fill=1)
    with pytest.raises(CheckpointError, match=f"digest {'b' * 16}.* digest {'c' * 16}"):
        checkpoint_shares.restore_state(target, [header], buckets, "c" * 16)
    assert all(torch.equal(target[name], t) for name, t in tensors(fill=1).items())
    assert checkpoint_shares.restore_state(target, [header], buckets, "b" * 16) == {}
