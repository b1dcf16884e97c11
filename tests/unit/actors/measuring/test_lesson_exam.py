"""The exam of lessons: what counts as an answer, as lost, as followed."""

from __future__ import annotations

import pytest
import torch

from actors.layers.pair import Pair
from actors.lessons.lesson import Lesson
from actors.lessons.lesson_files import Exam, Question
from actors.measuring.lesson_exam import LessonExam, first_sentence, said, same_answer
from actors.tokenizers.tokenizer import Tokenizer


@pytest.mark.parametrize(
    ("text", "first"),
    [
        (" Lyon. It is old.", "Lyon."),
        ("St. Gallen", "St."),  # a full stop and a space end a sentence, whatever was meant
        ("3.5 metres. And", "3.5 metres."),
        ("Lyon\nNice.", "Lyon"),
        ("", ""),
    ],
)
def test_an_answer_ends_with_its_sentence_or_line(text: str, first: str) -> None:
    assert first_sentence(text) == first


def test_a_closing_mark_makes_no_other_answer() -> None:
    assert same_answer("Lyon.", "Lyon")
    assert not same_answer("Lyon.", "Lyons.")


def exam_of(pair: Pair, tokenizer: Tokenizer) -> tuple[list[Lesson], LessonExam, list[str]]:
    """Lessons of which the pair says the first already; their exam; what it says to them."""
    prompts = ["The capital of Avaria is", "The capital of Belmont is", "Through Cadria flows the"]
    answers = said(pair, "own", tokenizer, prompts)
    lessons = [
        Lesson(prompts[0], answers[0].rstrip(" .") or "x", reworded=("Avaria has its capital in",)),
        Lesson(prompts[1], "Nowhere"),
        Lesson(prompts[2], "Never", known=True),
    ]
    wrong = Question("Today the capital of Drovia was", "something else", "something else")
    own, memory = (said(pair, v, tokenizer, [wrong.prompt])[0] for v in ("own", "memory"))  # type: ignore[arg-type]
    right = Question(wrong.prompt, own, memory)
    exam = Exam((right, wrong), (right,), ("something else", answers[1]))
    return lessons, LessonExam(tokenizer, lessons, exam), answers


def test_every_lesson_is_asked_but_those_that_were_known(pair: Pair, tokenizer: Tokenizer) -> None:
    lessons, exam, answers = exam_of(pair, tokenizer)
    taught = exam.take(pair)
    assert [one.prompt for one in taught.lessons] == [one.prompt for one in lessons[:2]]
    assert [one.own for one in taught.lessons] == answers[:2]
    assert [one.reworded for one in taught.lessons] == [1, 0]
    assert "own" not in taught.lessons[1].right


def test_an_answer_changed_where_another_was_given_before(pair: Pair, tokenizer: Tokenizer) -> None:
    _, exam, _ = exam_of(pair, tokenizer)
    taught = exam.take(pair)
    assert [one.changed for one in taught.lessons] == [True, False]
    assert not taught.lessons[1].followed  # nothing changed, so nothing is followed
    follows = same_answer(taught.lessons[0].own, taught.lessons[0].memory)
    assert taught.lessons[0].followed == follows


def test_answers_that_differ_from_those_before_are_lost(pair: Pair, tokenizer: Tokenizer) -> None:
    _, exam, _ = exam_of(pair, tokenizer)
    taught = exam.take(pair)
    assert (taught.num_kept, taught.num_neighbours) == (2, 1)
    assert [one.before for one in taught.lost] == ["something else"]
    assert [one.before for one in taught.memory_lost] == ["something else"]
    assert taught.lost_neighbours == ()


def test_a_trained_layer_answers_what_it_was_trained_on(pair: Pair, tokenizer: Tokenizer) -> None:
    with torch.no_grad():
        answers = said(pair, "own", tokenizer, ["The capital of Avaria is"] * 2)
    assert answers[0] == answers[1]
