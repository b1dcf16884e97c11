"""From documents to windows: tokenise, shuffle, pack, and resume at the exact next batch.

A stream is an endless list of chunks; a chunk is `shuffle_blocks` blocks of the source whose
documents are shuffled, packed into windows and shuffled again, all from (seed, stream, chunk). So a
position is (chunk, window), a group's trained ranges are a few integers in a header, and any
process can read them again.

Shapes: N windows, T tokens of a window. Called by the trainers and the evaluator.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from actors.facts import FactTable
from actors.sources import Document, Source, open_source
from actors.spec import RunSpec
from actors.tokenizer import Tokenizer
from actors.wire import CorpusError, Range

IntArray = npt.NDArray[np.int32]

PADDING = -1  # segment of positions that hold no token
OPEN_WINDOWS = 16  # windows that packing tries before it closes the fullest
CACHED_CHUNKS = 3
TOKENIZER_BYTES = 64 << 20  # text that the tokenizer is trained on, at most


@dataclass(frozen=True)
class Windows:
    """Packed sequences.

    Attributes:
        tokens_NT: token ids.
        segments_NT: which document of the window each position belongs to; -1: padding.
        learn_NT: whether the token at that position is something to predict.
    """

    tokens_NT: IntArray
    segments_NT: IntArray
    learn_NT: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return int(self.tokens_NT.shape[0])

    def __getitem__(self, rows: slice | IntArray | npt.NDArray[np.int64]) -> Windows:
        return Windows(self.tokens_NT[rows], self.segments_NT[rows], self.learn_NT[rows])

    @property
    def num_tokens(self) -> int:
        """Positions that hold a token."""
        return int((self.segments_NT != PADDING).sum())

    @classmethod
    def concat(cls, parts: Sequence[Windows]) -> Windows:
        """All windows of `parts`, in order."""
        arrays = zip(*((p.tokens_NT, p.segments_NT, p.learn_NT) for p in parts), strict=True)
        return cls(*(np.concatenate(column) for column in arrays))

    @classmethod
    def empty(cls, window: int) -> Windows:
        """No windows, of the right width."""
        return cls(
            np.zeros((0, window), np.int32),
            np.zeros((0, window), np.int32),
            np.zeros((0, window), np.bool_),
        )


@dataclass(frozen=True)
class Piece:
    """A document's tokens, or a part of them; of the first `num_given` none is to be predicted."""

    tokens: Sequence[int]
    num_given: int = 0
    subject: str | None = None

    def cut(self, start: int, stop: int) -> Piece:
        """The tokens [start, stop)."""
        return Piece(self.tokens[start:stop], max(0, self.num_given - start), self.subject)


def pack(documents: Iterable[Piece], window: int, fill: int) -> Windows:
    """Packs token lists into windows, first fit among the open ones, no subject twice in a window.

    A document longer than the window is cut; its full pieces stand alone, its rest is packed like a
    short one.
    """
    closed: list[list[Piece]] = []
    open_: list[list[Piece]] = []
    used: list[int] = []
    subjects: list[set[str]] = []  # of each open window; sets, since this loop is the hot one
    for document in documents:
        for start in range(0, len(document.tokens), window):
            piece = document.cut(start, start + window)
            size, named = len(piece.tokens), () if piece.subject is None else (piece.subject,)
            if size < 2 or piece.num_given >= size:
                continue  # nothing in it is to be predicted
            for slot, pieces in enumerate(open_):
                if used[slot] + size <= window and piece.subject not in subjects[slot]:
                    pieces.append(piece)
                    used[slot] += size
                    subjects[slot].update(named)
                    break
            else:
                open_.append([piece])
                used.append(size)
                subjects.append(set(named))
                if len(open_) > OPEN_WINDOWS:
                    fullest = max(range(len(open_)), key=used.__getitem__)
                    closed.append(open_.pop(fullest))
                    used.pop(fullest)
                    subjects.pop(fullest)
    closed.extend(open_)
    windows = Windows(
        np.full((len(closed), window), fill, np.int32),
        np.full((len(closed), window), PADDING, np.int32),
        np.zeros((len(closed), window), np.bool_),
    )
    for row, pieces in enumerate(closed):
        at = 0
        for segment, piece in enumerate(pieces):
            end = at + len(piece.tokens)
            windows.tokens_NT[row, at:end] = piece.tokens
            windows.segments_NT[row, at:end] = segment
            windows.learn_NT[row, at + piece.num_given : end] = True
            at = end
    return windows


class Corpus:
    """A tokenised corpus.

    Streams of training windows, held-out windows, and facts where there are some.
    """

    def __init__(
        self, spec: RunSpec, tokenizer: Tokenizer, source: Source, facts: FactTable | None
    ) -> None:
        self._spec = spec
        self.tokenizer = tokenizer
        self._source = source
        self.facts = facts
        self._blocks: OrderedDict[int, list[Piece]] = OrderedDict()

    @classmethod
    def open(cls, spec: RunSpec, tokenizer: Tokenizer) -> Corpus:
        """Opens the corpus that `spec` names, split as its seed says."""
        source, facts = open_source(spec.corpus, spec.seed)
        return cls(spec, tokenizer, source, facts)

    @property
    def chunks_per_epoch(self) -> int:
        """Chunks in one pass over the training split."""
        return -(-self._source.num_blocks // self._spec.corpus.shuffle_blocks)

    def _encode(self, documents: Sequence[Document]) -> list[Piece]:
        mark = self.tokenizer.end_of_text
        given = self.tokenizer.encode_batch([d.given for d in documents])
        rest = self.tokenizer.encode_batch([d.text for d in documents])
        return [
            Piece([mark, *g, *r, mark], 1 + len(g) if g else 0, d.subject)
            for g, r, d in zip(given, rest, documents, strict=True)
        ]

    def _block(self, index: int) -> list[Piece]:
        if index not in self._blocks:
            self._blocks[index] = self._encode(self._source.block(index))
            while len(self._blocks) > 2 * self._spec.corpus.shuffle_blocks:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(index)
        return self._blocks[index]

    def chunk(self, stream: str, index: int) -> Windows:
        """The windows of one chunk of the named stream.

        A pure function of spec, stream and index.
        """
        epoch, within = divmod(index, self.chunks_per_epoch)
        blocks = _rng(self._spec.seed, stream, epoch).permutation(self._source.num_blocks)
        size = self._spec.corpus.shuffle_blocks
        documents = [
            d for b in blocks[within * size : (within + 1) * size] for d in self._block(int(b))
        ]
        rng = _rng(self._spec.seed, stream, epoch, within)
        shuffled = [documents[i] for i in rng.permutation(len(documents))]
        windows = pack(shuffled, self._spec.corpus.window, self.tokenizer.end_of_text)
        return windows[rng.permutation(len(windows))]

    def heldout(self, limit: int) -> Windows:
        """Up to `limit` windows of the held-out split, evenly spread over it.

        Raises:
            CorpusError: the split is empty.
        """
        windows = pack(
            self._encode(list(self._source.heldout())),
            self._spec.corpus.window,
            self.tokenizer.end_of_text,
        )
        if len(windows) == 0:
            raise CorpusError(
                "corpus: the held-out split is empty; raise corpus.heldout_frac or give more text"
            )
        return windows[
            np.unique(
                np.linspace(0, len(windows) - 1, min(limit, len(windows))).round().astype(np.int64)
            )
        ]


class WindowStream:
    """A group's endless shuffled pass over the training split.

    `state` is the exact next position.
    """

    def __init__(self, corpus: Corpus, name: str, state: tuple[int, int] = (0, 0)) -> None:
        self._corpus = corpus
        self._name = name
        self.state = state
        self._chunks: OrderedDict[int, Windows] = OrderedDict()

    def _chunk(self, index: int) -> Windows:
        if index not in self._chunks:
            self._chunks[index] = self._corpus.chunk(self._name, index)
            while len(self._chunks) > CACHED_CHUNKS:
                self._chunks.popitem(last=False)
        self._chunks.move_to_end(index)
        return self._chunks[index]

    def next_batch(self, num: int) -> tuple[Windows, list[Range]]:
        """The next `num` windows and where they stand.

        Raises:
            CorpusError: a whole epoch holds no window.
        """
        ranges: list[Range] = []
        empty = 0
        while num > 0:
            chunk, start = self.state
            available = len(self._chunk(chunk))
            take = min(num, available - start)
            empty = empty + 1 if available == 0 else 0
            if empty > self._corpus.chunks_per_epoch:
                raise CorpusError(
                    "corpus: the training split holds no text to train on; give more, and with "
                    "corpus.loss_on 'answers' at least one training wording that ends in [Y]"
                )
            if take > 0:
                ranges.append(Range(chunk, start, start + take))
                num -= take
            self.state = (chunk, start + take) if start + take < available else (chunk + 1, 0)
        return self.read(ranges), ranges

    def read(self, ranges: Sequence[Range]) -> Windows:
        """The windows of `ranges`, in order."""
        return Windows.concat([self._chunk(r.chunk)[r.start : r.stop] for r in ranges])


def merge_ranges(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The same windows in as few ranges as they make when neighbours are joined."""
    merged: list[Range] = []
    for r in ranges:
        if merged and merged[-1].chunk == r.chunk and merged[-1].stop == r.start:
            merged[-1] = Range(r.chunk, merged[-1].start, r.stop)
        else:
            merged.append(r)
    return tuple(merged)


def train_tokenizer(spec: RunSpec, limit_bytes: int = TOKENIZER_BYTES) -> Tokenizer:
    """A tokenizer of the training split alone.

    Blocks spread over the corpus where it is larger than `limit_bytes`.
    """
    source, _ = open_source(spec.corpus, spec.seed)

    def texts() -> Iterator[str]:
        order = _rng(spec.seed, "tokenizer").permutation(source.num_blocks)
        used = 0
        for index in order:
            for document in source.block(int(index)):
                yield document.given + document.text
                used += len(document.given) + len(document.text)
            if used > limit_bytes:
                return

    return Tokenizer.train(texts(), spec.tokenizer.vocab_size)


def _rng(seed: int, stream: str, *more: int) -> np.random.Generator:
    return np.random.default_rng([seed, *stream.encode(), *more])
