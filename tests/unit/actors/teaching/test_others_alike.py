"""Openings about others of the lessons' kind, named by the data layer."""

from __future__ import annotations

from actors.layers.pair import Pair
from actors.lessons.lesson import Lesson
from actors.pair.wordings import SUBJECT_WORDS
from actors.teaching.others_alike import names_alike, openings_alike
from actors.tokenizers.tokenizer import Tokenizer
from tests.unit.actors.tiny import COUNTRIES

SUBJECTS = [name for name, _ in COUNTRIES[:4]]
LESSONS = [
    Lesson(f"The capital of {name} is", "Lyon", reworded=(f"{name} is ruled from",), subject=name)
    for name in SUBJECTS
]


def test_names_are_lines_that_the_layer_wrote_and_follow_from_the_seed(
    pair: Pair, tokenizer: Tokenizer
) -> None:
    found = names_alike(pair.data, tokenizer, SUBJECTS, 3)
    assert found == names_alike(pair.data, tokenizer, SUBJECTS, 3)
    assert found == sorted(set(found) - {*SUBJECTS})
    assert all(name == name.strip() != "" and name.count(" ") < SUBJECT_WORDS for name in found)


def test_every_opening_is_a_lesson_about_somebody_else(pair: Pair, tokenizer: Tokenizer) -> None:
    found = openings_alike(pair.data, tokenizer, LESSONS, 0)
    assert found
    assert len(found) == len(set(found))
    for opening in found:
        assert opening.startswith("The capital of ") or opening.endswith(" is ruled from")
        assert not any(name in opening for name in SUBJECTS)


def test_a_lesson_without_a_subject_has_no_others(pair: Pair, tokenizer: Tokenizer) -> None:
    assert openings_alike(pair.data, tokenizer, [Lesson("Why", "So")], 0) == []
