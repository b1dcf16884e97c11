"""Marks of documents beside a chat model's tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.settings.corpus import TokenizerSpec
from actors.tokenizers.document_marks import chat_marks, document_marks
from tests.unit.actors.tokenizers.test_pretrained_tokenizer import byte_level, saved

IM = ("<|im_start|>", "<|im_end|>")


@pytest.mark.parametrize(
    ("special", "own", "want"),
    [
        (("<|endoftext|>", *IM), IM, {"begin": "<|endoftext|>", "end": "<|endoftext|>"}),
        (IM, IM, {"begin": "none", "end": "none"}),
        (
            ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"),
            ("<|begin_of_text|>", "<|eot_id|>"),
            {"begin": "<|begin_of_text|>", "end": "<|end_of_text|>"},
        ),
        (("<s>", "</s>"), ("<s>", "</s>"), {}),
        (("<|endoftext|>",), ("<|endoftext|>", "<|endoftext|>"), {}),
    ],
)
def test_documents_get_marks_that_are_of_no_chat_role(
    tmp_path: Path, special: tuple[str, ...], own: tuple[str, str], want: dict[str, str]
) -> None:
    settings = {"bos_token": own[0], "eos_token": own[1]}
    name = saved(tmp_path, byte_level(*special), **settings)
    assert document_marks(name) == want
    assert chat_marks(TokenizerSpec(pretrained=name, **want)) == {}
    if want:
        assert "end" in chat_marks(TokenizerSpec(pretrained=name))
