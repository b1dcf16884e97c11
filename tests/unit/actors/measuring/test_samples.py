from __future__ import annotations

from actors.measuring.samples import given_and_learned

# Two documents: a prompt 1 2 3 with its completion 4 5, and the turns 6 7, [8], 9, [10].
TOKENS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
SEGMENTS = [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
LEARNED = {4, 5, 8, 10}
VALID = [after in LEARNED for after in TOKENS[1:]] + [False]


def test_a_prompt_is_asked_for_its_completion() -> None:
    assert given_and_learned(TOKENS, SEGMENTS, VALID) == ([1, 2, 3], [4, 5])


def test_a_chat_is_asked_for_the_first_turn_that_is_learned() -> None:
    assert given_and_learned(TOKENS[5:], SEGMENTS[5:], VALID[5:]) == ([6, 7], [8])
    # a window that begins within a turn that is learned: the one after it, with all before it
    assert given_and_learned(TOKENS[7:], SEGMENTS[7:], VALID[7:]) == ([8, 9], [10])


def test_of_text_that_is_learned_whole_nothing_is_given() -> None:
    valid = [True, True, False, True, False]  # two documents, each after its mark
    assert given_and_learned([1, 2, 3, 4, 5], [0, 0, 0, 1, 1], valid) is None
