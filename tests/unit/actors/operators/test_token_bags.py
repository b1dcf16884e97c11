"""Bags of the last tokens: cosines as of the tokens themselves, whatever their order or number."""

from __future__ import annotations

import numpy as np
import torch

from actors.operators.token_bags import TOKENS, TokenBags, last_tokens, set_numbers, signs

BITS = (1 << 64) - 1
# Shapes: P positions, C tokens of a context, W width of a bag.


def said(*documents: list[int]) -> torch.Tensor:
    """What is last said at the end of each."""
    rows = [last_tokens(torch.tensor([d]), torch.zeros(1, len(d)).long())[0, -1] for d in documents]
    return torch.stack(rows)


def hashed(x: int) -> int:
    """SplitMix64 as its authors write it."""
    z = (x * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & BITS
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & BITS
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & BITS
    return z ^ (z >> 31)


def test_signs_are_those_of_the_published_hash() -> None:
    expected = [
        2 * ((hashed(2 * token + part) >> bit) & 1) - 1
        for token in (0, 7, 49151)
        for part in range(2)
        for bit in range(64)
    ]
    found = signs(torch.tensor([0, 7, 49151])).sign().flatten()
    assert found.tolist() == expected


def test_a_bag_knows_no_order_and_counts_a_token_once() -> None:
    bags_PW = TokenBags(torch.ones(20))(said([3, 4, 5], [5, 3, 4], [3, 5, 4, 4, 3], [3, 4, 6]))
    torch.testing.assert_close(bags_PW[0], bags_PW[1])
    torch.testing.assert_close(bags_PW[0], bags_PW[2])
    assert bags_PW[0] @ bags_PW[3] < 0.9


def test_a_cosine_is_near_that_of_the_tokens_and_rare_ones_count_more() -> None:
    weights = torch.tensor([0.1, 0.1, 0.1, 3.0, 3.0, 3.0])
    bags_PW = TokenBags(weights)(said([0, 1, 3], [2, 3], [0, 1, 4]))
    assert bags_PW[0] @ bags_PW[1] > 0.95  # the rare one is shared
    assert abs(float(bags_PW[0] @ bags_PW[2])) < 0.3


def test_a_token_of_much_kept_text_weighs_little() -> None:
    ids = np.array([[1, 2] * TOKENS, [1, 3] * TOKENS]).flatten()
    bags_PW = TokenBags.of(ids, 6)(said([1, 4], [1, 5], [2, 4]))
    assert bags_PW[0] @ bags_PW[2] > bags_PW[0] @ bags_PW[1] + 0.3


def test_what_was_said_last_is_of_the_document_alone_and_no_further_back_than_a_context() -> None:
    tokens = torch.arange(1, 41)[None]
    segments = torch.cat([torch.zeros(30), torch.ones(8), -torch.ones(2)]).long()[None]
    found_BTC = last_tokens(tokens, segments)
    assert found_BTC[0, 29].tolist() == [token + 1 for token in range(30, 30 - TOKENS, -1)]
    assert found_BTC[0, 31].tolist() == [33, 32] + [0] * (TOKENS - 2)


def test_contexts_of_the_same_tokens_alone_have_one_number() -> None:
    numbers_P = set_numbers(said([3, 4, 5], [5, 3, 4], [3, 5, 4, 4, 3], [3, 4, 6], [3, 4]))
    assert numbers_P[0] == numbers_P[1] == numbers_P[2]
    assert len(set(numbers_P.tolist())) == 3
