"""Text that the memory wrote in the place of the corpus while it learns something new."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from actors.corpus.corpus import Corpus
from actors.corpus.windows import Piece, Windows
from actors.layers.batch import Batch, hidden_at, read_at_valid, to_batch
from actors.layers.mixture import predict_both
from actors.layers.pair import Pair
from actors.learning.learner import Learner
from actors.learning.rehearsal import Before, WrittenCorpus
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
    monkeypatch.setattr("actors.learning.rehearsal.write_documents", lambda *_, **__: pieces)
    corpus = WrittenCorpus.write(pair.memory, tokenizer, WINDOW, 0, {"Norland"})
    rows = [*corpus.heldout(9).tokens_NT, *corpus.stream("learn", 0).next_batch(1)[0].tokens_NT]
    kept = {tokenizer.decode([int(t) for t in row]).strip() for row in rows}
    assert kept == {"Avaria is wide.", "The Norlanders sing."}
    with pytest.raises(ValueError, match="rehearse the run's corpus"):
        WrittenCorpus.write(pair.memory, tokenizer, WINDOW, 0, {"Norland", "Avaria"})


def kl(p_NV: torch.Tensor, q_NV: torch.Tensor) -> torch.Tensor:
    """Between log probabilities, by hand."""
    return (p_NV.exp() * (p_NV - q_NV)).sum(-1)


def predictions(pair: Pair, batch: Batch) -> tuple[torch.Tensor, ...]:
    """Log probabilities of the memory, its encoder, both, and the data layer that reads."""
    with torch.no_grad():
        u_BTD, _ = pair.memory.encode(batch.tokens_BT, batch.segments_BT)
        y_BTD = pair.memory.read_at(u_BTD).y
        _, both = predict_both(pair.data, pair.memory, batch, y_BTD, batch.valid_at_N)
        guess = pair.memory.guess(u_BTD[batch.valid_BT])
    return both.logq, guess.log_softmax(-1), both.mixed().logp, both.logp


def test_what_is_kept_is_what_was_predicted_before(
    pair: Pair, written: WrittenCorpus, spec: RunSpec, new: Corpus
) -> None:
    before = Before(pair)
    batch = to_batch(written.heldout(2), torch.device("cpu"))
    then = predictions(pair, batch)
    learner = Learner(spec, pair, new, written, PLAN)
    for _ in range(PLAN.steps):
        learner.train_step()
    now, kept = predictions(pair, batch), before.kept(batch, together=True)
    assert len(kept) == batch.num_valid
    memory, some = pair.memory, slice(3, None)
    with torch.no_grad():
        u_BTD, _ = memory.encode(batch.tokens_BT, batch.segments_BT)
        y_BTD = memory.read_at(u_BTD).y
        y_ND, u_ND = y_BTD[batch.valid_BT], u_BTD[batch.valid_BT]
        hidden_NH = hidden_at(pair.data, batch, y_BTD)
        mixed, reading = kept.together(pair.data, memory, y_ND, hidden_NH, some)
        found = kept.alone(memory, y_ND, some), kept.encoder(memory, u_ND, some), mixed, reading
    for value, p_NV, q_NV in zip(found, then, now, strict=True):
        want = kl(p_NV, q_NV)[some]
        assert value.max() > 1e-4
        assert torch.allclose(value, want, atol=1e-5)
    assert before.kept(batch, together=False).hidden_KH is None


@pytest.mark.parametrize("assist", [0.0, 0.7])
def test_the_loss_is_the_texts_at_the_new_and_the_divergence_at_the_old(
    spec: RunSpec, pair: Pair, written: WrittenCorpus, new: Corpus, assist: float
) -> None:
    """The memory moves before the step; without dropped reads everything can be done by hand."""
    learner = Learner(spec, pair, new, written, replace(PLAN, assist=assist))
    before = Pair(pair.data, copy.deepcopy(pair.memory))
    with torch.no_grad():
        pair.memory.values.add_(0.3 * torch.randn_like(pair.memory.values))
    batch = learner._next_batch()
    learner._next_batch = lambda: batch  # type: ignore[method-assign]
    learner._read_scale = lambda batch: torch.ones(batch.tokens_BT.shape)  # type: ignore[method-assign]
    then, now = predictions(before, batch), predictions(pair, batch)
    num_new = batch.rows(slice(0, 2)).num_valid
    total = 0.0
    for part, weight in ((0, 1.0), (2, assist), (3, assist * spec.losses.reader)):
        nll = F.nll_loss(now[part][:num_new], batch.targets_N[:num_new], reduction="sum")
        total += weight * float(nll + kl(then[part][num_new:], now[part][num_new:]).sum())
    assert learner.train_step() == pytest.approx(total / batch.num_valid, rel=1e-4)


def divergence(before: Before, pair: Pair, windows: Windows) -> float:
    batch = to_batch(windows, torch.device("cpu"))
    with torch.no_grad():
        y_ND = read_at_valid(pair.memory, batch)
        kept = before.kept(batch, together=False)
        return float(kept.alone(pair.memory, y_ND, slice(None)).mean())


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
