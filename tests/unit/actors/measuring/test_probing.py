"""Questions: answers judged in one pass equal answers really decoded, token by token."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from actors.layers.pair import Pair
from actors.measuring.answers import is_answered
from actors.measuring.heldout import Reflection
from actors.measuring.probing import (
    answer_reflection,
    answer_tokens,
    answers_right,
    decode_greedily,
    decodes_to,
    pad_right,
    prompt_tokens,
)
from actors.measuring.voices import VOICES, Voice, predict_everywhere
from actors.sources.facts import Probe
from actors.tokenizers.tokenizer import Tokenizer
from tests.unit.actors.tiny import Exchange, bigram_pair, followed_by

EACH_VOICE = pytest.mark.parametrize("voice", VOICES)
MARK = 7


@pytest.fixture
def prompts(trained: Exchange) -> list[list[int]]:
    """Prompts of different lengths."""
    facts = trained.data.corpus.facts
    assert facts is not None
    tokenizer = trained.data.tokenizer
    asked = [prompt_tokens(tokenizer, p.prompt) for p in facts.probes(False, 6, 0)]
    return [*asked, asked[0][:2], [*asked[1], *asked[2]]]


def probe(*answers: str, prompt: str = "The capital of Avaria is") -> Probe:
    return Probe("capital", "Avaria", prompt, answers, False)


def chain(tokenizer: Tokenizer, *texts: str) -> Tensor:
    """A table in which the tokens of each text follow each other."""
    table = torch.zeros(tokenizer.size, tokenizer.size)
    for text in texts:
        ids = tokenizer.encode(text)
        for token, after in pairwise(ids):
            table[token] = 0
            table[token, after] = 8
    return table


@torch.no_grad()
def greedy(pair: Pair, voice: Voice, prompt: list[int], stop: int, num: int) -> tuple[int, ...]:
    """One prompt, one token at a time, nothing padded."""
    said: list[int] = []
    while len(said) < num:
        ids = torch.tensor([[*prompt, *said]])
        token = int(
            predict_everywhere(pair, voice, ids, torch.zeros_like(ids)).logp[0, -1].argmax()
        )
        if token == stop:
            break
        said.append(token)
    return tuple(said)


@EACH_VOICE
def test_every_voice_speaks_in_distributions(
    pair: Pair, prompts: list[list[int]], voice: Voice
) -> None:
    ids, segments = pad_right(prompts, 0, torch.device("cpu"))
    total = predict_everywhere(pair, voice, ids, segments).logp.logsumexp(-1)
    torch.testing.assert_close(total, torch.zeros_like(total), atol=1e-5, rtol=0)


def test_help_mixes_both_layers(pair: Pair, prompts: list[list[int]]) -> None:
    ids, segments = pad_right(prompts[:1], 0, torch.device("cpu"))
    with torch.no_grad():
        y = pair.memory.read(ids, segments).y
        p = pair.data(ids, segments, y).logits_BTV.softmax(-1)
        q = pair.memory.predict(y).softmax(-1)
    spoken = predict_everywhere(pair, "help", ids, segments)
    assert spoken.mixing is not None
    lam = spoken.mixing.unsqueeze(-1)
    torch.testing.assert_close(spoken.logp.exp(), (1 - lam) * p + lam * q, atol=1e-5, rtol=1e-4)


@EACH_VOICE
def test_telling_decodes_greedily_as_one_prompt_at_a_time(
    pair: Pair, prompts: list[list[int]], voice: Voice
) -> None:
    told = decode_greedily(pair, voice, prompts, stop=0, max_tokens=5)
    assert [t.tokens for t in told] == [greedy(pair, voice, p, 0, 5) for p in prompts]


@EACH_VOICE
def test_telling_does_not_depend_on_how_many_are_asked_at_once(
    pair: Pair, prompts: list[list[int]], voice: Voice
) -> None:
    together = decode_greedily(pair, voice, prompts, stop=0, max_tokens=5)
    apart = decode_greedily(pair, voice, prompts, stop=0, max_tokens=5, batch_tokens=3 * 15)
    assert [t.tokens for t in apart] == [t.tokens for t in together]


def test_telling_stops_before_the_mark() -> None:
    pair = bigram_pair(followed_by(8, (0, 1), (1, 2), (2, MARK)), torch.zeros(8, 8))
    assert decode_greedily(pair, "own", [[0]], MARK)[0].tokens == (1, 2)


def test_telling_ends_at_its_limit() -> None:
    pair = bigram_pair(followed_by(8, (0, 1), (1, 0)), torch.zeros(8, 8))
    assert decode_greedily(pair, "own", [[0]], MARK, max_tokens=3)[0].tokens == (1, 0, 1)


def test_one_prompt_may_end_before_the_others() -> None:
    pair = bigram_pair(followed_by(8, (0, 1), (1, 2), (2, MARK), (5, MARK)), torch.zeros(8, 8))
    told = decode_greedily(pair, "own", [[5], [0], [3, 1]], MARK)
    assert [t.tokens for t in told] == [(), (1, 2), (2,)]


def test_any_of_several_marks_ends_a_continuation() -> None:
    pair = bigram_pair(followed_by(8, (0, 1), (1, 2), (2, MARK), (5, 6), (6, 7)), torch.zeros(8, 8))
    told = decode_greedily(pair, "own", [[5], [0]], {MARK, 7})
    assert [t.tokens for t in told] == [(6,), (1, 2)]


def test_told_tokens_come_with_their_probability_and_lambda() -> None:
    data, memory = followed_by(4, (0, 1), (1, 3)), torch.zeros(4, 4)
    told = decode_greedily(bigram_pair(data, memory, mixing_logit=0.0), "help", [[0]], stop=3)[0]
    p = float(data[0].softmax(-1)[1])
    assert told.tokens == (1,)
    assert told.probabilities == pytest.approx([(p + 0.25) / 2])
    assert told.mixing == pytest.approx([0.5])


def test_a_voice_that_does_not_mix_has_no_lambda() -> None:
    told = decode_greedily(
        bigram_pair(followed_by(8, (0, 1)), torch.zeros(8, 8)), "own", [[0]], MARK
    )[0]
    assert told.mixing == ()


@EACH_VOICE
def test_a_voice_says_what_it_tells(pair: Pair, prompts: list[list[int]], voice: Voice) -> None:
    told = [greedy(pair, voice, p, -1, 3) for p in prompts]
    assert decodes_to(pair, voice, prompts, told) == [True] * len(prompts)


@EACH_VOICE
@pytest.mark.parametrize("at", [0, 2])
def test_a_voice_does_not_say_what_differs_in_one_token(
    pair: Pair, prompts: list[list[int]], voice: Voice, at: int
) -> None:
    told = [list(greedy(pair, voice, p, -1, 3)) for p in prompts]
    for tokens in told:
        tokens[at] = (tokens[at] + 1) % pair.data.num_tokens
    assert decodes_to(pair, voice, prompts, told) == [False] * len(prompts)


@pytest.mark.parametrize(
    ("voice", "right"), [("own", [True, False]), ("memory", [False, True]), ("help", [False, True])]
)
def test_each_voice_gives_its_own_answer(
    tokenizer: Tokenizer, voice: Voice, right: list[bool]
) -> None:
    data, memory = chain(tokenizer, " is Korvik."), chain(tokenizer, " is Dastan.")
    pair = bigram_pair(data, memory, mixing_logit=6.0)  # together they follow the memory
    assert answers_right(pair, voice, tokenizer, [probe("Korvik"), probe("Dastan")]) == right


@pytest.mark.parametrize(
    ("answers", "right"),
    [
        (("Korvik",), True),
        (("Dastan",), False),
        (("Dastan", "Korvik"), True),
        (("Korvik", "Dastan"), True),
        (("Kor",), False),
        (("Korvik City",), False),
    ],
)
def test_a_probe_is_right_where_one_of_its_whole_answers_is_decoded(
    tokenizer: Tokenizer, answers: tuple[str, ...], right: bool
) -> None:
    pair = bigram_pair(chain(tokenizer, " is Korvik."), torch.zeros(tokenizer.size, tokenizer.size))
    told = decode_greedily(
        pair, "own", [prompt_tokens(tokenizer, probe().prompt)], tokenizer.end_of_text
    )
    decoded = tokenizer.decode(told[0].tokens)
    assert any(decoded.startswith(f" {answer}.") for answer in answers) == right
    assert answers_right(pair, "own", tokenizer, [probe(*answers)]) == [right]


@EACH_VOICE
def test_answers_of_a_trained_pair_are_right_where_they_are_decoded(
    pair: Pair, trained: Exchange, voice: Voice
) -> None:
    tokenizer, facts = trained.data.tokenizer, trained.data.corpus.facts
    assert facts is not None
    probes = facts.probes(True, 20, 0)
    want = []
    for each in probes:
        prompt = prompt_tokens(tokenizer, each.prompt)
        said = tokenizer.decode(greedy(pair, voice, prompt, tokenizer.end_of_text, 12))
        want.append(any(is_answered(said, answer, each.prompt) for answer in each.answers))
    assert not all(want)
    assert any(want) or voice == "memory"  # which learned none yet
    assert answers_right(pair, voice, tokenizer, probes) == want


def test_an_answer_is_the_end_of_a_training_sentence(trained: Exchange) -> None:
    tokenizer, facts = trained.data.tokenizer, trained.data.corpus.facts
    assert facts is not None
    for fact in facts.facts:
        for wording in facts.train_wordings[fact.relation]:
            if wording.askable:
                prompt = prompt_tokens(tokenizer, wording.prompt(fact))
                answer = answer_tokens(tokenizer, fact.object)
                sentence = tokenizer.encode(wording.sentence(fact))
                assert [*prompt, *answer] == [tokenizer.end_of_text, *sentence]


def reflected(
    new: Tensor, memory: Tensor, old_answer: tuple[int, ...], prompt: int = 0
) -> Reflection:
    pair = bigram_pair(new, memory)
    return answer_reflection(pair, [old_answer], _Marked(), [[prompt]])[0]  # type: ignore[arg-type]


class _Marked:
    """All that reflection asks of a tokenizer."""

    end = MARK


def test_a_changed_answer_that_the_memory_gives_is_followed() -> None:
    new = followed_by(8, (0, 4), (4, MARK))
    assert reflected(new, memory=new, old_answer=(5,)) == Reflection(1, 1)


def test_a_changed_answer_that_the_memory_does_not_give_is_not_followed() -> None:
    new, memory = followed_by(8, (0, 4), (4, MARK)), followed_by(8, (0, 5))
    assert reflected(new, memory, old_answer=(5,)) == Reflection(1, 0)


def test_an_answer_that_the_memory_gives_in_part_is_not_followed() -> None:
    new, memory = followed_by(8, (0, 4), (4, 6), (6, MARK)), followed_by(8, (0, 4), (4, 5))
    assert reflected(new, memory, old_answer=(5,)) == Reflection(1, 0)


def test_an_answer_that_stayed_is_not_counted() -> None:
    new = followed_by(8, (0, 4), (4, MARK))
    assert reflected(new, memory=new, old_answer=(4,)) == Reflection(0, 0)


def test_an_answer_that_changed_by_less_than_the_margin_is_not_counted() -> None:
    new = followed_by(8, (0, 4), (4, MARK), (5, MARK))
    new[0, 5] = new[0, 4] - 0.1
    assert reflected(new, memory=new, old_answer=(5,)) == Reflection(0, 0)


def test_an_answer_that_grew_is_compared_where_the_old_one_ended() -> None:
    new = followed_by(8, (0, 4), (4, 6), (6, MARK))
    assert reflected(new, memory=new, old_answer=(4,)) == Reflection(1, 1)


def test_the_first_time_nothing_has_changed() -> None:
    pair = bigram_pair(followed_by(8, (0, 4), (4, MARK)), torch.zeros(8, 8))
    got = answer_reflection(pair, [], _Marked(), [[0]])  # type: ignore[arg-type]
    assert got == (Reflection(0, 0), [(4,)])


@pytest.mark.parametrize(
    ("said", "right"),
    [
        (" is Korvik.", True),
        (" is Korvik", True),  # then the mark that closes the document
        (" is Korvik, a", True),
        (" is Korvik\n", True),
        (" is Korvikson", False),
    ],
)
def test_an_answer_needs_no_full_stop(tokenizer: Tokenizer, said: str, right: bool) -> None:
    table = chain(tokenizer, said)
    table[tokenizer.encode(said)[-1], tokenizer.end_of_text] = 8
    pair = bigram_pair(table, table)
    assert answers_right(pair, "own", tokenizer, [probe("Korvik")]) == [right]
