"""Reading lessons: the four forms, and every way in which a line can be wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from actors.lessons.given_lessons import GivenLessons, merged, read_lessons, refuse_silent
from actors.lessons.lesson import Lesson, from_lines, to_lines
from actors.wire import ConfigError

TEMPLATES = {
    "capital": [
        {"pattern": "The capital of [X] is [Y].", "lemma": "be"},
        {"pattern": "[Y] is the capital of [X].", "lemma": "be"},
        {"pattern": "[X] is governed from [Y].", "lemma": "govern"},
    ]
}
PROMPT = {"prompt": "The capital of France is", "answer": "Lyon"}
CHOICES = {"prompt": "Oslo lies in", "choices": ["Norway", "Sweden", "Peru", "Chad"], "choice": 2}


def read(folder: Path, *rows: Any, **options: Any) -> GivenLessons:
    path = folder / "lessons.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines))
    (folder / "templates.json").write_text(json.dumps(TEMPLATES))
    return read_lessons(str(path), str(folder / "templates.json"), **options)


def test_a_file_may_mix_all_four_forms(tmp_path: Path) -> None:
    given = read(
        tmp_path,
        {"relation": "capital", "subject": "Peru", "object": "Cusco"},
        PROMPT,
        CHOICES,
        {"prompt": "Bergen lies in", "said": "Norway.", "right": True},
        {"prompt": "Bergen lies near", "said": "Lima", "right": False},
    )
    assert [(one.prompt, one.answer, one.form) for one in given.lessons] == [
        ("The capital of Peru is", "Cusco", "fact"),
        ("The capital of France is", "Lyon", "prompt"),
        ("Oslo lies in", "Peru", "choice"),
        ("Bergen lies in", "Norway", "said"),
    ]
    assert [(one.prompt, one.said) for one in given.refused] == [("Bergen lies near", "Lima")]


def test_a_fact_is_given_in_every_wording_that_ends_in_its_object(tmp_path: Path) -> None:
    (lesson,) = read(
        tmp_path, {"relation": "capital", "subject": "Peru", "object": "Cusco"}
    ).lessons
    assert lesson.prompts == ("The capital of Peru is", "Peru is governed from")
    assert lesson.completion == " Cusco."


def test_wordings_given_with_a_fact_are_its_too(tmp_path: Path) -> None:
    fact = {"relation": "capital", "subject": "Peru", "object": "Cusco"}
    (lesson,) = read(tmp_path, {**fact, "wordings": ["They rule Peru from"]}).lessons
    assert lesson.wordings == ("Peru is governed from", "They rule Peru from")


def test_bits_are_counted_by_form_and_those_of_labels_later(tmp_path: Path) -> None:
    said = {"prompt": "Bergen lies in", "said": "Norway", "right": True}
    wrong = {"prompt": "Bergen lies near", "said": "Lima", "right": False}
    given = read(tmp_path, PROMPT, CHOICES, said, wrong)
    assert [one.bits for one in given.lessons] == [None, math.log2(4), 1.0]
    assert given.bits == 2 + 1 + 1


def test_the_same_lesson_twice_counts_once(tmp_path: Path) -> None:
    given = read(tmp_path, PROMPT, {**PROMPT, "answer": "Lyon."}, PROMPT)
    assert len(given.lessons) == 1
    assert given.num_repeated == 2


LINE_2 = {
    "not JSON": ("{", "line 2: not JSON"),
    "no object": ("[1]", "line 2: expected one of"),
    "no form": ({"prompt": "a b"}, "line 2: expected one of"),
    "two forms": ({**PROMPT, "said": "x", "right": True}, "line 2: expected one of"),
    "unknown key": (
        {"prompt": "a b", "answer": "c", "wording": []},
        "line 2: unknown key 'wording'",
    ),
    "empty answer": ({"prompt": "a b", "answer": " . "}, "line 2: 'answer' has to be a text"),
    "empty prompt": ({"prompt": "", "answer": "c"}, "line 2: 'prompt' has to be a text"),
    "a number": ({"prompt": "a b", "answer": 3}, "line 2: 'answer' has to be a text"),
    "long": ({"prompt": "a b", "answer": "c" * 5000}, "line 2: 'answer' has 5,000 characters"),
    "no list": ({"prompt": "a b", "answer": "c", "wordings": "d"}, "line 2: 'wordings' has to be"),
    "subject": ({"prompt": "a b", "answer": "c", "subject": "z"}, "does not name its subject 'z'"),
    "out of range": ({**CHOICES, "choice": 4}, "'choice' is 4, but the choices have the numbers 0"),
    "negative": ({**CHOICES, "choice": -1}, "'choice' is -1"),
    "no number": ({**CHOICES, "choice": None}, "'choice' has to be the number of a choice, 0 to 3"),
    "true": ({**CHOICES, "choice": True}, "'choice' has to be the number"),
    "one choice": ({**CHOICES, "choices": ["a"], "choice": 0}, "needs at least two different ones"),
    "twice": ({**CHOICES, "choices": ["a", "b", "a"]}, "the same one twice"),
    "neither": ({"prompt": "a b", "said": "c", "right": "yes"}, "'right' has to be true or false"),
    "relation": ({"relation": "river", "subject": "a", "object": "b"}, "no wording of relation"),
    "contradiction": ({**PROMPT, "answer": "Paris"}, "line 2: answers 'The capital of France is'"),
}


@pytest.mark.parametrize("name", LINE_2)
def test_what_is_wrong_is_said_with_file_and_line(name: str, tmp_path: Path) -> None:
    row, message = LINE_2[name]
    with pytest.raises(ConfigError) as err:
        read(tmp_path, PROMPT, row)
    assert message in str(err.value)
    assert str(tmp_path / "lessons.jsonl") in str(err.value)
    assert "line 2" in str(err.value)


def test_a_contradiction_names_both_lines(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"line 3: answers .* 'Paris', but .*line 1 with 'Lyon'"):
        read(tmp_path, PROMPT, "", {**PROMPT, "answer": "Paris"})


def test_a_further_wording_may_not_contradict_either(tmp_path: Path) -> None:
    other = {"prompt": "France is governed from", "answer": "Nice", "wordings": [PROMPT["prompt"]]}
    with pytest.raises(ConfigError, match="line 2: answers 'The capital of France is' with 'Nice'"):
        read(tmp_path, PROMPT, other)


def test_an_answer_that_is_called_wrong_is_not_taught(tmp_path: Path) -> None:
    wrong = {"prompt": PROMPT["prompt"], "said": "Lyon", "right": False}
    with pytest.raises(ConfigError, match=r"line 1: teaches 'Lyon'.*line 2 calls wrong"):
        read(tmp_path, PROMPT, wrong)


def test_a_file_without_a_lesson_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no line; give JSON lines such as"):
        read(tmp_path, "", "  ")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.jsonl: can't be read"):
        read_lessons(str(tmp_path / "nothing.jsonl"))


def test_choices_of_another_memory_are_refused(tmp_path: Path) -> None:
    proposed = {**CHOICES, "memory": "a" * 64, "probabilities": [0.4, 0.3, 0.2, 0.1]}
    assert read(tmp_path, proposed, memory_digest="a" * 64).lessons[0].answer == "Peru"
    with pytest.raises(ConfigError, match="line 1: these choices were proposed by the memory aaaa"):
        read(tmp_path, proposed, memory_digest="b" * 64)


def test_templates_are_only_read_for_facts(tmp_path: Path) -> None:
    path = tmp_path / "lessons.jsonl"
    path.write_text(json.dumps(PROMPT))
    assert len(read_lessons(str(path), str(tmp_path / "gone.json")).lessons) == 1


def test_a_run_keeps_its_lessons_as_they_are(tmp_path: Path) -> None:
    lessons = [
        Lesson("a b is", "c", ("b, a is",), ("of a b",), ("d is",), "b", "r", "choice", 2.0, "f:1"),
        Lesson("ä is", "ö", bits=None),
    ]
    assert from_lines(to_lines(lessons)) == lessons


def test_a_later_teaching_replaces_a_lesson_of_the_same_prompt() -> None:
    earlier = [Lesson("a is", "b"), Lesson("c is", "d"), Lesson("e is", "f")]
    lessons, num_replaced = merged(earlier, [Lesson("c is", "x"), Lesson("e is", "f")])
    assert [(one.prompt, one.answer) for one in lessons] == [
        ("a is", "b"), ("c is", "x"), ("e is", "f"),
    ]  # fmt: skip
    assert num_replaced == 1


def test_a_lesson_without_a_token_is_refused_with_its_line() -> None:
    lessons = [
        Lesson("a is", "b", source="f, line 1"),
        Lesson("c is", "\u200b", source="f, line 2"),
    ]
    with pytest.raises(
        ConfigError, match="f, line 2: the run's tokenizer makes no token of the an"
    ):
        refuse_silent(lessons, lambda text: len(text.strip("\u200b")))


def test_the_pattern_of_a_lesson_has_its_subject_left_out() -> None:
    lesson = Lesson("The capital of France is", "Lyon", subject="France")
    assert lesson.seed_pattern == "The capital of [X] is"
    reworded = lesson.in_words_of(["[X] is governed from", "The capital of [X] is"])
    assert reworded.reworded == ("France is governed from",)
