"""Wordings found in written text: which are found, and which must not be."""

from __future__ import annotations

from actors.pair.wordings import (
    MIN_SUBJECTS,
    WrittenText,
    readings,
    template_with,
    wordings_of,
)

CAPITALS = {"France": "Paris", "Spain": "Madrid", "Peru": "Lima", "New Zealand": "Wellington"}
BORN = {
    "Ann Lee": "Rome", "Bo Day": "Oslo", "Cy Fox": "Rome", "Di Orr": "Bonn", "Ed Poe": "Lima",
    "Flo Ray": "Oslo", "Gus Kay": "Bonn",
}  # fmt: skip
DIED = {**BORN, "Ann Lee": "Bonn", "Bo Day": "Lima", "Ed Poe": "Oslo", "Flo Ray": "Rome"}
CAPITAL = "The capital of [X] is"


def written(*more: str) -> WrittenText:
    sentences = [f"The capital of {x} is {y}." for x, y in CAPITALS.items()]
    sentences += [f"{x} is governed from {y}." for x, y in CAPITALS.items()]
    sentences += [f"{x} was born in {y}." for x, y in BORN.items()]
    sentences += [f"{x} died in {y}." for x, y in DIED.items()]
    return WrittenText([*sentences, *more])


def test_two_sentences_with_one_subject_and_one_object_are_two_wordings() -> None:
    (found,) = written().mine(CAPITAL)
    assert (found.template, found.support, found.agreed_frac) == ("[X] is governed from", 4, 1.0)
    assert wordings_of(written(), [CAPITAL])[CAPITAL] == [found]


def test_a_subject_of_several_words_and_one_at_the_sentence_start_are_found_both_ways() -> None:
    (found,) = written().mine("[X] is governed from")
    assert found.template == CAPITAL
    assert ("New Zealand", "Wellington") in written().said(CAPITAL)


def test_two_relations_that_often_have_one_answer_are_no_wordings_of_each_other() -> None:
    """Three of seven people died where they were born: enough to meet, too few to agree."""
    assert len({x for x in BORN if BORN[x] == DIED[x]}) == 3 == MIN_SUBJECTS
    text = written(*(f"{x} passed away in {y}." for x, y in DIED.items()))
    assert text.mine("[X] was born in") == []
    assert {w.template for w in text.mine("[X] died in")} == {"[X] passed away in"}


def test_what_was_written_of_too_few_subjects_is_no_wording() -> None:
    text = WrittenText(
        [f"The capital of {x} is {y}." for x, y in CAPITALS.items()]
        + [f"{x} looks to {CAPITALS[x]}." for x in ("France", "Spain")]
    )
    assert text.mine(CAPITAL) == []


def test_text_that_is_no_single_sentence_says_nothing() -> None:
    assert written("The capital of Chile is Santiago").said(CAPITAL) == written().said(CAPITAL)
    assert (
        WrittenText(["", ".", "ala.", "The capital of " + "very " * 30 + "is Paris."]).sentences
        == []
    )


def test_readings_are_every_way_to_cut_subject_and_object() -> None:
    assert list(readings("Norma is who is late", "[X] is")) == [
        ("Norma", "who is late"),
        ("Norma is who", "late"),
    ]
    assert list(readings("Ann was born in Rome", "[X] died in")) == []
    assert list(readings("The seat of Peru Lima", "The seat of [X]")) == [("Peru", "Lima")]


def test_the_objects_of_a_relation_are_counted_over_its_wordings() -> None:
    counted = written("The capital of Chile is Lima.").objects([CAPITAL, "[X] is governed from"])
    assert counted["Lima"] == 2
    assert counted["Paris"] == 1


def test_the_subject_of_a_prompt_is_what_others_stand_in_the_place_of() -> None:
    text = written()
    assert text.template_of("The capital of Chile is") == (CAPITAL, "Chile")
    assert text.template_of("The capital of South Korea is") == (CAPITAL, "South Korea")
    assert text.template_of("Old Mr Smith was born in") == ("[X] was born in", "Old Mr Smith")
    assert text.template_of("Nobody ever wrote such") is None


def test_the_template_of_a_prompt_with_a_known_subject() -> None:
    assert template_with("The capital of Iran is ", "Iran") == "The capital of [X] is"
    assert template_with("The Iranian capital is", "Iran") is None
    assert template_with("Iran", "Iran") is None
