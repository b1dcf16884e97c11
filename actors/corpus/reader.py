"""Reads blocks and tokenises them, alone or shared among the ranks of a group. Called by `corpus`.

Small corpora are kept tokenised. Where ranks share, each keeps only what it reads itself.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from actors.corpus.draw import Place
from actors.corpus.shard import Shard, failure, from_bytes, to_bytes
from actors.corpus.windows import Piece
from actors.sources.documents import Document, Source
from actors.tokenizers.tokenizer import Tokenizer
from actors.wire import CorpusError

BATCH_CHARACTERS = 1 << 20  # tokenised at a time, which takes a hundred times as many bytes


def encode(tokenizer: Tokenizer, documents: Iterable[Document]) -> list[Piece]:
    """Each document's tokens between the marks that open and close it."""
    pieces: list[Piece] = []
    before, after = tokenizer.opening, tokenizer.closing
    for some in _batches(documents):
        encoded = tokenizer.encode_pairs([(d.given, d.text) for d in some])
        for (ids, num_given), document in zip(encoded, some, strict=True):
            tokens = np.array([*before, *ids, *after], np.int32)
            given = len(before) + num_given if num_given else 0
            pieces.append(Piece(tokens, given, document.subject))
    return pieces


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.given) + len(document.text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class Reader:
    """Training blocks as token lists.

    Args:
        tokenizer: the run's.
        sources: what places are in.
        kept_blocks: blocks that are kept tokenised; none where the sources have more.
        shard: this rank's share of the reading; unset: all of it.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        sources: Sequence[Source],
        kept_blocks: int,
        shard: Shard | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._sources = sources
        self._keep = sum(source.num_blocks for source in sources) <= kept_blocks
        self._kept: dict[Place, list[Piece]] = {}
        self._shard = shard if shard is not None and shard.num_ranks > 1 else None

    def share(self, shard: Shard) -> None:
        """From now on reads only its share."""
        self._shard = shard if shard.num_ranks > 1 else None

    def alone(self) -> Reader:
        """Another one that shares with nobody yet, and knows what was kept tokenised."""
        reader = copy.copy(self)
        reader._shard = None
        return reader

    def read(self, places: Sequence[Place]) -> list[list[Piece]]:
        """The documents of each block; the same on every rank.

        Raises:
            CorpusError: on every rank, where one rank can't read its share.
        """
        if self._shard is None:
            return self._read(places)
        # Who reads what depends on the places alone, never on what a rank happens to keep.
        owners = [self._owner(place) for place in places]
        mine = [p for p, owner in zip(places, owners, strict=True) if owner == self._shard.rank]
        try:
            payload = to_bytes(self._read(mine))
        except CorpusError as err:  # the others wait in gather: they have to hear of it
            payload = failure(err)
        shares = [iter(from_bytes(raw)) for raw in self._shard.gather(payload)]
        return [next(shares[owner]) for owner in owners]

    def _owner(self, place: Place) -> int:
        """The rank that reads a block: the same one for a whole span, which is decoded in order."""
        assert self._shard is not None
        return (place.source + self._sources[place.source].span(place.block)) % (
            self._shard.num_ranks
        )

    def _read(self, places: Sequence[Place]) -> list[list[Piece]]:
        missing: OrderedDict[Place, list[Piece]] = OrderedDict(
            (place, []) for place in places if place not in self._kept
        )
        for number, source in enumerate(self._sources):
            here = [place for place in missing if place.source == number]
            if not here:
                continue
            blocks = source.blocks([place.block for place in here])
            pieces = iter(encode(self._tokenizer, [d for block in blocks for d in block]))
            for place, block in zip(here, blocks, strict=True):
                missing[place] = [next(pieces) for _ in block]
        if self._keep:
            self._kept.update(missing)
        return [self._kept[place] if place in self._kept else missing[place] for place in places]
