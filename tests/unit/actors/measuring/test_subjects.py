"""What prompts are about, and the contexts that are made of it."""

from __future__ import annotations

import pytest
import torch

from actors.measuring.probing import pad_right
from actors.measuring.subjects import (
    Subject,
    aliases,
    named,
    patterns,
    refuse_unnamed,
    subject_of,
    words,
)
from actors.operators.numerals import NO_NUMERALS
from actors.operators.token_bags import TokenBags, last_tokens
from actors.tokenizers.tokenizer import Tokenizer
from tests.unit.actors.tiny import Exchange

BAGS = TokenBags(torch.ones(100))
SAID = last_tokens(*pad_right([[10, 11, 12, 13]], 0, torch.device("cpu")))[0, 3:]
PROMPT = torch.zeros(1, dtype=torch.int64)


@pytest.mark.parametrize(
    ("prompts", "about", "is_known"),
    [
        (["The line manager of Ada Voss is"], ("ada", "voss"), True),
        (["Ada Voss reports to"], ("ada", "voss"), True),  # a name begins the sentence
        (["What is the capital of Narnia? It is"], ("narnia",), True),
        (["Room 12 is kept by"], ("room", "12"), True),
        (["The author of The Glass Moon is"], ("the", "glass", "moon"), True),
        (["My dog's name is"], ("my", "dog", "s", "name", "is"), False),
        (["Atlantis is old, and", "In Atlantis they"], ("atlantis",), True),  # a name in the second
        (["my dog is called", "the name of my dog is"], ("my", "dog", "is"), False),
        (["Ada Voss reports to", "The boss of Voss is"], ("voss",), True),
        (["法国的首都"], ("法", "国", "的", "首", "都"), False),
        (["???"], (), False),
        (["Mu?", "→"], ("mu",), False),
    ],
)
def test_names_that_all_wordings_share_are_what_prompts_are_about_or_else_each_word(
    prompts: list[str], about: tuple[str, ...], is_known: bool
) -> None:
    assert named(prompts) == (about, is_known)


def test_a_subject_that_is_given_holds_whatever_else_looks_like_a_name() -> None:
    assert named(["My dog in Rome is called"], "dog") == (("dog",), True)
    refuse_unnamed(["My dog's name is"], "my dog")
    with pytest.raises(ValueError, match=r"'cat' is in none of the prompts, e\.g\. \"My dog's"):
        refuse_unnamed(["My dog's name is"], "cat")


def test_words_are_where_they_stand_in_the_text() -> None:
    text = "In Ulm, 'no' 首都 x2"
    assert [text[w.start : w.stop] for w in words(text)] == ["In", "Ulm", "no", "首", "都", "x2"]


def test_the_tokens_of_a_subject_are_those_of_its_words_wherever_it_stands(
    trained: Exchange,
) -> None:
    tokenizer: Tokenizer = trained.data.tokenizer
    found = subject_of(tokenizer, ["The seat of Avaria Nova is"], "", NO_NUMERALS)
    space = set(tokenizer.encode(" "))  # on its own it is of no word
    first, inside = (
        frozenset(tokenizer.encode(text)) - space for text in ("Avaria Nova", " Avaria Nova")
    )
    assert found.left_out[0] >= inside
    assert set(found.forms) == {first, inside}
    assert len(found.left_out) == 3  # both words, and each
    assert frozenset.union(*found.left_out[1:]) == found.left_out[0]
    assert not subject_of(tokenizer, ["the seat is"], "", NO_NUMERALS).forms


def test_a_pattern_lacks_what_the_prompt_is_about() -> None:
    subject = Subject((frozenset([11, 12]), frozenset([12])))
    found = patterns(BAGS, SAID, PROMPT, {0: subject})
    kept = [sorted(row[row > 0].tolist()) for row in found.said_MC]
    assert kept == [[11, 14], [11, 12, 14]]  # ids are one higher
    assert found.of_M.tolist() == [0, 0]


def test_what_is_another_context_alone_is_a_pattern() -> None:
    absent, everything = frozenset([50]), frozenset([10, 11, 12, 13])
    assert not len(patterns(BAGS, SAID, PROMPT, {0: Subject((absent, everything))}))


def test_an_alias_has_the_other_tokens_of_the_same_subject() -> None:
    here, there = frozenset([11, 12]), frozenset([20, 21, 22])
    found = aliases(BAGS, SAID, PROMPT, {0: Subject((here | there,), (here, there))})
    kept = [sorted(row[row > 0].tolist()) for row in found.said_MC]
    assert kept == [[11, 14, 21, 22, 23]]  # as it stands there it is the key itself
    assert not len(aliases(BAGS, SAID, PROMPT, {0: Subject((frozenset([50]),), (there,))}))
