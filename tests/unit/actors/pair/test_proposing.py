"""Answers to choose from: which are allowed, in which order, with which probabilities."""

from __future__ import annotations

import math

import pytest
import torch

from actors.layers.pair import Pair
from actors.measuring.probing import answer_tokens, prompt_tokens
from actors.pair.proposing import CERTAINTY, FREQUENCY, Proposer, answer_logp, search_answers
from actors.pair.wordings import WrittenText
from actors.tokenizers.tokenizer import Tokenizer
from tests.unit.actors.tiny import COUNTRIES, RIVERS

SENTENCES = [f"The capital of {x} is {y}." for x, y in COUNTRIES]
SENTENCES += [f"{x} has its capital in {y}." for x, y in COUNTRIES]
SENTENCES += [f"The river of {x} is {RIVERS[i % 4]}." for i, (x, _) in enumerate(COUNTRIES)]
PROMPT = "The capital of Norland is"


@pytest.fixture
def proposer(pair: Pair, tokenizer: Tokenizer) -> Proposer:
    return Proposer(pair, tokenizer, WrittenText(SENTENCES))


def logp_by_hand(pair: Pair, tokenizer: Tokenizer, prompt: str, answer: str) -> float:
    """Token by token, each prefix read anew."""
    row, total = prompt_tokens(tokenizer, prompt), 0.0
    for token in answer_tokens(tokenizer, answer):
        tokens = torch.tensor([row])
        with torch.no_grad():
            logits = pair.memory.predict(pair.memory.read(tokens, torch.zeros_like(tokens)).y)
        total += float(logits[0, -1].log_softmax(-1)[token])
        row = [*row, token]
    return total


@pytest.mark.parametrize("batch_tokens", [16, 4096])
def test_an_answers_probability_is_the_memorys_token_by_token(
    pair: Pair, tokenizer: Tokenizer, batch_tokens: int
) -> None:
    asked = [(PROMPT, "Oda"), ("The river of Avaria is", "Korvik"), (PROMPT, "Fenwick")]
    found = answer_logp(
        pair,
        [prompt_tokens(tokenizer, p) for p, _ in asked],
        [answer_tokens(tokenizer, a) for _, a in asked],
        batch_tokens,
    )
    want = [logp_by_hand(pair, tokenizer, p, a) for p, a in asked]
    assert found.tolist() == pytest.approx(want, rel=1e-4)


def test_what_the_relation_ends_in_is_proposed_and_nothing_of_another(proposer: Proposer) -> None:
    said = proposer.propose(PROMPT, 12)
    assert said.subject == "Norland"
    assert set(said.wordings) == {PROMPT, "Norland has its capital in"}
    capitals = {y for _, y in COUNTRIES}
    assert set(said.answers) == capitals
    assert sorted(said.probabilities, reverse=True) == list(said.probabilities)
    assert 0 < sum(said.probabilities) <= 1 + 1e-6
    assert said.bits == pytest.approx(math.log2(12))


def test_probabilities_are_those_of_all_wordings_times_what_the_relation_likes(
    proposer: Proposer, pair: Pair, tokenizer: Tokenizer
) -> None:
    said = proposer.propose(PROMPT, 12)
    counts = WrittenText(SENTENCES).objects(["The capital of [X] is", "[X] has its capital in"])
    scores = []
    for answer in said.answers:
        ps = [math.exp(logp_by_hand(pair, tokenizer, w, answer)) for w in said.wordings]
        scores.append((sum(ps) / len(ps)) ** CERTAINTY * (counts[answer] + 0.5) ** FREQUENCY)
    want = [score / sum(scores) for score in scores]
    assert list(said.probabilities) == pytest.approx(want, rel=1e-3)
    assert sum(said.probabilities) == pytest.approx(1)


def test_a_given_subject_is_believed(proposer: Proposer) -> None:
    assert proposer.propose(PROMPT, 4, subject="Norland").subject == "Norland"
    said = proposer.propose("The capital of Old Norland is", 4, subject="Norland")
    assert said.wordings == ("The capital of Old Norland is",)


def test_a_prompt_unlike_anything_written_gets_the_memorys_own_answers(
    proposer: Proposer,
) -> None:
    said = proposer.propose("Ships reach Avaria on the", 5)
    assert said.subject is None
    assert said.wordings == ("Ships reach Avaria on the",)
    assert len(said.answers) >= 1
    assert len(set(said.answers)) == len(said.answers)


def test_beams_find_the_likeliest_answers_of_all(pair: Pair, tokenizer: Tokenizer) -> None:
    """Against every answer of up to two tokens."""
    begun, stop = prompt_tokens(tokenizer, PROMPT), tokenizer.encode("x.")[-1]
    found = search_answers(pair.memory, begun, {stop, tokenizer.end}, 16)

    def logp(tokens: list[int]) -> float:
        return float(answer_logp(pair, [begun], [tokens]))

    tokens = torch.tensor([begun])
    with torch.no_grad():
        first = pair.memory.predict(pair.memory.read(tokens, torch.zeros_like(tokens)).y)[0, -1]
    ones = [[t] for t in first.topk(40).indices.tolist() if t not in (stop, tokenizer.end)]
    best = max(ones, key=lambda one: logp([*one, stop]))
    assert logp([*found[0], stop]) >= logp([*best, stop]) - 1e-4
    ranked = [max(logp([*t, stop]), logp([*t, tokenizer.end or 0])) for t in found]
    assert ranked == pytest.approx(sorted(ranked, reverse=True), abs=1e-4)
