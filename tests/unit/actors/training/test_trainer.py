"""The interval: refuse what is not next, adopt, step, publish, report."""

from __future__ import annotations

import pickle
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.settings.corpus import CorpusSpec
from actors.settings.run import RunSpec
from actors.tokenizers.tokenizer import Tokenizer
from actors.training.data_trainer import DataTrainer
from actors.training.interval import Measured
from actors.training.memory_trainer import MemoryTrainer
from actors.training.trainer import Trainer
from actors.wire import DivergedError, OrderError, SnapshotError
from tests.unit.actors.tiny import (
    FACTS,
    RUN,
    STEPS,
    Exchange,
    Published,
    copied,
    order,
    run_spec,
    values,
    write_facts,
)

BOTH = pytest.mark.parametrize("group", ["data", "memory"])


def member(exchange: Exchange, group: str) -> Trainer:
    return exchange.data if group == "data" else exchange.memory


def peers(exchange: Exchange, group: str) -> Published:
    """The newest snapshot that the group may adopt."""
    data, memory = exchange.published[-1]
    return memory if group == "data" else data


@pytest.fixture
def fresh(spec: RunSpec, tokenizer: Tokenizer) -> Exchange:
    return Exchange(spec, tokenizer.to_json())


@pytest.fixture(scope="module")
def idle(spec: RunSpec, tokenizer: Tokenizer) -> Exchange:
    """Two trainers that refuse whatever these tests ask of them, and so stay as they are."""
    return Exchange(spec, tokenizer.to_json())


@BOTH
@pytest.mark.parametrize("wrong", [order(2), order(0), order(1, incarnation=1)])
def test_an_order_that_is_not_the_next_is_refused(
    idle: Exchange, group: str, wrong: object
) -> None:
    header, buckets = peers(idle, group)
    with pytest.raises(OrderError, match=rf"{group} rank 0: .* expected interval 1 of incarn"):
        member(idle, group).interval(wrong, [header], buckets)  # type: ignore[arg-type]


@BOTH
def test_an_interval_is_not_run_twice(trained: Exchange, group: str) -> None:
    header, buckets = peers(trained, group)
    with pytest.raises(OrderError, match=r"asked for interval 3 .* expected interval 4"):
        member(trained, group).interval(order(3), [header], buckets)


@BOTH
def test_a_refused_order_changes_nothing(idle: Exchange, group: str) -> None:
    trainer, (header, buckets) = member(idle, group), peers(idle, group)
    before = (trainer.own.digest(), trainer.mirror.digest(), trainer.step)
    with pytest.raises(OrderError):
        trainer.interval(order(2), [header], buckets)
    assert (trainer.own.digest(), trainer.mirror.digest(), trainer.step) == before


@BOTH
def test_a_snapshot_of_the_own_group_is_refused(idle: Exchange, group: str) -> None:
    header, buckets = peers(idle, "memory" if group == "data" else "data")
    with pytest.raises(SnapshotError, match=f"got a snapshot of {RUN}/{group}"):
        member(idle, group).interval(order(1), [header], buckets)


@BOTH
def test_a_snapshot_of_another_run_is_refused(idle: Exchange, group: str) -> None:
    header, buckets = peers(idle, group)
    with pytest.raises(SnapshotError, match="got a snapshot of other/"):
        member(idle, group).interval(order(1), [replace(header, run="other")], buckets)


@BOTH
def test_of_an_altered_snapshot_nothing_is_adopted(fresh: Exchange, group: str) -> None:
    trainer, (header, buckets) = member(fresh, group), peers(fresh, group)
    trainer.mirror.buffer.fill_(1)
    before, broken = trainer.mirror.digest(), buckets[0].copy()
    broken[5] ^= 1
    with pytest.raises(SnapshotError, match="altered"):
        trainer.interval(order(1), [header], [broken, *buckets[1:]])
    assert (trainer.mirror.digest(), trainer.peer_version) == (before, -1)


@BOTH
def test_after_an_interval_the_mirror_is_what_was_adopted(trained: Exchange, group: str) -> None:
    data, memory = trained.published[2]
    adopted = memory if group == "data" else data
    assert np.array_equal(member(trained, group).mirror.to_bytes(), np.concatenate(adopted[1]))


@BOTH
def test_what_is_published_are_the_trained_parameters(trained: Exchange, group: str) -> None:
    published = trained.published[-1][0 if group == "data" else 1]
    assert np.array_equal(member(trained, group).own.to_bytes(), np.concatenate(published[1]))


@BOTH
def test_every_interval_changes_the_parameters(trained: Exchange, group: str) -> None:
    at = 0 if group == "data" else 1
    sums = {each[at][0].checksums for each in trained.published}
    assert len(sums) == 4


@BOTH
def test_headers_count_versions_and_steps(trained: Exchange, group: str) -> None:
    at = 0 if group == "data" else 1
    headers = [each[at][0] for each in trained.published]
    assert [(h.version, h.step, h.peer_version) for h in headers] == [
        (0, 0, -1),
        (1, STEPS, 0),
        (2, 2 * STEPS, 1),
        (3, 3 * STEPS, 2),
    ]


@BOTH
def test_reports_count_intervals_and_steps(trained: Exchange, group: str) -> None:
    at = 0 if group == "data" else 1
    reports = [each[at] for each in trained.reports]
    assert [(r.group, r.interval, r.step, r.peer_version) for r in reports] == [
        (group, 1, STEPS, 0),
        (group, 2, 2 * STEPS, 1),
        (group, 3, 3 * STEPS, 2),
    ]


@BOTH
def test_the_parts_of_an_interval_are_no_longer_than_the_whole(
    trained: Exchange, group: str
) -> None:
    report = trained.reports[-1][0 if group == "data" else 1]
    assert 0 < report.adopt_s + report.step_s + report.publish_s <= report.wall_s


@BOTH
def test_the_costs_lie_within_the_steps(trained: Exchange, group: str) -> None:
    report = trained.reports[-1][0 if group == "data" else 1]
    costs = {part: s for part, s in report.costs_s.items() if part not in ("measure", "checkpoint")}
    assert 0 < sum(costs.values()) <= report.step_s


@BOTH
def test_a_trainer_waits_after_its_interval(trained: Exchange, group: str) -> None:
    beat = member(trained, group).beat
    assert (beat.group, beat.phase, beat.interval, beat.step) == (group, "waiting", 4, 3 * STEPS)


def test_what_a_step_measured_is_reported_as_the_mean_of_the_steps_that_did(
    fresh: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = iter(
        [
            Measured({"lr": 0.5}, defaultdict(float, own=2.0, help=1.0), 5),
            Measured({"lr": 0.3}, defaultdict(float, own=4.0), 7),
        ]
    )
    monkeypatch.setattr(fresh.data, "train_step", lambda: next(steps))
    header, buckets = peers(fresh, "data")
    report = fresh.data.interval(order(1, num_steps=2), [header], buckets).report
    assert (report.tokens, report.metrics) == (12, {"lr": 0.4})
    assert report.shares == {"own": 3.0, "help": 1.0}


@BOTH
def test_windows_in_which_nothing_is_to_be_predicted_do_no_harm(
    tmp_path: Path, tokenizer: Tokenizer, group: str
) -> None:
    words = "Whoever wants to travel all the way to [X] some day soon must go through"
    templates = {"capital": [{"pattern": f"{w} {words} [Y].", "lemma": w} for w in ("So", "Yes")]}
    corpus = write_facts(tmp_path, FACTS[:12], templates, loss_on="answers", window=8)
    exchange = Exchange(run_spec(corpus), tokenizer.to_json())
    header, buckets = peers(exchange, group)
    done = member(exchange, group).interval(order(1, num_steps=20), [header], buckets)
    assert done.report.step == 20


def test_publishing_again_gives_the_same_version(fresh: Exchange) -> None:
    header, buckets = peers(fresh, "data")
    published = fresh.data.interval(order(1), [header], buckets).header
    assert published is not None
    assert published.ranges
    assert fresh.data.publish()[0] == published


def test_a_version_that_is_already_there_is_not_copied_again(fresh: Exchange) -> None:
    header, buckets = peers(fresh, "data")
    fresh.data.interval(order(1), [header], buckets)
    fresh.data.mirror.buffer.fill_(1)
    fresh.data.adopt([header], buckets)
    assert bool((fresh.data.mirror.buffer == 1).all())


def nan_data(trainer: DataTrainer) -> None:
    trainer.layer.model.get_input_embeddings().weight.data.fill_(float("nan"))


def nan_memory(trainer: MemoryTrainer) -> None:
    trainer.layer.encoder.embed.weight.data.fill_(float("nan"))


@pytest.mark.parametrize(("group", "poison"), [("data", nan_data), ("memory", nan_memory)])
def test_parameters_that_are_not_a_number_are_reported_with_group_and_step(
    fresh: Exchange, group: str, poison: Callable[[Trainer], None]
) -> None:
    fresh.run(1)
    poison(member(fresh, group))
    header, buckets = peers(fresh, group)
    with pytest.raises(
        DivergedError, match=rf"{group} rank 0: loss is nan at step {STEPS + 1} of interval 2"
    ) as raised:
        member(fresh, group).interval(order(2), [header], buckets)
    assert "last good state is version 1" in str(pickle.loads(pickle.dumps(raised.value)))


def test_the_same_seed_trains_the_same_parameters(
    spec: RunSpec, tokenizer: Tokenizer, trained: Exchange
) -> None:
    torch.manual_seed(987)  # whatever a process drew before makes no difference
    again = Exchange(spec, tokenizer.to_json()).run(2)
    assert [h.checksums for pair in again.published for h, _ in pair] == [
        h.checksums for pair in trained.published[:3] for h, _ in pair
    ]


def test_noise_and_sampling_are_those_of_the_seed_whatever_was_drawn_before(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    noisy = facts_corpus.model_copy(update={"token_noise": 0.3, "window": 24})
    spec = run_spec(noisy, mix={"fresh": 0.5, "sampled": 0.5, "just_trained": 0, "replay": 0})
    checksums = []
    for seed in (1, 2):
        exchange = Exchange(spec, tokenizer.to_json())
        torch.manual_seed(seed)
        exchange.run(1)
        checksums.append([header.checksums for header, _ in exchange.published[1]])
    assert checksums[0] == checksums[1]


@BOTH
def test_two_intervals_make_different_noise(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer, group: str
) -> None:
    spec = run_spec(facts_corpus.model_copy(update={"token_noise": 0.3}))
    exchange, drawn = Exchange(spec, tokenizer.to_json()), []
    trainer = member(exchange, group)
    trainer.begin_interval = lambda *_: drawn.append(torch.rand(4).tolist())  # type: ignore[method-assign]
    exchange.run(2)
    assert drawn[0] != drawn[1]


def test_another_seed_trains_other_parameters(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer, trained: Exchange
) -> None:
    other = Exchange(run_spec(facts_corpus, seed=4), tokenizer.to_json()).run(1)
    for (mine, _), (theirs, _) in zip(other.published[1], trained.published[1], strict=True):
        assert mine.checksums != theirs.checksums


def test_token_noise_is_part_of_a_training_batch(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    noisy = run_spec(facts_corpus.model_copy(update={"token_noise": 0.5}))
    trainer = DataTrainer(noisy, tokenizer.to_json(), RUN)
    windows, _ = trainer.stream.next_batch(4)
    changed = trainer.make_batch(windows).tokens_BT.numpy() != windows.tokens_NT
    assert 0.2 < changed[windows.segments_NT >= 0].mean() < 0.6


def test_publishing_copies_nothing(fresh: Exchange) -> None:
    before = copied(fresh.data.publish())
    _, buckets = fresh.data.publish()
    fresh.data.own.buffer.fill_(1)
    assert bool((buckets[0] == 1).all())
    assert not bool((before[1][0] == 1).all())


def test_bf16_passes_train_nearly_what_float32_ones_train_over_float32_weights(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    mix = {"just_trained": 0.25, "fresh": 0.25, "replay": 0.25, "sampled": 0.25}
    settings = {"mix": mix}
    half = {"data__precision": "bf16", "memory__precision": "bf16"}
    runs = [
        Exchange(run_spec(facts_corpus, **settings, **more), tokenizer.to_json()).run(2)
        for more in ({}, half)
    ]
    for at in (0, 1):
        full, rounded = (values(each.reports[-1][at]) for each in runs)
        assert rounded["loss"] == pytest.approx(full["loss"], rel=0.02)
        assert rounded["loss"] != full["loss"]
    assert {e.dtype for e in runs[1].data.own.entries} == {torch.float32}


def test_recomputed_activations_train_the_same_bits(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    layer = run_spec(facts_corpus).data.layer
    recomputed = layer.model_copy(update={"gradient_checkpointing": True}).model_dump()
    runs = [
        Exchange(run_spec(facts_corpus, **more), tokenizer.to_json()).run(1)
        for more in ({}, {"data__layer": recomputed})
    ]
    assert runs[0].data.own.digest() == runs[1].data.own.digest()
