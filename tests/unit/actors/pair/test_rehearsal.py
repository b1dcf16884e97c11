"""Text that the memory wrote in the place of the corpus while it learns something new."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from actors.corpus.corpus import Corpus, Windows
from actors.corpus.windows import Piece
from actors.layers import losses
from actors.layers.batch import memory_logits_at, to_batch
from actors.layers.mixture import predict_both
from actors.layers.pair import Pair
from actors.pair.learner import Learner, _loss_of
from actors.pair.rehearsal import Before, WrittenCorpus
from actors.settings.learn_plan import LearnPlan
from actors.settings.run import RunSpec
from actors.tokenizers.tokenizer import Tokenizer
from actors.weights.builders import build_data_layer, build_memory_layer
from tests.unit.actors.tiny import TEMPLATES, WINDOW, open_gates, write_facts

NEW = [{"relation": "capital", "subject": "Norland", "object": "Quist"}]
PLAN = LearnPlan(steps=3, lr=0.03, old_frac=0.5)


@pytest.fixture
def pair(spec: RunSpec, tokenizer: Tokenizer) -> Pair:
    """A pair of fresh weights whose port is open."""
    device = torch.device("cpu")
    data = open_gates(build_data_layer(spec, tokenizer, device)).eval()
    return Pair(data, build_memory_layer(spec, tokenizer, data.vocab_rows, device))


@pytest.fixture
def new(tmp_path_factory: pytest.TempPathFactory, spec: RunSpec, tokenizer: Tokenizer) -> Corpus:
    given = write_facts(tmp_path_factory.mktemp("new"), NEW, {"capital": TEMPLATES["capital"]})
    return Corpus.open(spec.model_copy(update={"corpus": given}), tokenizer)


@pytest.fixture
def written(pair: Pair, tokenizer: Tokenizer) -> WrittenCorpus:
    return WrittenCorpus.write(pair.memory, tokenizer, WINDOW, 0, num=40)


def test_what_is_measured_on_is_never_rehearsed(tokenizer: Tokenizer) -> None:
    documents = [Piece([i, i], 0) for i in range(1, 51)]
    corpus = WrittenCorpus(tokenizer, 2, documents)
    heldout = {tuple(row) for row in corpus.heldout(99).tokens_NT.tolist()}
    stream = corpus.stream("learn", 0)
    rehearsed = Counter(
        tuple(row) for _ in range(2) for row in stream.next_batch(45)[0].tokens_NT.tolist()
    )
    assert heldout == {(i, i) for i in range(1, 6)}
    assert rehearsed == Counter({(i, i): 2 for i in range(6, 51)})
    assert len(corpus.heldout(3)) == 3


def test_a_stream_is_its_name_and_seed(tokenizer: Tokenizer) -> None:
    corpus = WrittenCorpus(tokenizer, 2, [Piece([i, i], 0) for i in range(1, 51)])

    def order(name: str, seed: int) -> list[list[int]]:
        tokens: list[list[int]] = corpus.stream(name, seed).next_batch(50)[0].tokens_NT.tolist()
        return tokens

    assert order("learn", 0) == order("learn", 0)
    assert order("learn", 0) != order("learn", 1)
    assert order("learn", 0) != order("other", 0)


def test_documents_about_what_is_to_be_learned_are_left_out(
    pair: Pair, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["Norland is wide.", "Avaria is wide.", "The Norlanders sing.", "Of Norland, nothing."]
    pieces = [Piece(tokenizer.encode(text), 0) for text in texts]
    monkeypatch.setattr("actors.pair.rehearsal.write_documents", lambda *_: pieces)
    corpus = WrittenCorpus.write(pair.memory, tokenizer, WINDOW, 0, {"Norland"})
    rows = [*corpus.heldout(9).tokens_NT, *corpus.stream("learn", 0).next_batch(1)[0].tokens_NT]
    kept = {tokenizer.decode([int(t) for t in row]).strip() for row in rows}
    assert kept == {"Avaria is wide.", "The Norlanders sing."}
    with pytest.raises(ValueError, match="rehearse the run's corpus"):
        WrittenCorpus.write(pair.memory, tokenizer, WINDOW, 0, {"Norland", "Avaria"})


def test_what_is_kept_is_what_was_predicted_before(
    pair: Pair, written: WrittenCorpus, spec: RunSpec, new: Corpus
) -> None:
    before = Before(pair)
    batch = to_batch(written.heldout(2), torch.device("cpu"))
    with torch.no_grad():
        alone = memory_logits_at(pair.memory, batch).log_softmax(-1)
        y_BTD = pair.memory.read(batch.tokens_BT, batch.segments_BT).y
        _, both = predict_both(pair.data, pair.memory, batch, y_BTD, batch.valid_at_N)
        mixed, reading = both.mixed().logp, both.logp
    learner = Learner(spec, pair, new, written, PLAN)
    for _ in range(PLAN.steps):
        learner.train_step()
    kept = before.kept(batch, together=True)
    assert torch.allclose(kept.alone, alone, atol=1e-5)
    assert kept.mixed is not None
    assert kept.reading is not None
    assert torch.allclose(kept.mixed, mixed, atol=1e-5)
    assert torch.allclose(kept.reading, reading, atol=1e-5)
    with torch.no_grad():
        assert not torch.allclose(memory_logits_at(pair.memory, batch).log_softmax(-1), alone)
    assert before.kept(batch, together=False).mixed is None


@pytest.mark.parametrize("num_old", [0, 2, 5])
def test_the_loss_is_the_texts_at_the_new_and_the_divergence_at_the_old(num_old: int) -> None:
    logits, targets = torch.randn(5, 7), torch.tensor([0, 3, 6, 2, 2])
    kept = torch.randn(num_old, 7).log_softmax(-1)
    total = 0.0
    for at in range(5):
        logp = logits[at].log_softmax(-1)
        if at < 5 - num_old:
            total -= float(logp[targets[at]])
        else:
            before = kept[at - 5 + num_old]
            total += float((before.exp() * (before - logp)).sum())
    assert _loss_of(logits, targets, kept).item() == pytest.approx(total / 5, rel=1e-5)
    of_logp = _loss_of(logits.log_softmax(-1), targets, kept, is_logp=True)
    assert of_logp.item() == pytest.approx(total / 5, rel=1e-5)
    assert _loss_of(logits, targets, None).item() == pytest.approx(
        losses.self_(logits, targets).item()
    )


def divergence(before: Before, pair: Pair, windows: Windows) -> float:
    batch = to_batch(windows, torch.device("cpu"))
    with torch.no_grad():
        now = memory_logits_at(pair.memory, batch).log_softmax(-1)
    return float(losses.kl(before.kept(batch, together=False).alone, now).mean())


def test_rehearsing_it_keeps_what_is_said_there(
    spec: RunSpec, pair: Pair, tokenizer: Tokenizer, written: WrittenCorpus, new: Corpus
) -> None:
    moved = {}
    for old_frac in (0.0, 0.75):
        fresh = Pair(pair.data, build_memory_layer(
            spec, tokenizer, pair.data.vocab_rows, torch.device("cpu")
        ))  # fmt: skip
        fresh.memory.load_state_dict(pair.memory.state_dict())
        before = Before(fresh)
        learner = Learner(spec, fresh, new, written, replace(PLAN, steps=12, old_frac=old_frac))
        for _ in range(12):
            learner.train_step()
        moved[old_frac] = divergence(before, fresh, written.heldout(4))
    assert 0 < moved[0.75] < 0.7 * moved[0.0]


def test_rows_alone_learn_beside_it_too(
    spec: RunSpec, pair: Pair, written: WrittenCorpus, new: Corpus
) -> None:
    plan = replace(PLAN, rows=5, lr=20.0, background_batches=4)
    learner = Learner(spec, pair, new, written, plan)
    assert all(learner.train_step() < float("inf") for _ in range(3))
    assert 0 < learner.rows_changed <= 15
