"""The evaluator: a committed pair in, its figures out."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.corpus.corpus import train_tokenizer
from actors.corpus.general_text import SAMPLE, general_corpus
from actors.layers.batch import to_batch
from actors.layers.data_layer import DataLayer
from actors.layers.pair import Pair
from actors.measuring.heldout import general_figures, heldout_figures
from actors.measuring.probing import Decoded, answers_right
from actors.measuring.voices import Voice
from actors.pair import evaluator as evaluator_module
from actors.pair.evaluator import Evaluator
from actors.settings.corpus import CorpusSpec
from actors.settings.run import RunSpec
from actors.snapshots import snapshot
from actors.snapshots.flat_parameters import ByteArray
from actors.tokenizers.tokenizer import Tokenizer
from actors.wire import Evaluation, SnapshotError
from tests.unit.actors.chats import chat_tokenizer, talks
from tests.unit.actors.sources.test_file_source import write_rows
from tests.unit.actors.tiny import Exchange, numbered_lines, run_spec, write_text


def evaluate(
    evaluator: Evaluator, exchange: Exchange, version: int, final: bool = False
) -> Evaluation:
    (data, data_buckets), (memory, memory_buckets) = exchange.published[version]
    return evaluator.evaluate([[data], [memory]], [data_buckets, memory_buckets], final)


@pytest.fixture
def evaluator(spec: RunSpec, tokenizer: Tokenizer) -> Evaluator:
    return Evaluator(spec, tokenizer.to_json())


@pytest.fixture(scope="module")
def final(spec: RunSpec, tokenizer: Tokenizer, trained: Exchange) -> tuple[Evaluator, Evaluation]:
    """An evaluator that saw versions 2 and 3, and what it said of the last."""
    evaluator = Evaluator(spec, tokenizer.to_json())
    evaluate(evaluator, trained, 2)
    return evaluator, evaluate(evaluator, trained, 3, final=True)


def test_it_evaluates_exactly_what_the_groups_published(
    final: tuple[Evaluator, Evaluation], trained: Exchange
) -> None:
    want = {"data": trained.data.own.digest(), "memory": trained.memory.own.digest()}
    assert final[0].digests() == want


def test_it_says_which_versions_it_evaluated(final: tuple[Evaluator, Evaluation]) -> None:
    assert (final[1].data_version, final[1].memory_version) == (3, 3)


def test_its_figures_are_those_of_the_held_out_windows(
    final: tuple[Evaluator, Evaluation], trained: Exchange
) -> None:
    evaluator, said = final
    batch = to_batch(trained.data.corpus.heldout(8), trained.data.device)
    want = heldout_figures(evaluator.pair, batch)
    assert {name: said.figures[name] for name in want} == pytest.approx(want)


def test_its_accuracy_is_the_share_of_right_answers(
    final: tuple[Evaluator, Evaluation], trained: Exchange
) -> None:
    facts = trained.data.corpus.facts
    assert facts is not None
    probes = facts.probes(True, 10, 3)
    right = answers_right(final[0].pair, "own", trained.data.tokenizer, probes)
    assert final[1].accuracy_seen["own"] == sum(right) / len(right)


def test_the_baseline_answers_with_the_most_frequent_object(
    final: tuple[Evaluator, Evaluation], trained: Exchange
) -> None:
    facts = trained.data.corpus.facts
    assert facts is not None
    probes = facts.probes(False, 10, 3)
    most = {"capital": "Dastan", "river": "Oda"}  # each capital occurs once: the first
    assert facts.majority()["capital"] == most["capital"]
    want = sum(most[p.relation] in p.answers for p in probes) / 10
    assert final[1].accuracy["baseline"] == want


def test_the_final_evaluation_answers_sample_questions(
    final: tuple[Evaluator, Evaluation],
) -> None:
    assert len(final[1].answers) == 5
    assert all(a.prompt and a.expected for a in final[1].answers)


def test_the_first_evaluation_has_nothing_to_compare_with(
    evaluator: Evaluator, trained: Exchange
) -> None:
    said = evaluate(evaluator, trained, 1)
    assert (said.reflection_changed, said.reflection_followed) == (0, 0)


def test_an_evaluation_during_the_run_asks_unseen_wordings_alone(
    evaluator: Evaluator, trained: Exchange
) -> None:
    said = evaluate(evaluator, trained, 1)
    assert (said.num_probes, said.accuracy_seen, said.answers) == (8, {}, ())
    assert set(said.accuracy) == {"own", "help", "memory", "baseline"}


def test_of_a_pair_with_an_altered_half_nothing_is_adopted(
    evaluator: Evaluator, trained: Exchange
) -> None:
    before = evaluator.digests()
    (data, data_buckets), (memory, memory_buckets) = trained.published[1]
    broken = [memory_buckets[0].copy()]
    broken[0][0] ^= 1
    with pytest.raises(SnapshotError, match="altered"):
        evaluator.evaluate([[data], [memory]], [data_buckets, broken], False)
    assert evaluator.digests() == before


def test_plain_text_is_evaluated_without_probes(tmp_path: Path) -> None:
    spec = run_spec(write_text(tmp_path, numbered_lines(60)))
    evaluator = Evaluator(spec, train_tokenizer(spec).to_json())
    said = evaluator.measure((0, 0), final=True)
    assert (said.accuracy, said.accuracy_seen, said.num_probes) == ({}, {}, 0)
    assert said.figures["own_loss"] > 0
    assert len(said.answers) == 5


def test_a_sample_of_a_chat_is_answered_up_to_the_end_of_the_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "chats.jsonl", talks(60))
    tokenizer = chat_tokenizer(tmp_path / "tokenizer")
    corpus = {"paths": [str(tmp_path / "chats.jsonl")], "messages_column": "messages"}
    spec = run_spec(
        CorpusSpec.model_validate({**corpus, "window": 32, "block_bytes": 512}),
        tokenizer={"pretrained": str(tmp_path / "tokenizer")},
    )
    asked: list[object] = []

    def decode(
        pair: Pair, voice: Voice, prompts: list[list[int]], stop: object, **_: int
    ) -> list[Decoded]:
        asked.append(stop)
        return [Decoded((), (), ()) for _ in prompts]

    monkeypatch.setattr(evaluator_module, "decode_greedily", decode)
    said = Evaluator(spec, tokenizer.to_json()).measure((0, 0), final=True)
    assert [answer.expected[:6] for answer in said.answers] == ["It is "] * len(said.answers)
    assert not any("<|im_end|>" in answer.expected for answer in said.answers)
    assert asked == [tokenizer.ends] * 3
    assert len(tokenizer.ends) == 2


def test_evaluating_twice_says_the_same(
    spec: RunSpec, tokenizer: Tokenizer, trained: Exchange
) -> None:
    said = [evaluate(Evaluator(spec, tokenizer.to_json()), trained, 3).figures for _ in range(2)]
    assert said[0] == said[1]


def test_a_snapshot_is_verified_once(
    evaluator: Evaluator, trained: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    summed: list[int] = []
    checksum = snapshot.checksum

    def counted(bucket: ByteArray) -> int:
        summed.append(bucket.size)
        return checksum(bucket)

    monkeypatch.setattr(snapshot, "checksum", counted)
    evaluate(evaluator, trained, 1)
    published = trained.published[1]
    assert summed == [bucket.size for _, buckets in published for bucket in buckets]


def test_a_pair_that_is_given_is_evaluated_and_no_other_is_made(
    spec: RunSpec, tokenizer: Tokenizer, final: tuple[Evaluator, Evaluation],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(Evaluator, "_build_pair", None)
    evaluator = Evaluator(spec, tokenizer.to_json(), final[0].pair)
    said = evaluator.measure((3, 3), final=True)
    assert said.accuracy == final[1].accuracy
    assert said.figures["own_loss"] == final[1].figures["own_loss"]
    assert said.answers == final[1].answers


@pytest.mark.parametrize(("probes", "expected"), [(0, [1, 1, 2, 2]), (8, [1, 1, 1, 1])])
def test_a_second_data_layer_is_made_where_tokens_are_compared(
    spec: RunSpec,
    tokenizer: Tokenizer,
    trained: Exchange,
    monkeypatch: pytest.MonkeyPatch,
    probes: int,
    expected: list[int],
) -> None:
    made: list[bool] = []
    build = Evaluator._build_data

    def counted(self: Evaluator) -> DataLayer:
        made.append(True)
        return build(self)

    monkeypatch.setattr(Evaluator, "_build_data", counted)
    asked = spec.evaluation.model_copy(update={"probes": probes})
    evaluator = Evaluator(spec.model_copy(update={"evaluation": asked}), tokenizer.to_json())
    numbers = []
    for version in (0, 1, 2, 3):
        evaluate(evaluator, trained, version)
        numbers.append(len(made))
    assert numbers == expected


def test_nothing_is_compared_with_version_0_so_that_other_figures_stay_as_they_are(
    spec: RunSpec, tokenizer: Tokenizer, trained: Exchange
) -> None:
    with_it, without = (Evaluator(spec, tokenizer.to_json()) for _ in range(2))
    first = evaluate(with_it, trained, 0)
    assert (first.data_version, first.memory_version) == (0, 0)
    for version in (2, 3):
        one, other = (evaluate(e, trained, version) for e in (with_it, without))
        assert (one.figures, one.reflection_changed) == (other.figures, other.reflection_changed)


def test_general_text_is_measured_on_the_same_windows_each_time(
    spec: RunSpec, tokenizer: Tokenizer, trained: Exchange
) -> None:
    chosen = spec.evaluation.model_copy(update={"general_text": str(SAMPLE), "general_windows": 3})
    evaluator = Evaluator(spec.model_copy(update={"evaluation": chosen}), tokenizer.to_json())
    during = evaluate(evaluator, trained, 3)
    last = evaluate(evaluator, trained, 3, final=True)
    windows = to_batch(general_corpus(spec, tokenizer).heldout(3), trained.data.device)
    want = {n: v for n, v in during.figures.items() if n.startswith("general")}
    assert want == pytest.approx(general_figures(evaluator.pair, windows))
    assert {n: last.figures[n] for n in want} == want


def test_it_says_how_good_a_writer_the_memory_is(final: tuple[Evaluator, Evaluation]) -> None:
    figures = final[1].figures
    assert 0 <= figures["written_likely_frac"] <= 1
    assert 0 < figures["written_tokens"] <= 48
