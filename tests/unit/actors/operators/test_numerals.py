"""Numbers are told apart by their digits, in order, however they are split into tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from actors.operators.numerals import NO_NUMERALS, NUMBERS, Numerals
from actors.operators.token_bags import TOKENS, TokenBags

ONE, FOUR, ZERO, TEN, TEN_AFTER_A_SPACE, FORTY_ONE, WORD = 1, 4, 0, 10, 11, 41, 20
DIGITS = {ONE: "1", FOUR: "4", ZERO: "0", TEN: "10", TEN_AFTER_A_SPACE: " 10", FORTY_ONE: "41"}
NUMERALS = Numerals.of(DIGITS)
BAGS = TokenBags(torch.ones(50))


def context(*tokens: int) -> Tensor:
    """(1, C), newest first, of tokens in the order in which they are written."""
    said_1C = torch.zeros(1, TOKENS, dtype=torch.int32)
    said_1C[0, : len(tokens)] = torch.tensor(tokens[::-1]) + 1
    return said_1C


def number(*tokens: int) -> int:
    """What is in the place of the first token."""
    return int(NUMERALS.joined(context(*tokens))[0, len(tokens) - 1])


def test_a_number_is_one_thing_whatever_its_tokens() -> None:
    joined_1C = NUMERALS.joined(context(WORD, ONE, ZERO, FOUR, ONE, WORD))
    assert joined_1C[0, 0] == joined_1C[0, 5] == WORD + 1
    assert len(set(joined_1C[0, 1:5].tolist())) == 1
    assert number(ONE, ZERO, FOUR, ONE) >= NUMBERS
    assert number(ONE, ZERO, FOUR, ONE) == number(TEN, FORTY_ONE) == number(TEN, FOUR, ONE)
    assert number(TEN_AFTER_A_SPACE, FORTY_ONE) == number(TEN, FORTY_ONE)


def test_other_numbers_of_the_same_digits_are_others() -> None:
    numbers = [(1, 0, 4), (1, 4, 0), (4, 1, 0), (0, 1, 4), (1, 0, 0, 4), (1, 4), (0, 1, 4, 0)]
    assert len({number(*digits) for digits in numbers}) == len(numbers)


def test_a_space_begins_another_number() -> None:
    joined_1C = NUMERALS.joined(context(TEN, TEN_AFTER_A_SPACE, FORTY_ONE))
    assert joined_1C[0, 2] == number(TEN)
    assert joined_1C[0, 0] == joined_1C[0, 1] == number(TEN, FORTY_ONE)


def test_contexts_without_a_number_and_such_that_are_joined_stay_as_they_are() -> None:
    words = context(WORD, 2, 3)
    assert torch.equal(NUMERALS.joined(words), words)
    once = NUMERALS.joined(torch.cat([words, context(WORD, TEN, FORTY_ONE)]))
    assert torch.equal(NUMERALS.joined(once), once)
    assert once.dtype == words.dtype
    assert torch.equal(once[:1], words)
    assert torch.equal(NO_NUMERALS.joined(context(TEN, FOUR)), context(TEN, FOUR))
    assert NUMERALS.are_in(context(WORD, TEN))
    assert not NUMERALS.are_in(words)
    assert not NO_NUMERALS.are_in(context(WORD, TEN))


def test_ids_of_a_word_hold_its_number_once() -> None:
    assert NUMERALS.joined_ids([WORD, ONE, ZERO]) == {WORD, number(ONE, ZERO) - 1}
    assert NUMERALS.joined_ids([]) == frozenset()


def test_bags_of_other_numbers_share_the_words_alone() -> None:
    def cosine(one: Tensor, other: Tensor) -> float:
        bags = BAGS(NUMERALS.joined(torch.cat([one, other])))
        return float(bags[0] @ bags[1])

    same, permuted = context(WORD, ONE, FOUR, ZERO), context(WORD, FOUR, ONE, ZERO)
    assert cosine(same, context(ONE, FOUR, ZERO, WORD)) > 1 - 1e-6
    assert cosine(same, permuted) < 0.4
    assert float(BAGS(same)[0] @ BAGS(permuted)[0]) > 1 - 1e-6  # which digits alone can't tell
    heavy = TokenBags(torch.ones(50), rare=10.0)
    some = heavy(NUMERALS.joined(torch.cat([same, context(2, ONE, FOUR, ZERO)])))
    assert float(some[0] @ some[1]) > 0.98


def test_numbers_weigh_twice_as_much_as_what_is_in_no_text() -> None:
    texts = TokenBags.of(np.zeros(TOKENS * 100, np.int64), 50)  # a hundred texts of token 0
    one, other = texts(NUMERALS.joined(torch.cat([context(30, TEN), context(30, FORTY_ONE)])))
    rare, number = math.log1p(100), 2 * math.log1p(100)
    assert float(one @ other) == pytest.approx(rare**2 / (rare**2 + number**2), abs=0.15)
