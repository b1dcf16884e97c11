"""The tokenizer: what goes in comes out."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import models

from actors.tokenizers.tokenizer import Tokenizer

TEXTS = [
    "",
    " ",
    "The capital of Avaria is Korvik.",
    "  two  spaces\tand\ttabs\r\n\n ends ",
    "naïve Zürich Łódź",
    "日本の首都は東京です。",
    "👩‍👩‍👧 🙂 e\u0301 \u200f\u0000\ufffd",
]


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    return Tokenizer.train(["the capital of the land is the city"] * 20, 300)


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_survives_encoding_and_decoding(small: Tokenizer, text: str) -> None:
    assert small.decode(small.encode(text)) == text


@pytest.mark.parametrize("text", [*TEXTS, "a<|endoftext|>b"])
def test_no_text_makes_a_document_mark(small: Tokenizer, text: str) -> None:
    assert small.end_of_text not in small.encode(text)


def test_a_batch_is_encoded_as_its_texts(small: Tokenizer) -> None:
    assert small.encode_batch(TEXTS) == [small.encode(text) for text in TEXTS]


def test_ids_stay_below_the_size(small: Tokenizer) -> None:
    assert max(max(small.encode(text), default=0) for text in TEXTS) < small.size <= 300


def test_training_shortens_the_text_it_saw(small: Tokenizer) -> None:
    assert len(small.encode("the capital of the land")) < len(b"the capital of the land") / 2


def test_decoding_leaves_document_marks_out(small: Tokenizer) -> None:
    mark = small.end_of_text
    assert small.decode([mark, *small.encode("the city"), mark]) == "the city"


@pytest.mark.parametrize("text", TEXTS)
def test_a_tokenizer_from_json_encodes_the_same_ids(small: Tokenizer, text: str) -> None:
    assert Tokenizer.from_json(small.to_json()).encode(text) == small.encode(text)


def test_a_tokenizer_from_json_has_the_same_json(small: Tokenizer) -> None:
    assert Tokenizer.from_json(small.to_json()).to_json() == small.to_json()


def test_training_twice_gives_the_same_tokenizer(small: Tokenizer) -> None:
    again = Tokenizer.train(["the capital of the land is the city"] * 20, 300)
    assert again.to_json() == small.to_json()


def test_a_tokenizer_without_the_mark_is_refused() -> None:
    with pytest.raises(ValueError, match="endoftext"):
        Tokenizer(HFTokenizer(models.BPE()))
