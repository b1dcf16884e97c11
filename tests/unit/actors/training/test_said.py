"""What the data layer said while it trained, and a memory that learns from that alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from actors.layers.batch import data_logits_at, memory_logits_at
from actors.settings.corpus import CorpusSpec
from actors.settings.run import RunSpec
from actors.snapshots.said import MOST_LIKELIEST, Said, SaidShape
from actors.tokenizers.tokenizer import Tokenizer
from actors.training.interval import Outcome
from actors.training.process_group import ProcessGroup
from actors.training.said_memory import SaidMemoryTrainer, SayingDataTrainer
from actors.training.trainer_kinds import trainer_class
from actors.wire import SnapshotError
from tests.unit.actors.tiny import (
    RUN,
    STEPS,
    Published,
    copied,
    in_ranks,
    order,
    run_spec,
    snapshot,
    values,
)

CPU = torch.device("cpu")


@pytest.fixture
def said_spec(facts_corpus: CorpusSpec) -> RunSpec:
    noisy = facts_corpus.model_copy(update={"token_noise": 0.2})
    return run_spec(noisy, memory__teacher="said")


class Pair:
    """Both trainers in one process: each adopts what the other published last."""

    def __init__(self, said_spec: RunSpec, tokenizer: Tokenizer) -> None:
        self.data = SayingDataTrainer(said_spec, tokenizer.to_json(), RUN)
        self.memory = SaidMemoryTrainer(said_spec, tokenizer.to_json(), RUN)
        self.of_data, self.of_memory = copied(self.data.publish()), copied(self.memory.publish())
        self.saved: tuple[Outcome, Outcome] | None = None

    def run(self, intervals: int, **fields: bool) -> Pair:
        for _ in range(intervals):
            now = order(self.data.interval_done + 1, **fields)
            data = self.data.interval(now, [self.of_memory[0]], self.of_memory[1])
            ranges = self.of_data[0].ranges
            heard = said_alone(self.of_data)
            memory = self.memory.interval(replace(now, ranges=ranges), *heard)
            self.of_data, self.of_memory = copied(snapshot(data)), copied(snapshot(memory))
            self.saved = data, memory
        return self


def said_alone(published: Published) -> tuple[list, list]:
    header, buckets = published
    return [header], buckets[len(header.sizes) :]


def said_of(trainer: SayingDataTrainer) -> Said:
    return Said(trainer.shape, trainer.said.bucket().copy())


def test_what_is_said_is_what_the_data_layer_predicted_before_it_learned_from_it(
    said_spec: RunSpec, tokenizer: Tokenizer
) -> None:
    trainer = SayingDataTrainer(said_spec, tokenizer.to_json(), RUN)
    before = SayingDataTrainer(said_spec, tokenizer.to_json(), RUN).layer
    trainer.train_step()
    said, (alone,) = said_of(trainer), [said_spec.num_alone]
    assert len(said) == alone == 2
    chosen = np.array([1, 0])
    batch, few = said.batch(chosen), said.teacher(chosen, CPU)
    with torch.no_grad():
        p_NV = data_logits_at(before, batch).softmax(-1)
    assert few.ids_NK.shape == (batch.num_valid, MOST_LIKELIEST)
    top = p_NV.topk(MOST_LIKELIEST)
    torch.testing.assert_close(few.p_NK, top.values, rtol=2e-3, atol=1e-6)
    assert (few.ids_NK[:, 0] == top.indices[:, 0]).float().mean() > 0.95
    entropy_N = -(p_NV * p_NV.log()).sum(-1)
    torch.testing.assert_close(few.entropy_N, entropy_N, rtol=1e-4, atol=1e-5)


def test_the_sequences_are_those_of_the_step_with_their_noise(
    said_spec: RunSpec, tokenizer: Tokenizer
) -> None:
    trainer = SayingDataTrainer(said_spec, tokenizer.to_json(), RUN)
    twin = SayingDataTrainer(said_spec, tokenizer.to_json(), RUN)
    trainer.train_step()
    windows, _ = twin.stream.next_batch(said_spec.data.batch_size)
    want = twin.make_batch(windows).rows(slice(said_spec.num_reading, None))
    got = said_of(trainer).batch(np.arange(said_spec.num_alone))
    for name in ("tokens_BT", "segments_BT", "valid_BT"):
        assert torch.equal(getattr(got, name), getattr(want, name))
    assert torch.equal(got.targets_N, want.targets_N)
    assert np.array_equal(got.host.segments_BT, want.host.segments_BT)


@pytest.mark.parametrize("changes", [{"logit_tokens": 16}, {"data__accumulate": 2}])
def test_parts_and_passes_say_the_same(
    facts_corpus: CorpusSpec, said_spec: RunSpec, tokenizer: Tokenizer, changes: dict[str, int]
) -> None:
    found = []
    for changed in ({}, changes):
        one = run_spec(facts_corpus, memory__teacher="said", **changed)
        pair = Pair(one, tokenizer).run(1)
        said = said_of(pair.data)
        chosen = np.arange(len(said))
        found.append((said.batch(chosen), said.teacher(chosen, CPU)))
    (batch, few), (other, others) = found
    assert torch.equal(batch.tokens_BT, other.tokens_BT)
    torch.testing.assert_close(few.p_NK, others.p_NK, atol=5e-3, rtol=2e-2)


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_several_ranks_say_what_one_says(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer, num_ranks: int
) -> None:
    def outcomes(num: int) -> list[Outcome]:
        workers = {"data__workers": {"num_workers": num}, "data__batch_size": 5}
        one = run_spec(facts_corpus, memory__teacher="said", **workers)
        memory = SaidMemoryTrainer(one, tokenizer.to_json(), RUN)
        header, buckets = copied(memory.publish())
        trainers = [
            SayingDataTrainer(one, tokenizer.to_json(), RUN, rank, num) for rank in range(num)
        ]

        def work(ranks: ProcessGroup) -> Outcome:
            if num > 1:
                trainers[ranks.rank].join(ranks)
            return trainers[ranks.rank].interval(order(1), [header], buckets)

        return in_ranks(num, work)

    shape = SaidShape.of(run_spec(facts_corpus, memory__teacher="said", data__batch_size=5), 400)
    found = []
    for num in (1, num_ranks):
        first, *others = outcomes(num)
        assert first.header is not None
        assert len(first.buckets) == len(first.header.sizes) + 1
        assert all(o.header is None or not o.header.said_checksums for o in others)
        found.append(Said(replace(shape, num_ids=MOST_LIKELIEST), first.buckets[-1].copy()))
    one, several = (said.batch(np.arange(len(said))) for said in found)
    assert len(found[0]) == STEPS * 3
    for name in ("tokens_BT", "segments_BT", "valid_BT"):
        assert torch.equal(getattr(one, name), getattr(several, name))
    chosen = np.arange(len(found[0]))
    one_said, said = (s.teacher(chosen, CPU) for s in found)
    torch.testing.assert_close(said.p_NK, one_said.p_NK, atol=5e-3, rtol=2e-2)


def test_the_memory_holds_no_copy_of_the_data_layer(
    said_spec: RunSpec, tokenizer: Tokenizer
) -> None:
    memory = Pair(said_spec, tokenizer).run(2).memory
    assert not hasattr(memory, "teacher")
    assert not hasattr(memory, "mirror")
    assert trainer_class(said_spec, "memory") is SaidMemoryTrainer
    assert trainer_class(said_spec, "data") is SayingDataTrainer


def gap(memory: SaidMemoryTrainer) -> float:
    """KL from what was said to what the memory predicts there, nats."""
    chosen = np.arange(len(memory.said))
    few, batch = memory.said.teacher(chosen, CPU), memory.said.batch(chosen)
    with torch.no_grad():
        q_NK = memory_logits_at(memory.layer, batch).softmax(-1).gather(1, few.ids_NK)
    cross_N = -(few.p_NK * q_NK.log()).sum(-1) - few.rest_N * (1 - q_NK.sum(-1)).log()
    return float((cross_N - few.least_cross_N).mean())


def test_recall_begins_when_something_was_said_and_pulls_the_memory_to_it(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    alone = {"losses__self": 0.0, "losses__given": 0.0, "losses__recall_yields": 0.0}
    pair = Pair(run_spec(facts_corpus, memory__teacher="said", **alone), tokenizer)
    first = pair.memory.interval(order(1), *said_alone(pair.of_data)).report
    assert "recall" not in values(first)
    pair = Pair(run_spec(facts_corpus, memory__teacher="said", **alone), tokenizer).run(2)
    assert pair.saved is not None
    assert values(pair.saved[1].report)["recall"] > 0
    before = gap(pair.memory)
    for _ in range(8):
        pair.memory.train_step()
        pair.memory.step += 1
    assert gap(pair.memory) < 0.9 * before


def test_two_memory_ranks_learn_what_one_learns(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    def parameters(num: int) -> torch.Tensor:
        one = run_spec(facts_corpus, memory__teacher="said", memory__workers={"num_workers": num})
        heard = Pair(one, tokenizer).run(1).of_data if num == 1 else of_data[0]
        of_data.append(heard)
        ranks_of = [
            SaidMemoryTrainer(one, tokenizer.to_json(), RUN, rank, num) for rank in range(num)
        ]

        def work(ranks: ProcessGroup) -> Outcome:
            if num > 1:
                ranks_of[ranks.rank].join(ranks)
            return ranks_of[ranks.rank].interval(
                order(1, ranges=heard[0].ranges), *said_alone(heard)
            )

        outs = in_ranks(num, work)
        assert "recall" in outs[0].report.shares
        joined = b"".join(b.tobytes() for o in outs for b in o.buckets)
        return torch.frombuffer(bytearray(joined), dtype=torch.float32)

    of_data: list[Published] = []
    one, two = parameters(1), parameters(2)
    torch.testing.assert_close(two, one, atol=2e-4, rtol=2e-3)


def test_a_checkpoint_of_both_goes_on_with_the_same_bits(
    said_spec: RunSpec, tokenizer: Tokenizer
) -> None:
    pair = Pair(said_spec, tokenizer).run(2, checkpoint=True)
    data, memory = pair.saved
    parts = [
        ([o.checkpoint_header], [b.copy() for b in o.checkpoint_buckets]) for o in (data, memory)
    ]
    again = Pair(said_spec, tokenizer)
    again.data.restore(*parts[0])
    again.memory.restore(*parts[1])
    again.of_data, again.of_memory = copied(again.data.publish()), copied(again.memory.publish())
    assert again.of_data[0] == pair.of_data[0]
    for one in (pair, again):
        one.run(2)
    assert again.memory.own.digest() == pair.memory.own.digest()
    assert again.data.own.digest() == pair.data.own.digest()
    assert again.of_data[0].said_checksums == pair.of_data[0].said_checksums


def test_a_memory_that_runs_ahead_keeps_what_it_heard(
    said_spec: RunSpec, tokenizer: Tokenizer
) -> None:
    pair = Pair(said_spec, tokenizer).run(2)
    number, (headers, _) = pair.memory.interval_done, said_alone(pair.of_data)
    pair.memory.interval(order(number + 1, ranges=pair.of_data[0].ranges),
                         *said_alone(pair.of_data))  # fmt: skip
    report = pair.memory.interval(order(number + 2), headers, ()).report
    assert values(report)["recall"] > 0


def test_an_altered_byte_is_refused_and_nothing_is_taken_over(
    said_spec: RunSpec, tokenizer: Tokenizer
) -> None:
    pair = Pair(said_spec, tokenizer).run(1)
    headers, (bucket,) = said_alone(pair.of_data)
    broken = bucket.copy()
    broken[7] ^= 1
    with pytest.raises(SnapshotError, match="what data v1 said: checksum"):
        pair.memory.interval(order(2), headers, [broken])
    with pytest.raises(SnapshotError, match=r"got buckets of \[\] bytes, expected one of"):
        pair.memory.interval(order(2), headers, [])
    assert len(pair.memory.said) == 0
    assert values(pair.memory.interval(order(2), headers, [bucket]).report)["recall"] > 0


def test_agreement_is_measured_where_something_was_said(
    said_spec: RunSpec, tokenizer: Tokenizer
) -> None:
    pair = Pair(said_spec, tokenizer)
    assert pair.memory.measure_agreement() is None
    pair.run(2, measure=True)
    assert pair.saved is not None
    said = pair.memory.said
    batch, few = (f(np.arange(len(said))) for f in (said.batch, lambda c: said.teacher(c, CPU)))
    with torch.no_grad():
        best_N = memory_logits_at(pair.memory.layer, batch).argmax(-1)
    want = float((best_N == few.ids_NK[:, 0]).float().mean())
    assert pair.memory.measure_agreement() == pytest.approx(want)
    assert pair.saved[1].report.agreement == pytest.approx(want)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mix": {"sampled": 0.1}}, "which mix.sampled does"),
        ({"losses__self_yields": 0.5}, "which losses.self_yields does"),
        ({"losses__own": 0.0}, "nothing is said without it"),
    ],
)
def test_what_needs_a_data_layer_to_ask_is_refused(
    tmp_path: Path, facts_corpus: CorpusSpec, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        run_spec(facts_corpus, memory__teacher="said", **changes)
