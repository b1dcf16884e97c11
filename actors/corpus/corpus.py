"""From documents to windows: tokenise, shuffle, pack, and resume at the exact next batch.

A stream is an endless list of chunks; a chunk is `shuffle_blocks` blocks of the sources whose
documents are shuffled, packed into windows and shuffled again, all from (seed, stream, chunk). So a
position is (chunk, window), a group's trained ranges are a few integers in a header, and any
process can read them again. The chunk after the one in use is made in the background.

Called by the trainers and the evaluator.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

import numpy as np

from actors.corpus.block_reader import BlockReader, encode
from actors.corpus.chunk_plan import ChunkPlanner, rng_of
from actors.corpus.reading_share import ReadingShare
from actors.corpus.windows import PADDING as PADDING
from actors.corpus.windows import Piece as Piece
from actors.corpus.windows import Windows as Windows
from actors.corpus.windows import pack as pack
from actors.settings.corpus import CorpusSpec, SourceSpec
from actors.settings.run import RunSpec
from actors.sources.corpus_sources import open_sources
from actors.sources.documents import HELDOUT, TRAINING, Document, Source
from actors.sources.facts import FactTable
from actors.sources.file_source import FileSource
from actors.tokenizers.tokenizer import Tokenizer
from actors.wire import CorpusError, Range

CACHED_CHUNKS = 3
KEPT_CHUNKS = 4  # a corpus of so many chunks is kept tokenised
HELDOUT_BYTES = 4 << 20  # of the held-out split that are read, at least where there are more
HELDOUT_BLOCKS = 16  # and so many blocks of it
MEASURED_WINDOWS = 48  # held-out windows on which the memory group measures its agreement
BYTES_PER_TOKEN = 8  # more than tokenizers get out of text, so that enough is read
TOKENIZER_BYTES = 64 << 20  # text that the tokenizer is trained on, at most
MEASURED_BYTES = 256 << 10  # text of a source that is tokenised to learn the length of its tokens


class Corpus:
    """A tokenised corpus.

    Streams of training windows, held-out windows, and facts where there are some. The windows are
    the same for any number of ranks that share the reading.
    """

    def __init__(
        self,
        spec: RunSpec,
        tokenizer: Tokenizer,
        sources: Sequence[Source],
        facts: FactTable | None,
        share: ReadingShare | None = None,
    ) -> None:
        self._spec = spec.corpus
        self.tokenizer = tokenizer
        self.facts = facts
        self._sources = sources

        def count_tokens(documents: Sequence[Document]) -> int:
            return sum(len(piece.tokens) for piece in encode(tokenizer, documents))

        shares = block_shares(spec, sources, count_tokens)
        self._planner = ChunkPlanner(sources, spec.seed, spec.corpus.shuffle_blocks, shares)
        kept = KEPT_CHUNKS * spec.corpus.shuffle_blocks
        self._reader = BlockReader(tokenizer, sources, kept, share)
        self._lock = Lock()  # readers keep files open between blocks
        background = share is None or share.num_ranks == 1 or share.background
        self._pool = ThreadPoolExecutor(1, "tandem-chunks") if background else None

    @classmethod
    def open(cls, spec: RunSpec, tokenizer: Tokenizer, share: ReadingShare | None = None) -> Corpus:
        """Opens the corpus that `spec` names, split as its seed says; of its reading, this process
        does the share that `share` says.
        """
        sources, facts = open_sources(spec.corpus, spec.seed)
        return cls(spec, tokenizer, sources, facts, share)

    def share_reading(self, share: ReadingShare) -> None:
        """From now on this process reads only its share; before anything was read."""
        self._reader.set_share(share)
        if not share.background and self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def alone(self) -> Corpus:
        """The same corpus for a process that leaves its group: it shares the reading with nobody
        yet. What the group asked for ahead is let go.
        """
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        corpus = copy.copy(self)  # the lock stays one: a block may still be read in the old pool
        corpus._reader = self._reader.alone()
        corpus._pool = ThreadPoolExecutor(1, "tandem-chunks")
        return corpus

    @property
    def window(self) -> int:
        """Tokens of a window."""
        return self._spec.window

    @property
    def chunks_per_epoch(self) -> int:
        """Chunks after which all of the training split was read."""
        return self._planner.chunks_per_epoch

    def chunk(self, stream: str, index: int) -> Windows:
        """The windows of one chunk of the named stream.

        A pure function of spec, stream and index. Where ranks share the reading, all of them must
        ask for the same chunks in the same order.
        """
        drawn = self._planner.chunk(stream, index)
        with self._lock:
            documents = [d for block in self._reader.read(drawn.block_ids) for d in block]
        shuffled = [documents[i] for i in drawn.rng.permutation(len(documents))]
        windows = pack(shuffled, self._spec.window, self.tokenizer.end_of_text)
        return windows[drawn.rng.permutation(len(windows))]

    def request(self, stream: str, index: int, ahead: bool = False) -> Future[Windows] | None:
        """The chunk when it is made; `ahead` of its need only where there is a thread for it.

        One thread makes all chunks in the order in which they were asked for, so that ranks gather
        in one order.
        """
        if self._pool is not None:
            return self._pool.submit(self.chunk, stream, index)
        if ahead:
            return None
        made: Future[Windows] = Future()
        made.set_result(self.chunk(stream, index))
        return made

    def nothing_to_train_on(self) -> CorpusError:
        """That the training split is empty, and why."""
        described = ", ".join(files.described for files in self._spec.files)
        whys = "; ".join(source.why_empty(TRAINING) for source in self._sources)
        return CorpusError(f"corpus {described}: the training split is empty: {whys}")

    def heldout(self, limit: int) -> Windows:
        """Up to `limit` windows of the held-out split, evenly spread over it.

        Of several sources each has its share by weight, at least one window.

        Raises:
            CorpusError: the split, or a source's part of it, is empty.
        """
        counts = heldout_counts(self._spec, limit)
        return Windows.concat([self._heldout(i, counts[i]) for i in sorted(counts)])

    def _heldout(self, source: int, limit: int) -> Windows:
        num_blocks = heldout_blocks(self._spec, limit)
        with self._lock:
            pieces = encode(self.tokenizer, self._sources[source].heldout(num_blocks))
        windows = pack(pieces, self._spec.window, self.tokenizer.end_of_text)
        if len(windows) == 0:
            raise nothing_held_out(self._spec.files[source], self._sources[source])
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
        self._chunks: OrderedDict[int, Future[Windows]] = OrderedDict()

    def _request(self, index: int, ahead: bool = False) -> None:
        """Has a chunk made that is not there yet."""
        if index not in self._chunks:
            made = self._corpus.request(self._name, index, ahead)
            if made is None:
                return
            self._chunks[index] = made
            while len(self._chunks) > CACHED_CHUNKS:
                self._chunks.popitem(last=False)
        self._chunks.move_to_end(index)

    def _chunk(self, index: int) -> Windows:
        self._request(index)
        return self._chunks[index].result()

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
            self._request(chunk + 1, ahead=True)
            take = min(num, available - start)
            empty = empty + 1 if available == 0 else 0
            if empty > self._corpus.chunks_per_epoch:
                raise self._corpus.nothing_to_train_on()
            if take > 0:
                ranges.append(Range(chunk, start, start + take))
                num -= take
            self.state = (chunk, start + take) if start + take < available else (chunk + 1, 0)
        return self.read(ranges), ranges

    def read(self, ranges: Sequence[Range]) -> Windows:
        """The windows of `ranges`, in order."""
        empty = Windows.empty(self._corpus.window)
        return Windows.concat([empty, *(self._chunk(r.chunk)[r.start : r.stop] for r in ranges)])


def heldout_counts(spec: CorpusSpec, limit: int) -> dict[int, int]:
    """Of `limit` held-out windows, how many each source gives: by weight, at least one each."""
    shares = normalised_weights(spec.files)
    order = sorted(range(len(shares)), key=lambda i: -shares[i])[:limit]
    counts = {i: max(1, int(limit * shares[i])) for i in order}
    while sum(counts.values()) > limit:
        counts[max(counts, key=counts.__getitem__)] -= 1
    counts[order[0]] += limit - sum(counts.values())
    return counts


def heldout_blocks(spec: CorpusSpec, limit: int) -> int:
    """Blocks of a source that are read for `limit` of its held-out windows, where it has them."""
    needed = max(HELDOUT_BYTES, limit * spec.window * BYTES_PER_TOKEN)
    return max(HELDOUT_BLOCKS, needed // spec.block_bytes)


def nothing_held_out(files: SourceSpec, source: Source) -> CorpusError:
    """That a source's held-out split holds no text, and why."""
    return CorpusError(
        f"corpus {files.described}: the held-out split is empty: {source.why_empty(HELDOUT)}"
    )


def normalised_weights(sources: Sequence[SourceSpec]) -> list[float]:
    """Each source's share of the training tokens."""
    total = sum(source.weight for source in sources)
    return [source.weight / total for source in sources]


Measure = Callable[[Sequence[Document]], int]


def block_shares(spec: RunSpec, sources: Sequence[Source], measure: Measure) -> list[float]:
    """Each source's share of the blocks that are drawn, so that what is measured in them is shared
    as the weights say: a block of one source may hold more than one of another.
    """
    if len(sources) == 1:
        return [1.0]
    wanted = normalised_weights(spec.corpus.files)
    lengths = [_block_length(s, measure) for s in sources if isinstance(s, FileSource)]
    blocks = [share / length for share, length in zip(wanted, lengths, strict=True)]
    return [share / sum(blocks) for share in blocks]


def _block_length(source: FileSource, measure: Measure) -> float:
    """What is measured in a block of the source, on the average, estimated from a sample."""
    sample = source.sample()
    num_bytes = sum(d.num_bytes for d in sample.documents)
    if num_bytes == 0:
        raise CorpusError(
            f"corpus {source.described}: no text in any of {sample.num_blocks:.0f} blocks spread "
            "over it; a source that is mixed must hold some everywhere"
        )
    measured = sample.documents[:: max(1, num_bytes // MEASURED_BYTES)]
    per_byte = measure(measured) / max(1, sum(d.num_bytes for d in measured))
    return max(1e-9, per_byte * num_bytes / sample.num_blocks)


def build_tokenizer(spec: RunSpec) -> Tokenizer:
    """The run's tokenizer: the pretrained one that `spec` names, or one trained for it.

    Raises:
        ConfigError: the pretrained one can't be had; CorpusError: as `train_tokenizer`.
    """
    if spec.tokenizer.pretrained is not None:
        open_sources(spec.corpus, spec.seed)  # what is wrong with them shows before a worker starts
        chosen = spec.tokenizer
        return Tokenizer.from_pretrained(
            spec.tokenizer.pretrained, chosen.begin, chosen.end, _as_ids(spec)
        )
    return train_tokenizer(spec)


def train_tokenizer(spec: RunSpec, limit_bytes: int = TOKENIZER_BYTES) -> Tokenizer:
    """A tokenizer of the training split alone.

    Blocks spread over the corpus where it is larger than `limit_bytes`; of several sources, as
    their weights say.
    """
    sources, _ = open_sources(spec.corpus, spec.seed)
    shares = block_shares(spec, sources, lambda documents: sum(d.num_bytes for d in documents))
    planner = ChunkPlanner(sources, spec.seed, spec.corpus.shuffle_blocks, shares)

    def documents() -> Iterator[Document]:
        if len(sources) == 1:
            for index in sources[0].order(rng_of(spec.seed, "tokenizer")):
                yield from sources[0].block(int(index))
            return
        for number in range(planner.chunks_per_epoch):
            for block_id in planner.chunk("tokenizer", number).block_ids:
                yield from sources[block_id.source].block(block_id.block)

    def texts() -> Iterator[str]:
        used = 0
        for document in documents():
            yield document.given + document.text
            used += len(document.given) + len(document.text)
            if used > limit_bytes:
                return

    return Tokenizer.train(texts(), spec.tokenizer.vocab_size, _as_ids(spec))


def _as_ids(spec: RunSpec) -> bool:
    return spec.tokenizer.special_tokens == "as_ids"
