"""What a pair knows of a corpus: the same as the evaluator and held-out figures say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from actors.corpus.corpus import Corpus, train_tokenizer
from actors.layers.batch import to_batch
from actors.layers.pair import Pair
from actors.measuring.heldout import heldout_figures
from actors.measuring.knowledge import KnowledgeTest, voice_figures
from actors.pair.evaluator import Evaluator
from actors.settings.run import RunSpec
from actors.tokenizers.tokenizer import Tokenizer
from tests.unit.actors.tiny import Exchange, numbered_lines, run_spec, write_text

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def corpus(spec: RunSpec, tokenizer: Tokenizer) -> Corpus:
    return Corpus.open(spec, tokenizer)


@pytest.mark.parametrize("final", [True, False])
def test_it_says_what_the_evaluator_says_of_the_same_pair(
    spec: RunSpec, tokenizer: Tokenizer, corpus: Corpus, pair: Pair, final: bool
) -> None:
    evaluator = Evaluator(spec, tokenizer.to_json())
    evaluator.pair.data.load_state_dict(pair.data.state_dict())
    evaluator.pair.memory.load_state_dict(pair.memory.state_dict())
    said = evaluator.measure((3, 3), final)
    marks = KnowledgeTest(spec, corpus, CPU, final).measure(pair)
    assert marks.heldout == pytest.approx({name: said.figures[name] for name in marks.heldout})
    assert (marks.accuracy, marks.num_probes) == (said.accuracy, said.num_probes)
    assert not final or marks.accuracy_seen == said.accuracy_seen


def test_unasked_it_gives_the_held_out_figures_alone(
    spec: RunSpec, corpus: Corpus, pair: Pair
) -> None:
    marks = KnowledgeTest(spec, corpus, CPU, False).measure(pair, ask=False)
    assert (marks.accuracy, marks.accuracy_seen, marks.num_probes) == ({}, {}, 0)
    assert marks.heldout["own_loss"] > 0


def test_losses_of_the_voices_are_those_of_the_held_out_figures(corpus: Corpus, pair: Pair) -> None:
    batch = to_batch(corpus.heldout(6), CPU)
    found, want = voice_figures(pair, batch), heldout_figures(pair, batch)
    for voice, name in (("own", "own_loss"), ("help", "help_loss"), ("memory", "self_loss")):
        assert found[f"{voice}_loss"] == pytest.approx(want[name])


def test_tokens_right_are_those_that_are_likeliest(corpus: Corpus, pair: Pair) -> None:
    batch = to_batch(corpus.heldout(6), CPU)
    logits = pair.data(batch.tokens_BT, batch.segments_BT).logits_BTV
    right = total = 0
    for b, t in batch.valid_BT.nonzero().tolist():
        right += int(logits[b, t].argmax() == batch.tokens_BT[b, t + 1])
        total += 1
    assert voice_figures(pair, batch)["own_tokens_right"] == pytest.approx(right / total)


def test_text_has_no_questions(tmp_path: Path, trained: Exchange) -> None:
    spec = run_spec(write_text(tmp_path, numbered_lines(200)))
    corpus = Corpus.open(spec, train_tokenizer(spec))
    exchange = Exchange(spec, corpus.tokenizer.to_json())
    pair = Pair(exchange.data.layer.eval(), exchange.memory.layer)
    exam = KnowledgeTest(spec, corpus, CPU, True)
    assert (exam.measure(pair).accuracy, exam.measure(pair).num_probes) == ({}, 0)
    assert "accuracy" not in exam.by_voice(pair)
