"""Reads blocks and tokenises them, alone or shared among the ranks of a group.

Small corpora are kept tokenised. Where ranks share the reading, each keeps only what it read.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from actors.corpus.chunk_plan import BlockId
from actors.corpus.reading_share import ReadingShare, failure, from_bytes, to_bytes
from actors.corpus.windows import Piece
from actors.sources.chats import Chat
from actors.sources.documents import Document, Source
from actors.tokenizers.tokenizer import Tokenizer
from actors.wire import CorpusError

BATCH_CHARACTERS = 1 << 20  # tokenised at a time; takes a hundred times as many bytes of memory


def encode(tokenizer: Tokenizer, documents: Iterable[Document]) -> list[Piece]:
    """Each document's tokens: a text's with its opening and closing marks, a chat's as its template
    writes it, some chats as several pieces.

    Raises:
        ConfigError: there is a chat, and the tokenizer has no template.
        CorpusError: the template can't write a chat.
    """
    return [piece for pieces in encode_each(tokenizer, documents) for piece in pieces]


def encode_each(tokenizer: Tokenizer, documents: Iterable[Document]) -> list[list[Piece]]:
    """As `encode`, with the pieces of each document apart."""
    found: list[list[Piece]] = []
    for some in _batches(documents):
        texts = _encode_texts(tokenizer, [d for d in some if d.chat is None])
        chats = _encode_chats(tokenizer, [d.chat for d in some if d.chat is not None])
        found += [next(texts if document.chat is None else chats) for document in some]
    return found


def _encode_texts(tokenizer: Tokenizer, documents: Sequence[Document]) -> Iterator[list[Piece]]:
    before, after = tokenizer.opening, tokenizer.closing
    encoded = tokenizer.encode_pairs([(d.given, d.text) for d in documents])
    for (ids, num_given), document in zip(encoded, documents, strict=True):
        tokens = np.array([*before, *ids, *after], np.int32)
        given = len(before) + num_given if num_given else 0
        yield [Piece(tokens, given, document.subject)]


def _encode_chats(tokenizer: Tokenizer, chats: Sequence[Chat]) -> Iterator[list[Piece]]:
    for parts in tokenizer.chat.encode(chats) if chats else []:
        yield [Piece(part.tokens_T, learn_T=part.learn_T) for part in parts]


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.whole)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class BlockReader:
    """Reads training blocks as pieces of tokens.

    Args:
        tokenizer: the run's.
        sources: to which the block ids refer.
        kept_blocks: the most blocks that are kept tokenised; sources with more are not kept.
        share: this rank's share of the reading; None: all of it.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        sources: Sequence[Source],
        kept_blocks: int,
        share: ReadingShare | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._sources = sources
        self._keep = sum(source.num_blocks for source in sources) <= kept_blocks
        self._kept: dict[BlockId, list[Piece]] = {}
        self._share = share if share is not None and share.num_ranks > 1 else None

    def set_share(self, share: ReadingShare) -> None:
        """From now on, reads only this share."""
        self._share = share if share.num_ranks > 1 else None

    def alone(self) -> BlockReader:
        """A copy that shares the reading with no other rank, with the same kept blocks."""
        reader = copy.copy(self)
        reader._share = None
        return reader

    def read(self, block_ids: Sequence[BlockId]) -> list[list[Piece]]:
        """The documents of each block; the same on every rank.

        Raises:
            CorpusError: on every rank, if one rank can't read its share.
        """
        if self._share is None:
            return self._read(block_ids)
        # The owner depends on the block alone, never on what a rank has kept.
        owners = [self._owner(block_id) for block_id in block_ids]
        mine = [p for p, owner in zip(block_ids, owners, strict=True) if owner == self._share.rank]
        try:
            payload = to_bytes(self._read(mine))
        except CorpusError as err:  # the others wait in gather and must raise it too
            payload = failure(err)
        shares = [iter(from_bytes(raw)) for raw in self._share.gather(payload)]
        return [next(shares[owner]) for owner in owners]

    def _owner(self, block_id: BlockId) -> int:
        """The rank that reads a block: the same for a whole span, which is decoded in order."""
        assert self._share is not None
        return (block_id.source + self._sources[block_id.source].span(block_id.block)) % (
            self._share.num_ranks
        )

    def _read(self, block_ids: Sequence[BlockId]) -> list[list[Piece]]:
        missing: OrderedDict[BlockId, list[Piece]] = OrderedDict(
            (block_id, []) for block_id in block_ids if block_id not in self._kept
        )
        for number, source in enumerate(self._sources):
            of_source = [block_id for block_id in missing if block_id.source == number]
            if not of_source:
                continue
            blocks = source.blocks([block_id.block for block_id in of_source])
            pieces = iter(encode_each(self._tokenizer, [d for block in blocks for d in block]))
            for block_id, block in zip(of_source, blocks, strict=True):
                missing[block_id] = [piece for _ in block for piece in next(pieces)]
        if self._keep:
            self._kept.update(missing)
        return [
            self._kept[block_id] if block_id in self._kept else missing[block_id]
            for block_id in block_ids
        ]
