"""The memory group's trainer: what its batches are made of, its teachers, and what learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from actors.corpus.corpus import WindowStream
from actors.corpus.windows import Windows
from actors.layers import losses
from actors.layers.batch import Batch, memory_logits_at, to_batch
from actors.layers.memory_layer import MemoryLayer
from actors.layers.pair import Pair
from actors.measuring.heldout import agreement, heldout_figures
from actors.measuring.sampling import openings
from actors.settings.corpus import CorpusSpec
from actors.settings.run import RunSpec
from actors.tokenizers.tokenizer import Tokenizer
from actors.training.memory_trainer import MemoryTrainer
from actors.wire import Range
from tests.unit.actors.tiny import RUN, STEPS, WINDOW, Exchange, run_spec, values
from tests.unit.actors.training.test_data_trainer import gradients_of


@pytest.fixture
def trainer(spec: RunSpec, tokenizer: Tokenizer) -> MemoryTrainer:
    return MemoryTrainer(spec, tokenizer.to_json(), RUN)


def only(*kept: str, **weights: float) -> dict[str, float]:
    """Weights under which the memory trains on these losses alone."""
    names = ("recall", "self", "encoder", "balance")
    return {f"losses__{n}": weights.get(n, float(n in kept)) for n in names}


def build(corpus: CorpusSpec, tokenizer: Tokenizer, **changes: Any) -> MemoryTrainer:
    return MemoryTrainer(run_spec(corpus, **changes), tokenizer.to_json(), RUN)


def heldout(exchange: Exchange) -> Batch:
    return to_batch(exchange.memory.corpus.heldout(6), torch.device("cpu"))


def given(trainer: MemoryTrainer, monkeypatch: pytest.MonkeyPatch, real: int = 4) -> Batch:
    """Makes the next batch four windows of the text, the first `real` of them as real text."""
    windows, _ = WindowStream(trainer.corpus, "memory").next_batch(4)
    monkeypatch.setattr(trainer, "next_windows", lambda: (windows, real))
    return to_batch(windows, trainer.device)


def test_before_the_first_exchange_every_window_is_fresh(trainer: MemoryTrainer) -> None:
    want, _ = WindowStream(trainer.corpus, "memory").next_batch(4)
    windows, real = trainer.next_windows()
    assert (windows.tokens_NT.tolist(), real) == (want.tokens_NT.tolist(), 4)


def test_what_the_data_layer_just_trained_on_is_what_the_memory_reads(trained: Exchange) -> None:
    stream = WindowStream(trained.data.corpus, "data")
    stream.next_batch(4 * STEPS)  # interval 3 adopted version 2: the windows of interval 2
    want, _ = stream.next_batch(4 * STEPS)
    assert trained.memory.just_trained.tokens_NT.tolist() == want.tokens_NT.tolist()


def test_what_was_just_trained_on_before_is_replayed(trained: Exchange) -> None:
    want, _ = WindowStream(trained.data.corpus, "data").next_batch(4 * STEPS)
    assert trained.memory.replay.windows.tokens_NT.tolist() == want.tokens_NT.tolist()


def test_a_batch_is_mixed_as_configured(facts_corpus: CorpusSpec, tokenizer: Tokenizer) -> None:
    mix = {"just_trained": 3, "fresh": 1, "replay": 2, "sampled": 2}
    trainer = build(facts_corpus, tokenizer, mix=mix, memory__batch_size=8)

    def filled(number: int) -> Windows:
        windows = trainer.fresh.next_batch(4)[0]
        return Windows(
            np.full_like(windows.tokens_NT, number), windows.segments_NT, windows.learn_NT
        )

    trainer.just_trained, trainer.sampled = filled(1), filled(2)
    trainer.replay.add(filled(3), [Range(0, 0, 4)])
    windows, real = trainer.next_windows()
    kinds = [int(row[0]) for row in windows.tokens_NT]
    assert (kinds, real) == ([1, 1, 1, 3, 3, tokenizer.end_of_text, 2, 2], 6)


@pytest.fixture
def fresh_after_one(spec: RunSpec, tokenizer: Tokenizer) -> Exchange:
    return Exchange(spec, tokenizer.to_json()).run(1)


def test_training_lowers_the_losses(trained: Exchange) -> None:
    first, last = values(trained.reports[0][1]), values(trained.reports[-1][1])
    assert last["self"] < first["self"] - 0.2


def test_every_dense_tensor_learns(spec: RunSpec, tokenizer: Tokenizer) -> None:
    exchange = Exchange(spec, tokenizer.to_json())
    layer = exchange.memory.layer
    with gradients_of(exchange.memory, layer) as sums:
        exchange.run(1)
    silent = [name for name, _ in layer.named_parameters() if name != "values" and not sums[name]]
    assert silent == []


@pytest.mark.parametrize("loss", ["recall", "self"])
def test_each_loss_alone_reaches_the_values(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer, loss: str
) -> None:
    exchange = Exchange(run_spec(facts_corpus, **only(loss)), tokenizer.to_json()).run(1)
    before = exchange.memory.layer.values.detach().clone()
    exchange.run(1)
    assert exchange.reports[1][1].metrics["value_gradient_norm"] > 0
    assert not torch.equal(exchange.memory.layer.values, before)


def test_shuffling_the_values_of_a_trained_memory_changes_help(
    spec: RunSpec, tokenizer: Tokenizer
) -> None:
    trained = Exchange(spec, tokenizer.to_json()).run(8)  # long enough to rely on the memory
    pair, batch = Pair(trained.data.layer.eval(), trained.memory.layer), heldout(trained)
    shuffled = MemoryLayer(
        pair.memory.spec, pair.memory.vocab_rows, pair.memory.num_tokens
    ).requires_grad_(False)
    shuffled.load_state_dict(pair.memory.state_dict())
    shuffled.values.copy_(shuffled.values[torch.randperm(len(shuffled.values))])
    before = heldout_figures(pair, batch)["help_loss"]
    after = heldout_figures(Pair(pair.data, shuffled), batch)["help_loss"]
    assert after > before + 1e-3


@pytest.mark.parametrize("real", [1, 3, 4])
def test_self_is_taught_by_real_text_alone(
    trainer: MemoryTrainer, monkeypatch: pytest.MonkeyPatch, real: int
) -> None:
    batch = given(trainer, monkeypatch, real).rows(slice(0, real))
    with torch.no_grad():
        want = F.cross_entropy(memory_logits_at(trainer.layer, batch), batch.targets_N).item()
    assert values(trainer.train_step())["self"] == pytest.approx(want, rel=1e-4)


def test_recall_over_the_whole_batch_is_the_mean_divergence_from_the_teacher(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = {**only("recall"), "losses__recall_yields": 0.0}
    trainer = build(facts_corpus, tokenizer, memory__recall_frac=1.0, **weights)
    batch = given(trainer, monkeypatch)
    with torch.no_grad():
        p = trainer.teacher(batch.tokens_BT, batch.segments_BT).logits_BTV[batch.valid_BT]
        q = memory_logits_at(trainer.layer, batch)
        want = F.kl_div(q.log_softmax(-1), p.softmax(-1), reduction="batchmean").item()
    assert values(trainer.train_step())["recall"] == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize("yields", [1.0, 30.0])
def test_recall_gives_way_as_the_run_says(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, yields: float
) -> None:
    weights = {**only("recall"), "losses__recall_yields": yields}
    trainer = build(facts_corpus, tokenizer, memory__recall_frac=1.0, **weights)
    batch = given(trainer, monkeypatch)
    with torch.no_grad():
        p = trainer.teacher(batch.tokens_BT, batch.segments_BT).logits_BTV[batch.valid_BT]
        q = memory_logits_at(trainer.layer, batch)
        want = losses.recall(p, q, yields).item()
        assert want < losses.recall(p, q).item()
    assert values(trainer.train_step())["recall"] == pytest.approx(want, rel=1e-4)


def test_the_encoder_learns_to_say_what_the_memory_learns_to_say(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = only(recall=0.3, self=0.5, encoder=1.0) | {"losses__recall_yields": 0.0}
    trainer = build(facts_corpus, tokenizer, memory__recall_frac=1.0, **weights)
    batch = given(trainer, monkeypatch)
    with torch.no_grad():
        p = trainer.teacher(batch.tokens_BT, batch.segments_BT).logits_BTV[batch.valid_BT]
        u = trainer.layer.encode(batch.tokens_BT, batch.segments_BT)[0][batch.valid_BT]
        q = trainer.layer.guess(u)
        recall = F.kl_div(q.log_softmax(-1), p.softmax(-1), reduction="batchmean")
        want = 0.3 * recall + 0.5 * F.cross_entropy(q, batch.targets_N)
    assert values(trainer.train_step())["encoder"] == pytest.approx(want.item(), rel=1e-4)


def test_the_loss_is_the_weighted_sum_of_its_terms(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    weights = {
        "recall": 0.3,
        "self": 0.5,
        "encoder": 0.2,
        "balance": 0.7,
    }
    metrics = values(build(facts_corpus, tokenizer, **only(**weights)).train_step())
    want = sum(weight * metrics[name] for name, weight in weights.items())
    assert metrics["loss"] == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("asked", [2, 4])
def test_self_gives_way_where_the_data_layer_was_asked(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, asked: int
) -> None:
    trainer = build(facts_corpus, tokenizer, losses__self_yields=1.0, memory__recall_frac=asked / 4)
    batch = given(trainer, monkeypatch)
    sequence_N = batch.valid_BT.nonzero()[:, 0]
    order = torch.randperm(4, generator=trainer.generator(0))
    with torch.no_grad():
        logits_NV = memory_logits_at(trainer.layer, batch)
        p_NV = trainer.teacher(batch.tokens_BT, batch.segments_BT).logits_BTV[batch.valid_BT]
        p_NV = p_NV.softmax(-1)
    rows = torch.arange(len(p_NV))
    counted_N = 1 - (p_NV.max(-1).values - p_NV[rows, batch.targets_N])
    is_asked_N = torch.isin(sequence_N, order[:asked])
    counted_N = torch.where(is_asked_N, counted_N, 1.0)
    each_N = F.cross_entropy(logits_NV, batch.targets_N, reduction="none")
    want = float((counted_N * each_N).mean())
    assert values(trainer.train_step())["self"] == pytest.approx(want, rel=1e-4)


def test_a_loss_without_weight_is_not_computed(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    metrics = values(build(facts_corpus, tokenizer, **only("self")).train_step())
    assert not {"recall", "encoder"} & set(metrics)


def test_training_leaves_the_teacher_alone(trainer: MemoryTrainer) -> None:
    before = trainer.mirror.digest()
    trainer.train_step()
    assert trainer.mirror.digest() == before


def test_what_is_sampled_begins_as_the_memorys_own_text_does(
    trainer: MemoryTrainer, tokenizer: Tokenizer
) -> None:
    own = openings(WindowStream(trainer.corpus, "memory").next_batch(3)[0])
    given = {tuple(piece.tokens[: piece.num_given]) for piece in own}
    windows = trainer.sample(3)
    said = openings(windows)
    assert 0 < len(windows) <= 3
    assert windows.tokens_NT.shape[1] == WINDOW
    assert {tuple(piece.tokens[: piece.num_given]) for piece in said} <= given


def test_what_is_sampled_follows_the_data_layer(
    trainer: MemoryTrainer, tokenizer: Tokenizer
) -> None:
    favourite = 7
    head = trainer.teacher.model.get_output_embeddings()
    liking = 50 * F.one_hot(torch.tensor(favourite), trainer.tokenizer.size)
    head.register_forward_hook(lambda _module, _args, logits: logits + liking)
    windows = trainer.sample(2)
    said = windows.tokens_NT[windows.learn_NT]
    assert len(said) > 0
    assert set(said.tolist()) == {favourite}


def test_training_on_sampled_text_among_others_works(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    mix = {"just_trained": 0.25, "fresh": 0.25, "replay": 0.25, "sampled": 0.25}
    spec = run_spec(facts_corpus, mix=mix)
    exchange = Exchange(spec, tokenizer.to_json()).run(2)
    assert len(exchange.memory.sampled) > 0
    assert exchange.reports[1][1].costs_s["sample"] > 0


def test_training_on_sampled_text_alone_works(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    mix = {"just_trained": 0, "fresh": 0, "replay": 0, "sampled": 1}
    spec = run_spec(facts_corpus, mix=mix, memory__steps_per_interval=1)
    exchange = Exchange(spec, tokenizer.to_json()).run(1)
    assert values(exchange.reports[0][1])["recall"] > 0


def test_agreement_is_measured_with_the_adopted_data_layer(trained: Exchange) -> None:
    memory = trained.memory
    want = agreement(
        memory.teacher, memory.layer, to_batch(memory.corpus.heldout(48), memory.device)
    )
    assert trained.reports[-1][1].agreement == want


def test_agreement_is_measured_only_where_it_is_asked_for(fresh_after_one: Exchange) -> None:
    assert fresh_after_one.reports[0][1].agreement is None
