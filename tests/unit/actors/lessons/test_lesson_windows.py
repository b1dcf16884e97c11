"""Windows of lessons: what is learned of them, and that they follow from the step alone."""

from __future__ import annotations

import numpy as np

from actors.lessons.lesson import Lesson
from actors.lessons.lesson_windows import LessonWindows, documents_of
from actors.tokenizers.tokenizer import Tokenizer

LESSONS = [
    Lesson(f"The capital of number {i} is", f"city {i}", (f"Number {i} has",), (f"In {i} lies",))
    for i in range(9)
]
TOKENIZER = Tokenizer.train([lesson.prompt + lesson.completion for lesson in LESSONS] * 3, 300)


def windows(seed: int = 0, given: bool = True, reworded: bool = False) -> LessonWindows:
    return LessonWindows(documents_of(LESSONS, given, reworded), TOKENIZER, 64, seed, "test")


def shown(made: LessonWindows, steps: range, num: int) -> list[str]:
    """The learned text of every document of some steps."""
    found = []
    for step in steps:
        batch = made.batch(step, num)
        for tokens, segments, learn in zip(
            batch.tokens_NT, batch.segments_NT, batch.learn_NT, strict=True
        ):
            for segment in range(segments.max() + 1):
                here = (segments == segment) & learn
                found.append(TOKENIZER.decode(tokens[here].tolist()).strip())
    return found


def test_only_answers_are_learned_and_each_once_an_epoch() -> None:
    made = windows()
    texts = shown(made, range(1), len(made))
    assert sorted(texts) == sorted([f"city {i}." for i in range(9)] * 2)


def test_given_and_the_memorys_wordings_are_kept_apart() -> None:
    texts = [d.given for d in documents_of(LESSONS[:1], False, True)]
    assert texts == ["In 0 lies"]
    both = [d.given for d in documents_of(LESSONS[:1], True, True)]
    assert both == ["The capital of number 0 is", "Number 0 has", "In 0 lies"]


def test_a_batch_is_a_function_of_the_step() -> None:
    first, second = windows(), windows()
    for step in (5, 0, 3):  # in any order, as after a resume
        a, b = first.batch(step, 3), second.batch(step, 3)
        assert np.array_equal(a.tokens_NT, b.tokens_NT)
    second.batch(7, 3)
    assert np.array_equal(first.batch(2, 3).tokens_NT, second.batch(2, 3).tokens_NT)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    made = windows()
    num = len(made)
    assert not np.array_equal(made.batch(0, num).tokens_NT, made.batch(1, num).tokens_NT)
    other = windows(seed=1)
    assert not np.array_equal(made.batch(0, num).tokens_NT, other.batch(0, num).tokens_NT)


def test_two_prompts_of_one_subject_never_share_a_window() -> None:
    twice = [Lesson("a b c is", "d", ("of a b c",), subject="a")]
    made = LessonWindows(documents_of(twice, True, False), TOKENIZER, 64, 0, "test")
    assert len(made) == 2


def test_without_lessons_there_are_no_windows() -> None:
    made = LessonWindows([], TOKENIZER, 64, 0, "test")
    assert len(made) == 0
    assert len(made.batch(3, 4)) == 0
