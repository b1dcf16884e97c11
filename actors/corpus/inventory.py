"""What a run will read, counted source by source before it starts.

Reads every held-out block that an evaluation needs, and as much of the training split as is cheap,
so that a malformed record is named at the start and not at the end of the run. What is not read is
estimated, and marked as an estimate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from actors.corpus.block_reader import encode
from actors.corpus.chunk_plan import rng_of
from actors.corpus.corpus import (
    MEASURED_BYTES,
    MEASURED_WINDOWS,
    heldout_blocks,
    heldout_counts,
    normalised_weights,
    nothing_held_out,
)
from actors.corpus.special_tokens import SpecialTokens
from actors.corpus.windows import pack
from actors.formats import listed, text_size
from actors.settings.run import DATA, RunSpec
from actors.sources.corpus_files import LeftOut, corpus_files, left_out
from actors.sources.corpus_sources import open_sources
from actors.sources.documents import TRAINING, Document, Source
from actors.sources.file_source import FileSource
from actors.tokenizers.tokenizer import Tokenizer
from actors.wire import CorpusError

# Read of the training split, over all sources; a smaller one is read completely. One core reads 60
# to 100 MiB of JSON lines per second.
START_BYTES = 64 << 20
CHECK_BYTES = 256 << 20
BLOCKS_AT_A_TIME = 16
SEARCHED_BYTES = 8 << 20  # of a source's training split, searched for special tokens
SEARCHED_HELDOUT_BYTES = 1 << 20  # the same of its held-out split
HELDOUT_MARGIN = 0.15  # by which more may be held out than was wanted, without a warning
SHOWN = 5  # names of files, relations or tokens in one line


@dataclass(frozen=True)
class SplitSize:
    """Size of the training or held-out split of one source.

    Attributes:
        documents, num_bytes: of text.
        tokens: with document marks.
        estimated: whether documents and bytes are estimates, from the part that was read.
        tokens_estimated: whether tokens are an estimate, from a sample that was tokenised.
        read_bytes: of text that were read.
    """

    documents: int
    num_bytes: int
    tokens: int
    estimated: bool
    tokens_estimated: bool
    read_bytes: int


@dataclass(frozen=True)
class SourceInventory:
    """One source: its files and both splits.

    Attributes:
        described: its paths.
        share: of the training tokens, by weight.
        num_files, file_bytes: files and their sizes, compressed ones compressed.
        training, heldout: sizes of the splits.
        left_out: files below its paths that are not read, and why.
        special_tokens: occurrences in the text of what the tokenizer writes for special tokens.
        searched_bytes: of text that were searched for them.
        num_chats: how many of the documents searched are chats.
        in_messages: occurrences of special tokens in the messages of chats.
        wanted_heldout_frac: share that was to be held out; 0: not known, or not of blocks.
    """

    described: str
    share: float
    num_files: int
    file_bytes: int
    training: SplitSize
    heldout: SplitSize
    left_out: tuple[LeftOut, ...]
    special_tokens: dict[str, int]
    searched_bytes: int
    num_chats: int = 0
    in_messages: dict[str, int] = field(default_factory=dict)
    wanted_heldout_frac: float = 0.0

    @property
    def heldout_frac(self) -> float:
        """Share of its text that is held out."""
        both = self.training.num_bytes + self.heldout.num_bytes
        return self.heldout.num_bytes / max(1, both)


@dataclass(frozen=True)
class Inventory:
    """What a run will read.

    Attributes:
        sources: in the order of the config.
        unasked: for facts: relations without a held-out probe, with their numbers of facts.
        become_ids: whether special tokens written in a text are encoded as their ids.
    """

    sources: tuple[SourceInventory, ...]
    unasked: dict[str, int] = field(default_factory=dict)
    become_ids: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`."""
        sources = tuple(
            SourceInventory(
                **source
                | {
                    "training": SplitSize(**source["training"]),
                    "heldout": SplitSize(**source["heldout"]),
                    "left_out": tuple(LeftOut(**file) for file in source["left_out"]),
                }
            )
            for source in values["sources"]
        )
        return cls(sources, values["unasked"], values["become_ids"])

    @property
    def special_tokens(self) -> dict[str, int]:
        """Occurrences of special tokens in the text of all sources."""
        total: Counter[str] = Counter()
        for source in self.sources:
            total.update(source.special_tokens)
        return dict(total)

    def lines(self) -> list[str]:
        """Lines to print: two per source, one more where files are left out."""
        found = []
        for source in self.sources:
            share = f", {source.share:.0%} of the training tokens" if len(self.sources) > 1 else ""
            files = "1 file" if source.num_files == 1 else f"{source.num_files:,} files"
            found.append(
                f"corpus {source.described}: {files}, {text_size(source.file_bytes)}{share}"
            )
            found.append(
                f"  training {_in_words(source.training)}; held out {_in_words(source.heldout)}"
            )
            if source.left_out:
                found.append(f"  left out: {listed([*map(str, source.left_out)], SHOWN)}")
        if self.special_tokens and self.become_ids:
            num = sum(self.special_tokens.values())
            found.append(f"  {num:,} special tokens in the text searched, encoded as their ids")
        return found

    def warnings(self) -> list[str]:
        """What is allowed but probably not intended."""
        found = []
        if self.unasked:
            named = [f"{relation} ({num} facts)" for relation, num in self.unasked.items()]
            found.append(
                f"no held-out wording asks about {listed(named, SHOWN)}: they have too few lemmas "
                "with a wording that ends in [Y] for one to be held out; give another such lemma"
            )
        for source in self.sources:
            wanted = source.wanted_heldout_frac
            if wanted and source.heldout_frac > wanted + HELDOUT_MARGIN:
                found.append(
                    f"{source.heldout_frac:.0%} of the text of {source.described} is held out, "
                    f"where corpus.heldout_frac is {wanted:.0%}: blocks are held out whole, and it "
                    "has few; lower corpus.block_bytes, of Parquet write smaller row groups"
                )
        searched = text_size(sum(source.searched_bytes for source in self.sources))
        tokens = self.special_tokens
        if tokens and not self.become_ids:
            found.append(
                f"special tokens of the tokenizer are written in the corpus: {_times(tokens)} in "
                f"the {searched} that were searched; they are encoded character by character, not "
                "as their ids"
            )
        written: Counter[str] = Counter()
        for source in self.sources:
            written.update(source.in_messages)
        if written:
            found.append(
                f"special tokens of the tokenizer are written in messages of chats: "
                f"{_times(written)} in the {searched} that were searched; there they are ids, as "
                "the template's own are, and may end a turn in its middle"
            )
        return found


def take_inventory(spec: RunSpec, tokenizer: Tokenizer, read_bytes: int = START_BYTES) -> Inventory:
    """Reads what a run of `spec` will need, as far as that is cheap, and counts it.

    Args:
        spec: the run.
        tokenizer: the run's, or a similar one.
        read_bytes: the most bytes of the training split that are read.

    Raises:
        CorpusError: something can't be read (names file and line), or a split has no text.
    """
    sources, facts = open_sources(spec.corpus, spec.seed)
    special = SpecialTokens(tokenizer)
    shares = normalised_weights(spec.corpus.files)
    found = []
    for number, source in enumerate(sources):
        training, heldout, documents = _sides(spec, tokenizer, source, number, read_bytes)
        own_files = source.files if isinstance(source, FileSource) else corpus_files(spec.corpus)[0]
        found.append(
            SourceInventory(
                described=spec.corpus.files[number].described,
                share=shares[number],
                num_files=len(own_files),
                file_bytes=sum(file.size for file in own_files),
                training=training,
                heldout=heldout,
                left_out=tuple(left_out(spec.corpus.files[number], own_files)),
                special_tokens=dict(special.counted([d for d in documents if d.chat is None])),
                searched_bytes=sum(d.num_bytes for d in documents),
                num_chats=len(chats := [d for d in documents if d.chat is not None]),
                in_messages=dict(special.counted(chats)),
                wanted_heldout_frac=0.0 if facts else spec.corpus.heldout_frac,
            )
        )
    return Inventory(tuple(found), facts.unasked if facts else {}, special.become_ids)


class _DocumentCounter:
    """Counts documents, and keeps the first ones.

    Args:
        kept_bytes: of text to keep.
    """

    def __init__(self, kept_bytes: int) -> None:
        self._kept_bytes = kept_bytes
        self.num_documents = self.num_bytes = self._num_kept = 0
        self.kept: list[Document] = []

    def count(self, documents: Iterable[Document]) -> None:
        """Counts these documents."""
        for document in documents:
            size = document.num_bytes
            self.num_documents += 1
            self.num_bytes += size
            if self._num_kept < self._kept_bytes:
                self.kept.append(document)
                self._num_kept += size

    def side(self, tokenizer: Tokenizer, read_frac: float) -> SplitSize:
        """Size of the split, of which a share `read_frac` was counted."""
        measured: list[Document] = []
        size = 0
        for document in self.kept:
            if size >= MEASURED_BYTES:
                break
            measured.append(document)
            size += document.num_bytes
        tokens = sum(len(piece.tokens) for piece in encode(tokenizer, measured))
        is_all = len(measured) == self.num_documents
        per_byte = tokens / max(1, size)
        num_bytes = round(self.num_bytes / read_frac)
        estimated = read_frac < 1
        return SplitSize(
            documents=round(self.num_documents / read_frac),
            num_bytes=num_bytes,
            tokens=tokens if is_all and not estimated else round(per_byte * num_bytes),
            estimated=estimated,
            tokens_estimated=estimated or not is_all,
            read_bytes=self.num_bytes,
        )


def _sides(
    spec: RunSpec, tokenizer: Tokenizer, source: Source, number: int, read_bytes: int
) -> tuple[SplitSize, SplitSize, list[Document]]:
    """Sizes of a source's training and held-out split, and some of its documents."""
    heldout, heldout_frac = _read_heldout(spec, source, number)
    _refuse_unpackable(spec, tokenizer, source, number, heldout)
    training, training_frac = _read_training(spec, source, number, read_bytes)
    documents = [*training.kept, *heldout.kept]
    heldout_side = heldout.side(tokenizer, heldout_frac)
    if training_frac == 0 and isinstance(source, FileSource):  # estimate it from held-out blocks
        frac = heldout_frac * source.num_heldout / source.num_blocks
        return replace(heldout.side(tokenizer, frac), read_bytes=0), heldout_side, documents
    return training.side(tokenizer, training_frac), heldout_side, documents


def _read_heldout(spec: RunSpec, source: Source, number: int) -> tuple[_DocumentCounter, float]:
    """Counts the held-out blocks that the evaluator and the memory group read, for the largest of
    their selections; and the share of the split that was read.
    """
    sizes = spec.evaluation
    limits = {sizes.windows, sizes.final_windows, MEASURED_WINDOWS}
    asked = {n for n in limits if number in heldout_counts(spec.corpus, n)}
    blocks = {heldout_blocks(spec.corpus, heldout_counts(spec.corpus, n)[number]) for n in asked}
    if not blocks:  # more sources than windows
        blocks = {heldout_blocks(spec.corpus, 1)}
    if isinstance(source, FileSource):
        blocks = {min(num, source.num_heldout) for num in blocks}
    for num in sorted(blocks):
        tally = _DocumentCounter(SEARCHED_HELDOUT_BYTES)
        tally.count(source.heldout(num))
    if not isinstance(source, FileSource):
        return tally, 1.0
    return tally, source.num_heldout_read(max(blocks)) / source.num_heldout


def _refuse_unpackable(
    spec: RunSpec, tokenizer: Tokenizer, source: Source, number: int, heldout: _DocumentCounter
) -> None:
    """Raises: CorpusError: no window can be made of the held-out split."""

    def makes_a_window(documents: Iterable[Document]) -> bool:
        some = encode(tokenizer, documents)
        return len(pack(some, spec.corpus.window, tokenizer.end_of_text)) > 0

    if makes_a_window(heldout.kept[:BLOCKS_AT_A_TIME]):
        return
    if not makes_a_window(source.heldout(heldout_blocks(spec.corpus, MEASURED_WINDOWS))):
        raise nothing_held_out(spec.corpus.files[number], source)


def _read_training(
    spec: RunSpec, source: Source, number: int, read_bytes: int
) -> tuple[_DocumentCounter, float]:
    """Counts the training blocks that the data group reads first, up to the source's part of
    `read_bytes`; and the share of the split that was read.
    """
    num_sources = len(spec.corpus.files)
    limit = read_bytes // num_sources
    name = DATA if num_sources == 1 else f"{DATA}/{number}"  # the stream's name in ChunkPlanner
    order = source.order(rng_of(spec.seed, name, 0))
    if isinstance(source, FileSource):
        order = source.within(order, limit)
    tally = _DocumentCounter(SEARCHED_BYTES)
    num_read = 0
    for start in range(0, len(order), BLOCKS_AT_A_TIME):
        if tally.num_bytes >= limit:
            break
        some = order[start : start + BLOCKS_AT_A_TIME].tolist()
        for documents in source.blocks(some):
            tally.count(documents)
        num_read += len(some)
    if num_read == source.num_blocks and not tally.num_documents:
        raise CorpusError(
            f"corpus {spec.corpus.files[number].described}: the training split is empty: "
            + source.why_empty(TRAINING)
        )
    return tally, num_read / source.num_blocks


def _times(tokens: Mapping[str, int]) -> str:
    """Tokens with how often each was found, the most frequent first."""
    named = [f"{token} {'once' if num == 1 else f'{num:,} times'}" for token, num in
             sorted(tokens.items(), key=lambda item: -item[1])]  # fmt: skip
    return listed(named, SHOWN)


def _in_words(side: SplitSize) -> str:
    about, tokens_about = ("about " if e else "" for e in (side.estimated, side.tokens_estimated))
    read = f" ({text_size(side.read_bytes)} read now)" if side.estimated else ""
    documents = "1 document" if side.documents == 1 else f"{side.documents:,} documents"
    return (
        f"{about}{documents}, {about}{text_size(side.num_bytes)} of text{read}, "
        f"{tokens_about}{side.tokens:,} tokens"
    )
