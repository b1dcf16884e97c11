"""What `tandem teach` refuses before the memory writes anything."""

from __future__ import annotations

import pytest

from actors.lessons.given_lessons import GivenLessons, Refused
from actors.lessons.lesson import Lesson
from actors.tokenizers.tokenizer import Tokenizer
from actors.wire import ConfigError
from jobs.teach.teach import refuse_unteachable

WINDOW = 16


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["the capital of France is Lyon"] * 20, 300)


def test_answers_that_are_called_wrong_alone_teach_nothing(tokenizer: Tokenizer) -> None:
    given = GivenLessons((), (Refused("The capital of France is", "Paris", "l.jsonl, line 1"),))
    with pytest.raises(ConfigError, match="no lesson says what is wanted: all 1 call an answer"):
        refuse_unteachable(given, tokenizer, WINDOW)


def test_a_lesson_that_fits_no_window_is_named_by_file_and_line(tokenizer: Tokenizer) -> None:
    short = Lesson("The capital of France is", "Lyon", source="l.jsonl, line 1")
    long = Lesson("The capital of " + "France " * 40 + "is", "Lyon", source="l.jsonl, line 2")
    refuse_unteachable(GivenLessons((short,)), tokenizer, 64)
    with pytest.raises(ConfigError, match=r"l\.jsonl, line 2: .* a window of the run 16"):
        refuse_unteachable(GivenLessons((long,)), tokenizer, WINDOW)
