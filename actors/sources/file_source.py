"""Documents from files: text by byte ranges, JSON lines, rows of Parquet, in numbered blocks.

    file  ->  spans (unpacked or decoded as a whole)  ->  blocks (about `block_bytes` each)

    text, JSONL       span: the file; any block can be read by itself
    compressed        span: the file; unpacked to local disk when its first block is needed
    Parquet           span: a row group; decoded from its start

One block in every so many is held out. Where any block can be read by itself, an epoch visits them
in random order. Otherwise the spans are shuffled and the blocks of several (16 spans, or more up to
32 MiB) are mixed, so that nothing is unpacked or decoded twice in an epoch and few spans are open.
The number of blocks of a compressed file follows from its packed size, so that opening a corpus
costs a listing (and the footers of Parquet files).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from actors.settings.corpus import CorpusSpec, SourceSpec
from actors.sources.columns import Columns
from actors.sources.documents import TRAINING, Document, Indices, evenly
from actors.sources.lines import (
    HEAD_BYTES,
    line_end,
    lines_between,
    parse_jsonl,
    plain_text,
    text_between,
)
from actors.sources.paths import File, list_files
from actors.sources.row_groups import RowGroupReader
from actors.sources.split import Split
from actors.sources.spool import Spool
from actors.wire import CorpusError

MIXED_SPANS = 16
MIXED_BYTES = 32 << 20
KEPT_GROUP_BYTES = 4 << 20  # row groups up to this are kept whole, larger ones read in order
KEPT_GROUP_ROWS = 1 << 16  # and up to this, since few bytes may be many rows that repeat
PACKED_RATIO = 3  # unpacked bytes per compressed byte, roughly
ROWS_PER_BLOCK = 8192  # at most, where rows are tiny or repeat each other
MOST_BLOCKS = 1 << 26  # the order of an epoch takes 8 bytes per block
SAMPLED_BLOCKS = 256
SAMPLED_SPANS = 4
THREADS = 16
MEASURED_BYTES = 64 << 20  # read of each file for the message about an empty split


@dataclass(frozen=True)
class Sample:
    """Documents from all over the training split, and how many blocks they fill."""

    documents: list[Document]
    num_blocks: float


@dataclass(frozen=True)
class _Spans:
    """All spans of the files, in order; each array has one entry per span."""

    file: Indices
    group: Indices  # number of the row group; -1: a file of text or JSON lines
    rows: Indices
    num_bytes: Indices
    num_blocks: Indices

    @classmethod
    def cut(cls, files: Sequence[File], row_groups: RowGroupReader, block_bytes: int) -> _Spans:
        rows: list[tuple[int, int, int, int, int]] = []
        tables = [i for i, f in enumerate(files) if f.format == "parquet"]
        found = row_groups.of_files([files[i] for i in tables])
        groups = dict(zip(tables, found, strict=True))
        for index, file in enumerate(files):
            if index in groups:
                for number, (num_rows, size) in enumerate(
                    zip(groups[index].rows.tolist(), groups[index].num_bytes.tolist(), strict=True)
                ):
                    least = -(-num_rows // ROWS_PER_BLOCK)
                    blocks = min(max(round(size / block_bytes), least, 1), num_rows)
                    rows.append((index, number, num_rows, size, blocks))
            else:
                size = file.size if file.codec is None else PACKED_RATIO * file.size
                rows.append((index, -1, 0, size, -(-size // block_bytes)))
        table = np.array([row for row in rows if row[4] > 0], np.int64).reshape(-1, 5)
        return cls(*table.T)


class FileSource:
    """The documents in the files of one source.

    Args:
        files_spec: paths, format and columns of the source.
        spec: the corpus.
        seed: of the held-out split.

    Raises:
        CorpusError: a file can't be read, or the blocks are too few or too many.
    """

    def __init__(self, files_spec: SourceSpec, spec: CorpusSpec, seed: int) -> None:
        self._columns = Columns(files_spec.columns, files_spec.row_kind)
        self.described = files_spec.described
        self.files = list_files(files_spec.locations, files_spec.format)
        self._row_groups = RowGroupReader(self._columns)
        self._spool = Spool(spec.spool)
        self._line_ends: dict[str, bytes] = {}
        self._block_bytes = spec.block_bytes
        self._spans = _Spans.cut(self.files, self._row_groups, spec.block_bytes)
        self._ends = np.cumsum(self._spans.num_blocks)  # held-out blocks counted too
        total = int(self._ends[-1]) if len(self._ends) else 0
        self._check(total, spec)
        self._split = Split(total, spec.heldout_frac, seed)
        # spans whose blocks can be read in any order at the same cost
        small = (self._spans.num_bytes <= KEPT_GROUP_BYTES) & (self._spans.rows <= KEPT_GROUP_ROWS)
        self._any_order = small | (self._spans.group < 0)
        apart = [f.format != "parquet" and f.codec is None for f in self.files]
        self._apart = np.array(apart, bool)[self._spans.file]

    def _check(self, total: int, spec: CorpusSpec) -> None:
        if total == 0:
            raise CorpusError(
                f"corpus {self.described}: empty; give at least a few kilobytes of text"
            )
        if total == 1:
            is_row = bool(self._spans.rows[0] == 1)
            size = int(self._spans.num_bytes[0])
            one = f"row of {size:,}" if is_row else f"block of {spec.block_bytes}"
            raise CorpusError(
                f"corpus {self.described}: only one {one} bytes, nothing left to hold out; give "
                + ("more rows" if is_row else "more text or lower corpus.block_bytes")
            )
        if total > MOST_BLOCKS:
            raise CorpusError(
                f"corpus {self.described}: {total:,} blocks of {spec.block_bytes} bytes are more "
                f"than {MOST_BLOCKS:,}; raise corpus.block_bytes"
            )

    @property
    def num_blocks(self) -> int:
        """Training blocks."""
        return self._split.num_training

    def _training(self, indices: Sequence[int]) -> list[int]:
        return [int(b) for b in self._split.training(np.asarray(indices, np.int64))]

    def _span_of(self, blocks: Indices) -> Indices:
        return np.searchsorted(self._ends, blocks, side="right")

    def span(self, index: int) -> int:
        """Number of a training block's span; the block itself where it can be read by itself."""
        span = int(self._span_of(self._split.training(np.array(index))))
        return index if self._apart[span] else span

    def order(self, rng: np.random.Generator) -> Indices:
        """Every training block once, shuffled as far as the module docstring describes."""
        if self._apart.all():
            return rng.permutation(self.num_blocks)
        ends = self._ends - self._split.num_heldout_before(self._ends)
        starts = np.concatenate([[0], ends[:-1]])
        ordered: list[Indices] = []
        for group in self._mixed_together(rng.permutation(len(ends))):
            blocks = np.concatenate([np.arange(starts[s], ends[s]) for s in group])
            mixed = rng.permutation(blocks)
            # Where a span has to be read in order, its blocks are sorted among the positions that
            # the shuffle gave them.
            span = np.searchsorted(ends, mixed, side="right")  # among training blocks
            positions = np.lexsort((np.arange(len(mixed)), span))
            in_order = np.empty_like(mixed)
            in_order[positions] = np.sort(mixed)
            ordered.append(np.where(self._any_order[span], mixed, in_order))
        return np.concatenate(ordered)

    def _mixed_together(self, spans: Indices) -> Iterator[list[int]]:
        group: list[int] = []
        num_bytes = 0
        for span in spans.tolist():
            group.append(span)
            num_bytes += int(self._spans.num_bytes[span])
            if len(group) >= MIXED_SPANS and num_bytes >= MIXED_BYTES:
                yield group
                group, num_bytes = [], 0
        if group:
            yield group

    def within(self, order: Indices, limit_bytes: int) -> Indices:
        """The first training blocks of `order`, about `limit_bytes` of them, at the least cost.

        Spans that are unpacked or decoded as a whole count as a whole, as many as fit. A larger row
        group contributes its beginning, a larger compressed file nothing.
        """
        if self._apart.all():
            return order[: limit_bytes // self._block_bytes]
        spans = self._span_of(self._split.training(order))
        found, first, counts = np.unique(spans, return_index=True, return_counts=True)
        of_span = np.split(order[np.argsort(spans, kind="stable")], np.cumsum(counts)[:-1])
        chosen: list[Indices] = []
        left = limit_bytes
        for number in np.argsort(first).tolist():
            span, blocks = int(found[number]), of_span[number]
            size = int(self._spans.num_bytes[span])
            is_packed = self._spans.group[span] < 0 and not self._apart[span]
            if left > 0 and not (is_packed and size > left):
                chosen.append(blocks if size <= left else blocks[: len(blocks) * left // size])
                left -= min(size, left)
        return np.concatenate(chosen) if chosen else order[:0]

    @property
    def num_heldout(self) -> int:
        """Held-out blocks."""
        return len(self._split.heldout())

    def num_heldout_read(self, num_blocks: int) -> int:
        """How many held-out blocks `heldout(num_blocks)` reads."""
        return len(self._spread(self._split.heldout(), num_blocks))

    def block(self, index: int) -> list[Document]:
        """The documents of one training block; a block of text is one document."""
        return self._read(self._training([index])[0])[0]

    def blocks(self, indices: Sequence[int]) -> list[list[Document]]:
        """The documents of several training blocks; remote ones are read in parallel."""
        return [documents for documents, _ in self._read_all(self._training(indices))]

    def heldout(self, num_blocks: int | None = None) -> Iterator[Document]:
        """The held-out documents, in order.

        Where there are more than `num_blocks` blocks, that many spread over all files; over 16
        spans where spans have to be unpacked or decoded as a whole.
        """
        chosen = self._spread(self._split.heldout(), num_blocks)
        for start in range(0, len(chosen), THREADS):
            for documents, _ in self._read_all(chosen[start : start + THREADS].tolist()):
                yield from documents

    def why_empty(self, split: str) -> str:
        """Says that no row begins in the blocks of the split, or that their text is blank."""
        total = int(self._ends[-1])
        num = self.num_blocks if split == TRAINING else total - self.num_blocks
        blocks = f"{num:,} of {total:,} blocks of {self._block_bytes:,} bytes"
        more_held_out = "" if split == TRAINING else ", or raise corpus.heldout_frac"
        if all(file.format == "text" for file in self.files):
            return f"its {blocks} hold nothing but white space; give more text{more_held_out}"
        tables = [i for i, file in enumerate(self.files) if file.format == "parquet"]
        rows, longest = int(self._spans.rows[np.isin(self._spans.file, tables)].sum()), 0
        for file in self.files:
            if file.format != "parquet":
                num_lines, length = self._measure_lines(file)
                rows, longest = rows + num_lines, max(longest, length)
        of_bytes = f", the longest of {longest:,} bytes," if longest else ""
        return (
            f"{rows:,} row(s){of_bytes} leave its {blocks} without text: a row belongs whole to "
            "the block in which it begins, and one whose text is null or blank is left out; give "
            f"more and shorter rows{more_held_out}"
        )

    def _measure_lines(self, file: File) -> tuple[int, int]:
        """Number of lines that are not blank, and bytes of the longest; only the beginning of a
        large file is measured.
        """
        size, read = file.size, file.read
        if file.codec is not None:
            size, read = self._spool.size(file), partial(self._spool.read, file)
        lines = read(0, min(size, MEASURED_BYTES)).split(self._line_end(file, read, size))
        return sum(bool(line.strip()) for line in lines), max(map(len, lines))

    def _spread(self, blocks: Indices, num: int | None) -> Indices:
        if num is None or len(blocks) <= num:
            return blocks
        if not self._apart.all():
            span = self._span_of(blocks)
            present = np.unique(span)
            blocks = blocks[np.isin(span, present[evenly(len(present), MIXED_SPANS)])]
        return blocks[evenly(len(blocks), num)]

    def sample(self) -> Sample:
        """Training documents for estimates of number and length over the whole split."""
        if self._apart.all():
            blocks = self._split.training(evenly(self.num_blocks, SAMPLED_BLOCKS))
        else:  # the first blocks of a few spans
            spans = evenly(len(self._ends), SAMPLED_SPANS)
            starts = self._ends[spans] - self._spans.num_blocks[spans]
            ends = np.minimum(self._ends[spans], starts + SAMPLED_BLOCKS // len(spans))
            blocks = np.concatenate([np.arange(a, b) for a, b in zip(starts, ends, strict=True)])
            blocks = blocks[~self._split.is_heldout(blocks)]
        read = self._read_all(blocks.tolist())
        return Sample([d for documents, _ in read for d in documents], sum(n for _, n in read))

    # Reading

    def _read_all(self, blocks: Sequence[int]) -> list[tuple[list[Document], float]]:
        if len(blocks) > 1 and self._apart.all() and not self.files[0].local:
            with ThreadPoolExecutor(THREADS) as pool:
                return list(pool.map(self._read, blocks))
        return [self._read(block) for block in blocks]

    def _read(self, block: int) -> tuple[list[Document], float]:
        """The documents of a block, and its size relative to a mean block."""
        span = int(self._span_of(np.array(block)))
        file = self.files[self._spans.file[span]]
        num = int(self._spans.num_blocks[span])
        number = block - int(self._ends[span]) + num
        if self._spans.group[span] >= 0:
            return self._read_rows(span, file, number, num), 1.0
        size, step = file.size, self._block_bytes
        read: Callable[[int, int], bytes] = file.read
        if file.codec is None:
            start, stop, longest = number * step, min((number + 1) * step, size), step
        else:
            size = self._spool.size(file)
            start, stop = number * size // num, (number + 1) * size // num
            longest = max(1, min(step, size // num))
            read = partial(self._spool.read, file)
        if start == stop:
            return [], 0.0
        newline = self._line_end(file, read, size)
        if file.format == "jsonl":
            begin, raw = lines_between(file.path, read, size, start, stop, newline)
            rows = parse_jsonl(file, self._columns, raw, begin, read, newline)
            return rows, len(raw) * num / size
        begin, raw = text_between(read, size, start, stop, longest, newline)
        text = plain_text(file.path, raw, begin)
        return [Document(text)] if text.strip() else [], len(raw) * num / size

    def _line_end(self, file: File, read: Callable[[int, int], bytes], size: int) -> bytes:
        if file.path not in self._line_ends:
            self._line_ends[file.path] = line_end(read(0, min(size, HEAD_BYTES)))
        return self._line_ends[file.path]

    def _read_rows(self, span: int, file: File, number: int, num: int) -> list[Document]:
        rows = int(self._spans.rows[span])
        start, stop = number * rows // num, (number + 1) * rows // num
        kept = bool(self._any_order[span])
        read = self._row_groups.slice_kept if kept else self._row_groups.slice
        return read(file, int(self._spans.group[span]), start, stop)
