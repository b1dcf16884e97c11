"""From documents to windows: tokenise, shuffle, pack, and resume at the exact next batch.

A stream is an endless sequence of chunks. A chunk is `shuffle_blocks` blocks of the sources, whose
documents are shuffled, packed into windows and shuffled again, all from (seed, stream, chunk). So a
position in a stream is (chunk, window), what a group trained on is a few integers in a header, and
any process can read it again. The next chunk is made in the background.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

from actors.corpus.block_reader import BlockReader, encode
from actors.corpus.chunk_plan import ChunkPlanner, rng_of
from actors.corpus.reading_share import ReadingShare
from actors.corpus.windows import Windows, pack
from actors.formats import first_line
from actors.settings.corpus import CorpusSpec, SourceSpec
from actors.settings.run import RunSpec
from actors.sources.corpus_sources import open_sources
from actors.sources.documents import HELDOUT, TRAINING, Document, Source, evenly
from actors.sources.facts import FactTable
from actors.sources.file_source import FileSource
from actors.sources.text_file import read_text
from actors.tokenizers.tokenizer import Tokenizer
from actors.wire import ConfigError, CorpusError, Range, TandemError

CACHED_CHUNKS = 3
KEPT_CHUNKS = 4  # a corpus of up to this many chunks is kept tokenised
HELDOUT_BYTES = 4 << 20  # read of the held-out split, or all of a smaller one
HELDOUT_BLOCKS = 16  # the least blocks of it that are read
MEASURED_WINDOWS = 48  # held-out windows on which the memory group measures its agreement
BYTES_PER_TOKEN = 8  # above what tokenizers reach, so that enough is read
TOKENIZER_BYTES = 64 << 20  # text that the tokenizer is trained on, at most
MEASURED_BYTES = 256 << 10  # text of a source that is tokenised to estimate bytes per token


class Corpus:
    """A tokenised corpus.

    Has streams of training windows, held-out windows, and the fact table of a corpus of facts. The
    windows are the same for any number of ranks that share the reading.
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
        self._lock = Lock()  # sources keep files open between blocks
        background = share is None or share.num_ranks == 1 or share.background
        self._pool = ThreadPoolExecutor(1, "tandem-chunks") if background else None

    @classmethod
    def open(cls, spec: RunSpec, tokenizer: Tokenizer, share: ReadingShare | None = None) -> Corpus:
        """Opens the corpus of `spec`, split by its seed; this process reads its `share` of it, or
        all.
        """
        sources, facts = open_sources(spec.corpus, spec.seed)
        return cls(spec, tokenizer, sources, facts, share)

    def share_reading(self, share: ReadingShare) -> None:
        """From now on, this process reads only this share; called before anything is read."""
        self._reader.set_share(share)
        if not share.background and self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def alone(self) -> Corpus:
        """The same corpus for a process that leaves its group: it reads all blocks itself. Chunks
        that the group requested ahead are cancelled.
        """
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        corpus = copy.copy(self)  # keeps the lock: the old pool may still be reading a block
        corpus._reader = self._reader.alone()
        corpus._pool = ThreadPoolExecutor(1, "tandem-chunks")
        return corpus

    @property
    def window(self) -> int:
        """Tokens of a window."""
        return self._spec.window

    @property
    def chunks_per_epoch(self) -> int:
        """Chunks after which the whole training split was read."""
        return self._planner.chunks_per_epoch

    def chunk(self, stream: str, index: int) -> Windows:
        """The windows of one chunk of the named stream.

        A pure function of spec, stream and index. Ranks that share the reading must all request the
        same chunks in the same order.
        """
        drawn = self._planner.chunk(stream, index)
        with self._lock:
            documents = [d for block in self._reader.read(drawn.block_ids) for d in block]
        shuffled = [documents[i] for i in drawn.rng.permutation(len(documents))]
        windows = pack(shuffled, self._spec.window, self.tokenizer.end_of_text)
        return windows[drawn.rng.permutation(len(windows))]

    def request(self, stream: str, index: int, ahead: bool = False) -> Future[Windows] | None:
        """A future of the chunk; None if it is requested `ahead` of need and no thread can make it.

        One thread makes all chunks in the order of the requests, so that all ranks gather in the
        same order.
        """
        if self._pool is not None:
            return self._pool.submit(self.chunk, stream, index)
        if ahead:
            return None
        made: Future[Windows] = Future()
        made.set_result(self.chunk(stream, index))
        return made

    def nothing_to_train_on(self) -> CorpusError:
        """The error for an empty training split, with the reason."""
        described = ", ".join(files.described for files in self._spec.files)
        whys = "; ".join(source.why_empty(TRAINING) for source in self._sources)
        return CorpusError(f"corpus {described}: the training split is empty: {whys}")

    def heldout(self, limit: int) -> Windows:
        """Up to `limit` windows of the held-out split, evenly spread over it.

        Several sources contribute by weight, at least one window each.

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
        return windows[evenly(len(windows), limit)]


class WindowStream:
    """A group's endless shuffled pass over the training split.

    Attributes:
        state: exact next position (chunk, window).
    """

    def __init__(self, corpus: Corpus, name: str, state: tuple[int, int] = (0, 0)) -> None:
        self._corpus = corpus
        self._name = name
        self.state = state
        self._chunks: OrderedDict[int, Future[Windows]] = OrderedDict()

    def _request(self, index: int, ahead: bool = False) -> None:
        """Requests a chunk unless it is cached."""
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
        """The next `num` windows and their ranges in the stream.

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
    """Held-out windows per source, `limit` in all: by weight, at least one each."""
    shares = normalised_weights(spec.files)
    order = sorted(range(len(shares)), key=lambda i: -shares[i])[:limit]
    counts = {i: max(1, int(limit * shares[i])) for i in order}
    while sum(counts.values()) > limit:
        counts[max(counts, key=counts.__getitem__)] -= 1
    counts[order[0]] += limit - sum(counts.values())
    return counts


def heldout_blocks(spec: CorpusSpec, limit: int) -> int:
    """Blocks of a source to read for `limit` held-out windows."""
    needed = max(HELDOUT_BYTES, limit * spec.window * BYTES_PER_TOKEN)
    return max(HELDOUT_BLOCKS, needed // spec.block_bytes)


def nothing_held_out(files: SourceSpec, source: Source) -> CorpusError:
    """The error for a held-out split without text, with the reason."""
    return CorpusError(
        f"corpus {files.described}: the held-out split is empty: {source.why_empty(HELDOUT)}"
    )


def normalised_weights(sources: Sequence[SourceSpec]) -> list[float]:
    """Each source's share of the training tokens."""
    total = sum(source.weight for source in sources)
    return [source.weight / total for source in sources]


Measure = Callable[[Sequence[Document]], int]


def block_shares(spec: RunSpec, sources: Sequence[Source], measure: Measure) -> list[float]:
    """Each source's share of the blocks, such that what `measure` counts in them is shared by
    weight: blocks of different sources hold different amounts.
    """
    if len(sources) == 1:
        return [1.0]
    wanted = normalised_weights(spec.corpus.files)
    lengths = [_block_length(s, measure) for s in sources if isinstance(s, FileSource)]
    blocks = [share / length for share, length in zip(wanted, lengths, strict=True)]
    return [share / sum(blocks) for share in blocks]


def _block_length(source: FileSource, measure: Measure) -> float:
    """Mean of what `measure` counts in a block of the source, estimated from a sample."""
    sample = source.sample()
    num_bytes = sum(d.num_bytes for d in sample.documents)
    if num_bytes == 0:
        raise CorpusError(
            f"corpus {source.described}: no text in any of {sample.num_blocks:.0f} blocks spread "
            "over it; a source of a mixture needs text everywhere"
        )
    measured = sample.documents[:: max(1, num_bytes // MEASURED_BYTES)]
    per_byte = measure(measured) / max(1, sum(d.num_bytes for d in measured))
    return max(1e-9, per_byte * num_bytes / sample.num_blocks)


def build_tokenizer(spec: RunSpec) -> Tokenizer:
    """The run's tokenizer: the pretrained one that `spec` names, or one trained on its corpus.

    Raises:
        ConfigError: the pretrained one can't be loaded. CorpusError: as `train_tokenizer`.
    """
    if spec.tokenizer.pretrained is not None:
        open_sources(spec.corpus, spec.seed)  # shows faults of the corpus before a worker starts
        chosen = spec.tokenizer
        return Tokenizer.from_pretrained(
            spec.tokenizer.pretrained, chosen.begin, chosen.end, _as_ids(spec), _template(spec)
        )
    return train_tokenizer(spec)


def train_tokenizer(spec: RunSpec, limit_bytes: int = TOKENIZER_BYTES) -> Tokenizer:
    """Trains a tokenizer on the training split.

    On blocks from all over it where it is larger than `limit_bytes`; on several sources by weight.
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
            yield document.whole
            used += len(document.whole)
            if used > limit_bytes:
                return

    return Tokenizer.train(texts(), spec.tokenizer.vocab_size, _as_ids(spec), _template(spec))


def _as_ids(spec: RunSpec) -> bool:
    return spec.tokenizer.special_tokens == "as_ids"


def _template(spec: RunSpec) -> str | None:
    """The chat template by file. Raises: ConfigError: it can't be read, or is no template."""
    path = spec.tokenizer.chat_template
    if path is None:
        return None
    from actors.tokenizers.chat import checked_template  # transformers: a second

    try:
        return checked_template(read_text(path))
    except TandemError:
        raise
    except Exception as err:  # each file system raises types of its own
        raise ConfigError(
            f"tokenizer.chat_template {path}: {first_line(err, with_type=True)}; expected a file "
            "with a Jinja template"
        ) from err
