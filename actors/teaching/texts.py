"""What a layer wrote, as texts, and texts as windows. Called by the modules of this room."""

from __future__ import annotations

from collections.abc import Iterable

from actors.corpus.block_reader import encode
from actors.corpus.windows import Piece, Windows, pack
from actors.sources.documents import Document
from actors.tokenizers.tokenizer import Tokenizer


def text_of(tokenizer: Tokenizer, piece: Piece) -> str:
    """A document without its marks."""
    return tokenizer.decode([int(t) for t in piece.tokens if int(t) not in tokenizer.marks])


def texts_of(tokenizer: Tokenizer, pieces: Iterable[Piece]) -> list[str]:
    """Documents without their marks; those that are left empty are left out."""
    texts = (text_of(tokenizer, piece) for piece in pieces)
    return [text for text in texts if text.strip()]


def in_windows(tokenizer: Tokenizer, texts: Iterable[str], window: int) -> Windows:
    """Texts as documents in windows of so many tokens."""
    pieces = encode(tokenizer, [Document(text) for text in texts])
    return pack(pieces, window, tokenizer.end_of_text)
