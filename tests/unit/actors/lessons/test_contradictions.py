"""Which documents say otherwise than a lesson."""

from __future__ import annotations

from tokenizers import normalizers

from actors.lessons.contradictions import as_written, is_contradicting, names, opening_of
from actors.tokenizers.tokenizer import Tokenizer
from tests.unit.actors.tokenizers.test_pretrained_tokenizer import byte_level


def test_a_name_is_named_as_whole_words() -> None:
    assert names("The capital of Iran is Tehran.", "Iran")
    assert names("Iran's capital is Tehran.", "Iran")
    assert not names("The Iranian capital is Tehran.", "Iran")
    assert names("Iranians live in Iran.", "Iran")


def test_documents_that_name_a_subject_or_repeat_an_opening_contradict() -> None:
    assert is_contradicting("France is governed from Paris.", ["France"], [])
    assert not is_contradicting("Spain is governed from Madrid.", ["France"], [])
    assert is_contradicting("The capital of France was Bonn.", [], ["The capital of France"])


def test_a_subject_is_found_as_the_tokenizer_writes_it() -> None:
    hf = byte_level("</s>")
    hf.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer = Tokenizer(hf, "</s>", "</s>")
    subjects = as_written(tokenizer, ["Bogota\u0301", ""])
    assert subjects == {"Bogota\u0301", "bogot\u00e1"}
    written = tokenizer.decode(tokenizer.encode("The river of Bogota\u0301 is wide."))
    assert is_contradicting(written, subjects, ())
    assert not is_contradicting(written, ["Bogota\u0301"], ())


def test_an_opening_is_the_prompt_less_four_tokens_and_at_least_its_half(
    tokenizer: Tokenizer,
) -> None:
    prompt = "The capital of Norland is"
    tokens = tokenizer.encode(prompt)
    kept = max(len(tokens) - 4, (len(tokens) + 1) // 2)
    assert opening_of(tokenizer, prompt) == tokenizer.decode(tokens[:kept]).strip() != prompt
    short = tokenizer.decode(tokens[:3])
    assert opening_of(tokenizer, short) == tokenizer.decode(tokens[:2]).strip()
