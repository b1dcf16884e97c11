"""One document of each source as it will be learned, with what is learned of it marked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Self

import numpy as np
from rich.text import Text

from actors.corpus.block_reader import encode
from actors.corpus.chunk_plan import rng_of
from actors.corpus.windows import Piece
from actors.settings.run import DATA, RunSpec
from actors.sources.corpus_sources import open_sources
from actors.sources.documents import Source
from actors.tokenizers.tokenizer import Tokenizer
from orchestrator.console import plain

SHOWN_CHARS = 240  # of a stretch; more is cut out of its middle
SHOWN_PARTS = 12
SEARCHED_BLOCKS = 64
OPENS, CLOSES = ">>", "<<"


@dataclass(frozen=True)
class Part:
    """A stretch of a document: its text, and whether it is learned or only read."""

    text: str
    learned: bool


@dataclass(frozen=True)
class Example:
    """The beginning of a document, as many tokens as a window has.

    Attributes:
        source: its paths, as messages name them.
        parts: in order.
        num_tokens, num_learned: of it.
    """

    source: str
    parts: tuple[Part, ...]
    num_tokens: int
    num_learned: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `as_dict`."""
        parts = tuple(Part(**part) for part in values["parts"])
        return cls(**{**values, "parts": parts})

    def shown(self) -> Text:
        """For the terminal: what is learned between >> and <<, and in green."""
        text = plain(
            f"as it is learned, a document of {self.source}: {self.num_learned} of "
            f"{self.num_tokens} tokens, those between {OPENS} and {CLOSES}\n"
        )
        for part in self.parts[:SHOWN_PARTS]:
            shown = _cut(part.text)
            text += plain(f"{OPENS}{shown}{CLOSES}", "green") if part.learned else plain(shown)
        if len(self.parts) > SHOWN_PARTS:
            text += plain(f" … and {len(self.parts) - SHOWN_PARTS} more parts")
        return text


def examples(spec: RunSpec, tokenizer: Tokenizer) -> list[Example]:
    """One of each source, from the blocks that training reads first.

    Raises:
        CorpusError: as the trainers.
    """
    sources, _ = open_sources(spec.corpus, spec.seed)
    found = []
    for source, files in zip(sources, spec.corpus.files, strict=True):
        piece = next(_pieces(spec, source, tokenizer), None)
        if piece is not None:
            found.append(_example(files.described, piece, tokenizer))
    return found


def _pieces(spec: RunSpec, source: Source, tokenizer: Tokenizer) -> Iterator[Piece]:
    for block in source.order(rng_of(spec.seed, DATA, 0))[:SEARCHED_BLOCKS].tolist():
        for piece in encode(tokenizer, source.block(block)[:1]):
            cut = piece.cut(0, spec.corpus.window)
            if cut.teaches:
                yield cut


def _example(source: str, piece: Piece, tokenizer: Tokenizer) -> Example:
    tokens = np.asarray(piece.tokens).tolist()
    learned: Sequence[bool] = (
        [at >= piece.num_given for at in range(len(tokens))]
        if piece.learn_T is None
        else piece.learn_T.tolist()
    )
    parts = []
    for is_learned, group in groupby(zip(tokens, learned, strict=True), key=lambda pair: pair[1]):
        text = tokenizer.decode([token for token, _ in group], with_marks=True)
        parts.append(Part(text, is_learned))
    return Example(source, tuple(parts), len(tokens), sum(learned))


def _cut(text: str) -> str:
    if len(text) <= SHOWN_CHARS:
        return text
    half = SHOWN_CHARS // 2
    return f"{text[:half]} … {text[-half:]}"
