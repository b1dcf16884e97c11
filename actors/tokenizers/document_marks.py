"""Which tokens of a pretrained tokenizer mark documents: never those of a chat role.

The files of a chat model name the marks of its turns as begin and end. Text that opens with one is
read as somebody's turn, which is not what a document is. Reads what `pretrained_tokenizer` finds.
"""

from __future__ import annotations

from actors.settings.corpus import NO_MARK, TokenizerSpec
from actors.tokenizers.pretrained_tokenizer import (
    USUAL_BEGINS,
    USUAL_ENDS,
    read_pretrained,
)
from actors.tokenizers.tokenizer import Tokenizer

CHAT = (
    *("<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|start_header_id|>"),
    *("<|end_header_id|>", "<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>"),
    *("<|system|>", "<|end|>", "<|turn|>", "<|message|>", "<|start|>", "<|return|>"),
)
PLAIN_BEGINS = (*USUAL_BEGINS, "<|endoftext|>")
PLAIN_ENDS = tuple(mark for mark in USUAL_ENDS if mark not in CHAT)


def document_marks(name: str) -> dict[str, str]:
    """`begin` and `end` of `TokenizerSpec` for a tokenizer whose own marks are those of a chat;
    empty where its own are right.

    Args:
        name: as `tokenizer.pretrained`.

    Raises:
        ConfigError: as `Tokenizer.from_pretrained`.
    """
    wrong = chat_marks(TokenizerSpec(pretrained=name))
    if not wrong:
        return {}
    tokens = Tokenizer.from_pretrained(name).vocabulary()
    end = next((mark for mark in PLAIN_ENDS if mark in tokens), NO_MARK)
    begin = next((mark for mark in PLAIN_BEGINS if mark in tokens), NO_MARK)
    return {"begin": begin if "begin" in wrong else _own(name)[0] or NO_MARK,
            "end": end if "end" in wrong else _own(name)[1] or NO_MARK}  # fmt: skip


def chat_marks(spec: TokenizerSpec) -> dict[str, str]:
    """The marks of documents that are those of a chat role, by `begin` and `end`.

    Raises:
        ConfigError: as `Tokenizer.from_pretrained`.
    """
    assert spec.pretrained is not None
    marks = _own(spec.pretrained, spec.begin, spec.end)
    found = zip(("begin", "end"), marks, strict=True)
    return {field: mark for field, mark in found if mark is not None and mark in CHAT}


def _own(
    name: str, begin: str | None = None, end: str | None = None
) -> tuple[str | None, str | None]:
    return read_pretrained(name, lambda text, first, last, files: (first, last), begin, end)
