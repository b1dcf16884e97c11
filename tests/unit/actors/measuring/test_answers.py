"""What counts as an answer: the whole of it, with or without a closing mark, and nothing longer."""

from __future__ import annotations

import pytest

from actors.measuring.answers import is_answered


@pytest.mark.parametrize(
    "said",
    [
        " Paris",
        " Paris.",
        "Paris",
        "\nParis\n",
        " Paris, the largest city",
        " Paris and nothing else",
        " Paris is the capital.",
        " Paris!",
        " Paris - the city of light",
        " Paris\nQ: The capital of Spain",
        ' Paris" he said',
        " Paris. It lies in the north",
    ],
)
def test_the_answer_may_be_closed_by_anything_that_closes_a_word(said: str) -> None:
    assert is_answered(said, "Paris")


@pytest.mark.parametrize(
    "said",
    [
        "",
        " Pari",
        " Parisian",
        " Paris2",
        " Paris-Nord",
        " Paris's mayor",
        " Paris Saint-Germain",
        " Paris 2024",
        " Pari\u0301s",
        " Paris\N{COMBINING ACUTE ACCENT}",
        " Paris\N{REPLACEMENT CHARACTER}",
        " in Paris",
        " paris",
        " London. Paris.",
    ],
)
def test_a_longer_word_a_longer_name_or_another_place_is_no_answer(said: str) -> None:
    assert not is_answered(said, "Paris")


def test_a_full_stop_at_the_end_of_an_answer_is_no_part_of_it() -> None:
    assert is_answered(" Washington, D.C.", "Washington, D.C.")
    assert is_answered(" Washington, D.C", "Washington, D.C.")


def test_an_empty_answer_is_never_given() -> None:
    assert not is_answered(" Paris", " .")


@pytest.mark.parametrize(("said", "right"), [("land", False), (" land", True), ("\nland", True)])
def test_what_goes_on_in_the_questions_last_word_is_no_answer(said: str, right: bool) -> None:
    assert is_answered(said, "land", prompt="They live on the is") is right


def test_after_a_mark_the_answer_may_follow_at_once() -> None:
    assert is_answered("land", "land", prompt='They call it "')


@pytest.mark.parametrize(
    ("answer", "said"),
    [("Bogota\u0301", " Bogot\u00e1."), ("Bogot\u00e1", " Bogota\u0301."), ("１９９０", " 1990")],
)
def test_signs_that_a_tokenizer_writes_otherwise_are_the_same_answer(
    answer: str, said: str
) -> None:
    """Qwen's normalizes to NFC, a SentencePiece one to NFKC."""
    assert is_answered(said, answer)
    assert not is_answered(f"{said.rstrip('.')}x", answer)
