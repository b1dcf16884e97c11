"""Trainers of several ranks, as threads: the same steps as one rank's, and the same on each."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from actors.settings.corpus import CorpusSpec
from actors.settings.run import RunSpec
from actors.tokenizers.tokenizer import Tokenizer
from actors.training.data_trainer import DataTrainer
from actors.training.interval import Outcome, within
from actors.training.memory_trainer import MemoryTrainer
from actors.training.process_group import ProcessGroup
from actors.training.trainer import Trainer
from actors.wire import ConfigError
from tests.unit.actors.tiny import RUN, STEPS, Published, copied, in_ranks, order, run_spec

TRAINERS: dict[str, type[DataTrainer | MemoryTrainer]] = {
    "data": DataTrainer,
    "memory": MemoryTrainer,
}
BOTH = pytest.mark.parametrize("group", ["data", "memory"])


def build(spec: RunSpec, tokenizer: Tokenizer, group: str, num_ranks: int) -> list[Trainer]:
    """All ranks, built one after the other: starting weights come from the one torch generator."""
    trainer = TRAINERS[group]
    return [trainer(spec, tokenizer.to_json(), RUN, r, num_ranks) for r in range(num_ranks)]


def run(spec: RunSpec, tokenizer: Tokenizer, group: str, num_ranks: int) -> list[Outcome]:
    """Two intervals of every rank on the peer's starting weights; the last one's outcomes."""
    peer = copied(TRAINERS["memory" if group == "data" else "data"](
        spec, tokenizer.to_json(), RUN).publish())  # fmt: skip
    trainers = build(spec, tokenizer, group, num_ranks)

    def work(ranks: ProcessGroup) -> Outcome:
        trainer = trainers[ranks.rank]
        if num_ranks > 1:
            trainer.join(ranks)
        header, buckets = peer
        trainer.interval(order(1), [header], buckets)
        ranges = () if group == "data" else trainer.corpus and stream_ranges(trainer)
        return trainer.interval(order(2, ranges=ranges), [header], ())

    return in_ranks(num_ranks, work)


def stream_ranges(trainer: Trainer) -> tuple[object, ...]:
    """What a data layer of this run would have trained on in its first interval."""
    assert isinstance(trainer, MemoryTrainer)
    return tuple(trainer.data_stream.next_batch(4 * STEPS)[1])


def parameters(outcomes: list[Outcome]) -> torch.Tensor:
    """The layer as its ranks publish it, each its share."""
    parts: list[Published] = [(o.header, o.buckets) for o in outcomes if o.header is not None]
    joined = b"".join(bucket.tobytes() for _, buckets in parts for bucket in buckets)
    return torch.frombuffer(bytearray(joined), dtype=torch.float32)


@BOTH
@pytest.mark.parametrize("num_ranks", [2, 3])
def test_any_number_of_ranks_trains_what_one_rank_trains(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer, group: str, num_ranks: int
) -> None:
    noisy = facts_corpus.model_copy(update={"token_noise": 0.2})
    mix = {"just_trained": 0.25, "fresh": 0.25, "replay": 0.25, "sampled": 0.0}
    many_rows = {"data__batch_size": 5, "memory__batch_size": 5, "mix": mix}
    one = run_spec(noisy, **many_rows)
    workers = {f"{group}__workers": {"num_workers": num_ranks}}
    several = run_spec(noisy, **many_rows, **workers)
    alone = run(one, tokenizer, group, 1)
    together = run(several, tokenizer, group, num_ranks)
    torch.testing.assert_close(parameters(together), parameters(alone), atol=2e-4, rtol=2e-3)
    (want,) = (o.report for o in alone)
    got = [o.report for o in together]
    for name, value in want.shares.items():
        assert sum(r.shares.get(name, 0.0) for r in got) == pytest.approx(value, rel=1e-3), name
    assert sum(r.tokens for r in got) == want.tokens


@BOTH
def test_three_ranks_train_the_same_bits_in_every_fresh_group(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer, group: str
) -> None:
    spec = run_spec(facts_corpus, **{f"{group}__workers": {"num_workers": 3}})
    once, again = (parameters(run(spec, tokenizer, group, 3)) for _ in range(2))
    assert torch.equal(once, again)


@BOTH
def test_accumulated_passes_train_what_one_pass_trains(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer, group: str
) -> None:
    plain = {"losses__balance": 0.0}  # which is of one pass' positions
    one = parameters(run(run_spec(facts_corpus, **plain), tokenizer, group, 1))
    spec = run_spec(facts_corpus, **plain, **{f"{group}__accumulate": 3})
    torch.testing.assert_close(
        parameters(run(spec, tokenizer, group, 1)), one, atol=2e-4, rtol=2e-3
    )


@BOTH
@pytest.mark.parametrize(("before", "after"), [(1, 2), (3, 2), (2, 1)])
def test_a_group_of_another_size_goes_on_as_fresh_ranks_from_its_checkpoint_would(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer, group: str, before: int, after: int
) -> None:
    """Those that stay carry nothing over but the checkpoint: bit for bit."""
    spec = run_spec(facts_corpus, mix={"just_trained": 0.5, "fresh": 0.25, "replay": 0.25})
    peer = copied(TRAINERS["memory" if group == "data" else "data"](
        spec, tokenizer.to_json(), RUN).publish())  # fmt: skip
    trainers = build(spec, tokenizer, group, before)

    def first_interval(ranks: ProcessGroup) -> Outcome:
        trainer = trainers[ranks.rank]
        if before > 1:
            trainer.join(ranks)
        ranges = () if group == "data" else stream_ranges(trainer)
        return trainer.interval(order(1, checkpoint=True, ranges=ranges), [peer[0]], peer[1])

    saved = in_ranks(before, first_interval)
    headers = [o.checkpoint_header for o in saved if o.checkpoint_header is not None]
    parts = [bucket for o in saved for bucket in o.checkpoint_buckets]

    def second_interval(group_of: list[Trainer], ranks: ProcessGroup) -> Outcome:
        trainer = group_of[ranks.rank]
        if after > 1:
            trainer.join(ranks, compare=False)
        trainer.restore(headers, parts)
        return trainer.interval(order(2, incarnation=4), [peer[0]], peer[1])

    added = build(spec, tokenizer, group, after)[before:]
    resized = [*trainers[:after], *added]
    for trainer in resized:
        trainer.regroup(after, 4)
    fresh = build(spec, tokenizer, group, after)
    for trainer in fresh:
        trainer.incarnation = 4
    got = in_ranks(after, lambda ranks: second_interval(resized, ranks))
    wanted = in_ranks(after, lambda ranks: second_interval(fresh, ranks))
    assert torch.equal(parameters(got), parameters(wanted))
    assert [o.report.shares for o in got] == [o.report.shares for o in wanted]


def test_sampled_text_is_the_same_on_every_rank(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    spec = run_spec(facts_corpus, memory__workers={"num_workers": 3})
    trainers = build(spec, tokenizer, "memory", 3)

    def work(ranks: ProcessGroup) -> list[list[int]]:
        trainer = trainers[ranks.rank]
        assert isinstance(trainer, MemoryTrainer)
        trainer.join(ranks)
        return [row.tolist() for row in trainer.sample(5).tokens_NT]

    first, *others = in_ranks(3, work)
    assert first
    assert others == [first, first]


def test_ranks_that_start_with_other_weights_are_refused(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    trainers = build(run_spec(facts_corpus, data__workers={"num_workers": 2}), tokenizer, "data", 2)
    trainers[1].own.buffer[0] ^= 1

    def work(ranks: ProcessGroup) -> str:
        with pytest.raises(ConfigError, match="data rank 1 starts with other weights"):
            trainers[ranks.rank].join(ranks)
        return "refused"

    assert in_ranks(2, work) == ["refused", "refused"]


@pytest.mark.parametrize("size", [4, 5, 7])
@pytest.mark.parametrize(("num_ranks", "accumulate"), [(1, 1), (2, 2), (3, 1), (1, 4)])
def test_the_passes_of_all_ranks_are_the_global_batch(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer, size: int, num_ranks: int, accumulate: int
) -> None:
    spec = run_spec(facts_corpus, data__batch_size=size, data__accumulate=accumulate)
    trainer = DataTrainer(spec, tokenizer.to_json(), RUN)
    taken: list[int] = []
    for rank in range(num_ranks):
        trainer.rank, trainer.num_ranks = rank, num_ranks
        for rows in trainer.passes():
            taken += range(size)[rows]
            first = [i for i in range(size)[rows] if i < 3]
            assert within(3, rows) == len(first)
    assert sorted(taken) == list(range(size))


def test_a_gpu_that_torch_does_not_see_is_named(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    spec = run_spec(facts_corpus, data__workers={"gpus": 1})
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match=r"data.workers.gpus is 1, but torch .* sees no CUDA"):
        DataTrainer(spec, tokenizer.to_json(), RUN)


def test_a_header_of_several_ranks_says_whose_share_it_is(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    spec = run_spec(facts_corpus, data__workers={"num_workers": 3})
    outcomes = run(spec, tokenizer, "data", 3)
    headers = [dataclasses.asdict(o.header) for o in outcomes if o.header is not None]
    assert [(h["rank"], h["num_ranks"]) for h in headers] == [(0, 3), (1, 3), (2, 3)]
