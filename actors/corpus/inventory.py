"""What a run will read, looked at before it starts: how much there is of it, source by source.

Reads every held-out block that an evaluation will ask for, and of the training split as much as is
cheap, so that a record that can't be read is named at the start and not at the run's end. What is
not read is estimated, and marked so. Called by the driver and by `jobs.check.corpus`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from actors.corpus.corpus import (
    MEASURED_BYTES,
    MEASURED_WINDOWS,
    heldout_blocks,
    heldout_counts,
    normalised_weights,
    nothing_held_out,
)
from actors.corpus.draw import rng_of
from actors.corpus.reader import encode
from actors.corpus.windows import pack
from actors.formats import text_size
from actors.settings.run import DATA, RunSpec
from actors.sources.corpus_files import LeftOut, corpus_files, left_out
from actors.sources.documents import TRAINING, Document, Source
from actors.sources.file_source import FileSource
from actors.sources.named import open_sources
from actors.tokenizers.tokenizer import Tokenizer
from actors.wire import CorpusError

# Of the training split, over all sources; a smaller one is read whole. One core reads 60 to 100 MiB
# of JSON lines a second.
START_BYTES = 64 << 20
CHECK_BYTES = 256 << 20
BLOCKS_AT_A_TIME = 16
SEARCHED_BYTES = 8 << 20  # of a source, in which special tokens are looked for
SEARCHED_HELDOUT_BYTES = 1 << 20  # and so much of its held-out split
SHOWN = 5  # files, relations or tokens that a line names


@dataclass(frozen=True)
class Side:
    """Training or held-out split of one source.

    Attributes:
        documents, num_bytes: of text; `estimated` where only a part was read.
        tokens: with document marks; `tokens_estimated` where only a sample was tokenised.
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
    """One source: its files and both sides of its split.

    Attributes:
        described: its paths.
        share: of the training tokens, by weight.
        num_files, file_bytes: as they lie there, packed ones packed.
        training, heldout: what is in them.
        left_out: files below its paths that are not read, and why.
        special_tokens: how often special tokens of the tokenizer stand in the text, as text.
        searched_bytes: of text in which these were looked for.
    """

    described: str
    share: float
    num_files: int
    file_bytes: int
    training: Side
    heldout: Side
    left_out: tuple[LeftOut, ...]
    special_tokens: dict[str, int]
    searched_bytes: int


@dataclass(frozen=True)
class Inventory:
    """What a run will read.

    Attributes:
        sources: by source, in the order of the config.
        unasked: facts alone: relations that no held-out wording asks about, with their facts.
        become_ids: whether special tokens that stand in a text are encoded as their ids.
    """

    sources: tuple[SourceInventory, ...]
    unasked: dict[str, int] = field(default_factory=dict)
    become_ids: bool = False

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Takes back what `as_dict` gave."""
        sources = tuple(
            SourceInventory(
                **source
                | {
                    "training": Side(**source["training"]),
                    "heldout": Side(**source["heldout"]),
                    "left_out": tuple(LeftOut(**file) for file in source["left_out"]),
                }
            )
            for source in values["sources"]
        )
        return cls(sources, values["unasked"], values["become_ids"])

    @property
    def special_tokens(self) -> dict[str, int]:
        """Special tokens in the text of all sources."""
        total: Counter[str] = Counter()
        for source in self.sources:
            total.update(source.special_tokens)
        return dict(total)

    def lines(self) -> list[str]:
        """For people: two lines a source, and one where files are left out."""
        found = []
        for source in self.sources:
            share = f", {source.share:.0%} of the training tokens" if len(self.sources) > 1 else ""
            files = "1 file" if source.num_files == 1 else f"{source.num_files:,} files"
            found.append(
                f"corpus {source.described}: {files}, {text_size(source.file_bytes)}{share}"
            )
            found.append(f"  training {_said(source.training)}; held out {_said(source.heldout)}")
            if source.left_out:
                found.append(f"  left out: {_shown([str(file) for file in source.left_out])}")
        if self.special_tokens and self.become_ids:
            num = sum(self.special_tokens.values())
            found.append(f"  {num:,} special tokens in the text searched, encoded as their ids")
        return found

    def warnings(self) -> list[str]:
        """What is not wrong and yet unlikely to be wanted."""
        found = []
        if self.unasked:
            named = [f"{relation} ({num} facts)" for relation, num in self.unasked.items()]
            found.append(
                f"no held-out wording asks about {_shown(named)}: with too few lemmas that can be "
                "asked, all of theirs are trained on; give another lemma with a wording that ends "
                "in [Y]"
            )
        tokens = self.special_tokens
        if tokens and not self.become_ids:
            named = [f"{token} {num:,} times" for token, num in
                     sorted(tokens.items(), key=lambda item: -item[1])]  # fmt: skip
            searched = sum(source.searched_bytes for source in self.sources)
            found.append(
                f"special tokens of the tokenizer stand in the corpus: {_shown(named)} in the "
                f"{text_size(searched)} that were searched; they are encoded as the characters "
                "that they are written with, not as their ids"
            )
        return found


def take_inventory(spec: RunSpec, tokenizer: Tokenizer, read_bytes: int = START_BYTES) -> Inventory:
    """Reads what a run of `spec` will certainly need, as far as that is cheap, and counts it.

    Args:
        spec: the run.
        tokenizer: its own, or one like it.
        read_bytes: of the training split, at most.

    Raises:
        CorpusError: with file and line, where something can't be read; a split without text.
    """
    sources, facts = open_sources(spec.corpus, spec.seed)
    files = corpus_files(spec.corpus)
    special = _SpecialTokens(tokenizer)
    shares = normalised_weights(spec.corpus.files)
    found = []
    for number, source in enumerate(sources):
        training, heldout, documents = _sides(spec, tokenizer, source, number, read_bytes)
        mine = files[number]
        found.append(
            SourceInventory(
                described=spec.corpus.files[number].described,
                share=shares[number],
                num_files=len(mine),
                file_bytes=sum(file.size for file in mine),
                training=training,
                heldout=heldout,
                left_out=tuple(left_out(spec.corpus.files[number], mine)),
                special_tokens=dict(special.counted(documents)),
                searched_bytes=sum(d.num_bytes for d in documents),
            )
        )
    return Inventory(tuple(found), facts.unasked if facts else {}, special.become_ids)


class _Tally:
    """Counts documents as they pass, and keeps the first ones.

    Args:
        kept_bytes: of text that are kept.
    """

    def __init__(self, kept_bytes: int) -> None:
        self._kept_bytes = kept_bytes
        self.num_documents = self.num_bytes = self._num_kept = 0
        self.kept: list[Document] = []

    def count(self, documents: Iterable[Document]) -> None:
        """Takes note of the documents."""
        for document in documents:
            size = document.num_bytes
            self.num_documents += 1
            self.num_bytes += size
            if self._num_kept < self._kept_bytes:
                self.kept.append(document)
                self._num_kept += size

    def side(self, tokenizer: Tokenizer, read_frac: float) -> Side:
        """What was counted, as the whole of which `read_frac` was read."""
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
        return Side(
            documents=round(self.num_documents / read_frac),
            num_bytes=num_bytes,
            tokens=tokens if is_all and not estimated else round(per_byte * num_bytes),
            estimated=estimated,
            tokens_estimated=estimated or not is_all,
            read_bytes=self.num_bytes,
        )


def _sides(
    spec: RunSpec, tokenizer: Tokenizer, source: Source, number: int, read_bytes: int
) -> tuple[Side, Side, list[Document]]:
    """Training and held-out side of a source, and some of its documents."""
    heldout, heldout_frac = _read_heldout(spec, source, number)
    _refuse_unpackable(spec, tokenizer, source, number, heldout)
    training, training_frac = _read_training(spec, source, number, read_bytes)
    documents = [*training.kept, *heldout.kept]
    here = heldout.side(tokenizer, heldout_frac)
    if training_frac == 0 and isinstance(source, FileSource):  # a block there is like one here
        frac = heldout_frac * source.num_heldout / source.num_blocks
        return replace(heldout.side(tokenizer, frac), read_bytes=0), here, documents
    return training.side(tokenizer, training_frac), here, documents


def _read_heldout(spec: RunSpec, source: Source, number: int) -> tuple[_Tally, float]:
    """Every held-out block that the evaluator or the memory group reads; of several choices of
    blocks the largest is what counts.
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
        tally = _Tally(SEARCHED_HELDOUT_BYTES)
        tally.count(source.heldout(num))
    if not isinstance(source, FileSource):
        return tally, 1.0
    return tally, source.num_heldout_read(max(blocks)) / source.num_heldout


def _refuse_unpackable(
    spec: RunSpec, tokenizer: Tokenizer, source: Source, number: int, heldout: _Tally
) -> None:
    """Raises: CorpusError where nothing of the held-out split makes a window."""

    def makes_a_window(documents: Iterable[Document]) -> bool:
        some = encode(tokenizer, documents)
        return len(pack(some, spec.corpus.window, tokenizer.end_of_text)) > 0

    if makes_a_window(heldout.kept[:BLOCKS_AT_A_TIME]):
        return
    if not makes_a_window(source.heldout(heldout_blocks(spec.corpus, MEASURED_WINDOWS))):
        raise nothing_held_out(spec.corpus.files[number], source)


def _read_training(
    spec: RunSpec, source: Source, number: int, read_bytes: int
) -> tuple[_Tally, float]:
    """The training blocks that the data group reads first, up to the source's part of `read_bytes`;
    and the share of all blocks that they are.
    """
    num_sources = len(spec.corpus.files)
    limit = read_bytes // num_sources
    name = DATA if num_sources == 1 else f"{DATA}/{number}"  # as `Draw` orders them
    order = source.order(rng_of(spec.seed, name, 0))
    if isinstance(source, FileSource):
        order = source.within(order, limit)
    tally = _Tally(SEARCHED_BYTES)
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


class _SpecialTokens:
    """Looks for the special tokens of a tokenizer in text.

    Attributes:
        become_ids: whether such text is encoded as their ids.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        added = json.loads(tokenizer.to_json()).get("added_tokens", [])
        special = {t["content"]: t["id"] for t in added if t["special"] and t["content"].strip()}
        by_length = sorted(special, key=len, reverse=True)  # the longest first, as it is encoded
        self._pattern = re.compile("|".join(map(re.escape, by_length))) if by_length else None
        self.become_ids = any(i in tokenizer.encode(f"a{t}") for t, i in special.items())

    def counted(self, documents: Sequence[Document]) -> Counter[str]:
        """How often each stands in the documents."""
        if self._pattern is None:
            return Counter()
        return Counter(self._found(documents))

    def _found(self, documents: Sequence[Document]) -> Iterator[str]:
        assert self._pattern is not None
        for document in documents:
            yield from self._pattern.findall(document.given)
            yield from self._pattern.findall(document.text)


def _said(side: Side) -> str:
    about, tokens_about = ("about " if e else "" for e in (side.estimated, side.tokens_estimated))
    read = f" ({text_size(side.read_bytes)} read now)" if side.estimated else ""
    documents = "1 document" if side.documents == 1 else f"{side.documents:,} documents"
    return (
        f"{about}{documents}, {about}{text_size(side.num_bytes)} of text{read}, "
        f"{tokens_about}{side.tokens:,} tokens"
    )


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
