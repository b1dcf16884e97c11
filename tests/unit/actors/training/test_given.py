"""The loss of tokens that are only given: where it counts, what it is, and where it is not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from actors.corpus.corpus import WindowStream
from actors.layers.batch import Batch, to_batch
from actors.settings.corpus import CorpusSpec
from actors.tokenizers.tokenizer import Tokenizer
from actors.training.memory_trainer import MemoryTrainer
from tests.unit.actors.tiny import RUN, run_spec, values, write_facts


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> CorpusSpec:
    """Facts of which the answers alone are learned."""
    return write_facts(tmp_path_factory.mktemp("answers"), loss_on="answers")


def build(corpus: CorpusSpec, tokenizer: Tokenizer, **changes: object) -> MemoryTrainer:
    spec = run_spec(corpus, **{"memory__given_frac": 1.0, **changes})
    return MemoryTrainer(spec, tokenizer.to_json(), RUN)


def next_batch(trainer: MemoryTrainer, monkeypatch: pytest.MonkeyPatch, real: int = 4) -> Batch:
    """The next batch is four windows, of which the first `real` are real text, in their order."""
    windows, _ = WindowStream(trainer.corpus, "memory").next_batch(4)
    monkeypatch.setattr(trainer, "next_windows", lambda: (windows, real))
    in_order = torch.arange(4)
    monkeypatch.setattr(torch, "randperm", lambda num, generator: in_order[:num])
    return to_batch(windows, trainer.device)


def given_of(batch: Batch) -> torch.Tensor:
    """The slow way: positions before a token of the same document that has no loss."""
    found = torch.zeros_like(batch.valid_BT)
    segments = batch.segments_BT.tolist()
    for row, line in enumerate(segments):
        for at in range(len(line) - 1):
            same = line[at] == line[at + 1] != -1
            found[row, at] = same and not batch.valid_BT[row, at]
    return found


@pytest.mark.parametrize("real", [2, 4])
def test_it_is_the_memorys_loss_on_given_tokens_of_real_text(
    answers: CorpusSpec, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, real: int
) -> None:
    trainer = build(answers, tokenizer, corpus__token_noise=0.0)
    batch = next_batch(trainer, monkeypatch, real)
    where = given_of(batch)
    where[real:] = False
    with torch.no_grad():
        y = trainer.layer.read(batch.tokens_BT, batch.segments_BT).y[where]
        want = F.cross_entropy(trainer.layer.predict(y), batch.targets_BT[where]).item()
    assert 0 < int(where.sum()) == int(batch.given_BT[:real].sum())
    assert values(trainer.train_step())["given"] == pytest.approx(want, rel=1e-4)


def test_a_share_of_the_sequences_counts(
    answers: CorpusSpec, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = build(answers, tokenizer, memory__given_frac=0.5, corpus__token_noise=0.0)
    batch = next_batch(trainer, monkeypatch)
    where = given_of(batch)
    where[2:] = False
    with torch.no_grad():
        y = trainer.layer.read(batch.tokens_BT, batch.segments_BT).y[where]
        want = F.cross_entropy(trainer.layer.predict(y), batch.targets_BT[where]).item()
    assert values(trainer.train_step())["given"] == pytest.approx(want, rel=1e-4)


def test_the_encoder_learns_given_tokens_too_and_both_are_in_the_loss(
    answers: CorpusSpec, tokenizer: Tokenizer
) -> None:
    weights = {f"losses__{name}": 0.0 for name in ("recall", "self", "balance")}
    trainer = build(
        answers,
        tokenizer,
        losses__given=0.3,
        losses__encoder=2.0,
        **{**weights, "losses__self": 1e-9},
    )
    measured = values(trainer.train_step())
    want = 0.3 * measured["given"] + 0.6 * measured["given_encoder"]
    assert measured["loss"] == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_passes_add_up_to_the_whole_batch(
    answers: CorpusSpec, tokenizer: Tokenizer, accumulate: int
) -> None:
    whole = values(build(answers, tokenizer, memory__given_frac=0.75).train_step())
    parts = values(
        build(
            answers, tokenizer, memory__given_frac=0.75, memory__accumulate=accumulate
        ).train_step()
    )
    for name in ("given", "given_encoder", "self", "loss"):
        assert parts[name] == pytest.approx(whole[name], rel=1e-4)


def test_without_a_weight_or_given_tokens_the_step_keeps_its_bits(
    answers: CorpusSpec, facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    off = build(answers, tokenizer, losses__given=0.0)
    assert not {"given", "given_encoder"} & set(values(off.train_step()))
    every_token = [build(facts_corpus, tokenizer, losses__given=w) for w in (0.0, 0.1)]
    measured = [values(trainer.train_step()) for trainer in every_token]
    assert "given" not in measured[1]
    assert every_token[0].own.digest() == every_token[1].own.digest()


def test_a_memory_that_learns_given_tokens_predicts_them(
    answers: CorpusSpec, tokenizer: Tokenizer
) -> None:
    losses = {}
    for weight in (0.0, 1.0):
        trainer = build(answers, tokenizer, losses__given=weight, intervals=20)
        for _ in range(40):
            trainer.train_step()
            trainer.step += 1
        batch = to_batch(WindowStream(trainer.corpus, "memory").next_batch(4)[0], trainer.device)
        where = given_of(batch)
        with torch.no_grad():
            y = trainer.layer.read(batch.tokens_BT, batch.segments_BT).y[where]
            losses[weight] = F.cross_entropy(
                trainer.layer.predict(y), batch.targets_BT[where]
            ).item()
    assert losses[1.0] < losses[0.0] - 0.5
