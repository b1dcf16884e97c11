"""Documents about subjects: whom they are about, and how they begin."""

from __future__ import annotations

from actors.layers.pair import Pair
from actors.pair.wordings import WrittenText
from actors.teaching.written_about import (
    EACH,
    SUBJECTS,
    chosen_subjects,
    written_about,
)
from actors.tokenizers.tokenizer import Tokenizer
from tests.unit.actors.tiny import COUNTRIES, WINDOW

BE = "The capital of [X] is"


def test_subjects_of_two_sentences_come_first_by_turns_of_their_objects_then_the_lessons() -> None:
    said = [("Avaria", "Lyon"), ("Belmont", "Lyon"), ("Cadria", "Elbor"), ("Estrel", "Elbor")]
    also = ("Belmont is old.", "Estrel was rich.", "Avaria was not.")
    written = WrittenText([*(f"The capital of {a} is {b}." for a, b in said), *also])
    assert chosen_subjects(BE, ["Drovia", "Avaria"], written) == [
        "Avaria", "Estrel", "Belmont", "Drovia", "Cadria",
    ]  # fmt: skip
    many = [f"Land{i}" for i in range(3 * SUBJECTS)]
    assert len(chosen_subjects(BE, many, written)) == SUBJECTS


def test_documents_begin_with_the_subject_and_with_what_is_before_it(
    pair: Pair, tokenizer: Tokenizer
) -> None:
    name = COUNTRIES[0][0]
    found = written_about(pair.memory, tokenizer, {BE: [name]}, WrittenText([]), WINDOW, 0)
    heads = (name, f"The capital of {name}")
    assert [sum(text.startswith(head) for text in found) for head in heads] == [EACH, EACH]
    assert len(found) == 2 * EACH
    again = written_about(pair.memory, tokenizer, {BE: [name]}, WrittenText([]), WINDOW, 0)
    assert again == found
    other = written_about(pair.memory, tokenizer, {BE: [name]}, WrittenText([]), WINDOW, 1)
    assert other != found


def test_a_subject_that_leaves_no_room_in_a_window_is_left_out(
    pair: Pair, tokenizer: Tokenizer
) -> None:
    long = {BE: ["very " * WINDOW + "Avaria"]}
    assert written_about(pair.memory, tokenizer, long, WrittenText([]), WINDOW, 0) == []
