"""Rows of Parquet files by row group: footers first, then slices of the chosen columns, in order.

A row group can only be decoded from its start, so a slice continues where an earlier one ended
whenever that is possible; a few row groups stay open for it, each with a batch of rows and a
buffer.
"""

from __future__ import annotations

import io
import struct
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from actors.sources.columns import LIST, TEXT, Columns, no_column, wrong_type
from actors.sources.documents import Document, Indices
from actors.sources.paths import File, reading
from actors.wire import CorpusError

FOOTER_BYTES = 64 << 10  # read from the end of each file; a larger footer needs a second request
READ_BYTES = 1 << 20  # of a column at a time
OPEN_ROW_GROUPS = 50
OPEN_FOOTERS = 64
KEPT_BYTES = 192 << 20  # of decoded small row groups
THREADS = 16


@dataclass(frozen=True)
class RowGroupSizes:
    """Size of each row group of one file: rows, and bytes of the chosen columns, uncompressed."""

    rows: Indices
    num_bytes: Indices


@dataclass
class _OpenRowGroup:
    """A row group that has been decoded up to `row`."""

    batches: Iterator[Any]
    row: int = 0
    rest: Any = None  # the rows of the last batch that are still to be read


class RowGroupReader:
    """Reads slices of row groups.

    Args:
        columns: whose values make documents.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._footers: OrderedDict[str, pq.FileMetaData] = OrderedDict()
        self._open_groups: OrderedDict[tuple[str, int, int], _OpenRowGroup] = OrderedDict()
        self._tables: OrderedDict[tuple[str, int], Any] = OrderedDict()

    def of_files(self, files: Sequence[File]) -> list[RowGroupSizes]:
        """Sizes of the row groups of each file, from the footers alone.

        Raises:
            CorpusError: a file is not Parquet or truncated, has no such column, or one that holds
                no text.
        """
        if len(files) < 2 or files[0].local:
            return [self._groups(file) for file in files]
        with ThreadPoolExecutor(THREADS) as pool:
            return [*pool.map(self._groups, files)]

    def slice(self, file: File, group: int, start: int, stop: int) -> list[Document]:
        """The documents in rows [start, stop) of a row group, decoded up to there."""
        with reading(file.path, f"row group {group} can't be read"):
            reader = self._nearest(file, group, start, stop - start)
            parts = []
            while reader.row < stop:
                if reader.rest is None or not reader.rest.num_rows:
                    reader.rest = next(reader.batches)
                num = min(stop - reader.row, reader.rest.num_rows)
                skip = min(max(0, start - reader.row), num)
                parts.append(reader.rest.slice(skip, num - skip))
                reader.rest = reader.rest.slice(num)
                reader.row += num
        self._open_groups[file.path, group, stop] = reader
        while len(self._open_groups) > OPEN_ROW_GROUPS:
            self._open_groups.popitem(last=False)
        documents = []
        for part in parts:
            documents += self._documents(part, file, group, start)
            start += part.num_rows
        return documents

    def slice_kept(self, file: File, group: int, start: int, stop: int) -> list[Document]:
        """As `slice`, for a small row group, which is kept decoded for later slices."""
        key = (file.path, group)
        if key not in self._tables:
            with reading(file.path, f"row group {group} can't be read"):
                self._tables[key] = self._open(file).read_row_group(
                    group, columns=[*self._columns.names], use_threads=False
                )
            while sum(t.nbytes for t in self._tables.values()) > KEPT_BYTES:
                if len(self._tables) == 1:
                    break
                self._tables.popitem(last=False)
        self._tables.move_to_end(key)
        return self._documents(self._tables[key].slice(start, stop - start), file, group, start)

    def _nearest(self, file: File, group: int, start: int, step: int) -> _OpenRowGroup:
        """The row group, opened at the nearest row before `start`, or anew."""
        near = [
            key for key in self._open_groups if key[:2] == (file.path, group) and key[2] <= start
        ]
        if near:
            return self._open_groups.pop(max(near))
        return _OpenRowGroup(
            self._open(file).iter_batches(
                batch_size=step,
                row_groups=[group],
                columns=[*self._columns.names],
                use_threads=False,
            )
        )

    def _open(self, file: File) -> pq.ParquetFile:
        footer = self._footers.get(file.path) or _read_footer(file)
        self._footers[file.path] = footer
        self._footers.move_to_end(file.path)
        while len(self._footers) > OPEN_FOOTERS:
            self._footers.popitem(last=False)
        source = file.key if file.local else pa.PythonFile(_Remote(file), mode="r")
        return pq.ParquetFile(source, metadata=footer, buffer_size=READ_BYTES, pre_buffer=False)

    def _documents(self, rows: Any, file: File, group: int, start: int) -> list[Document]:
        try:
            columns = [rows.column(name).to_pylist() for name in self._columns.names]
        except UnicodeDecodeError as err:
            raise CorpusError(
                f"corpus file {file.path}: row group {group}, near row {start}: not UTF-8 "
                f"({err.reason})"
            ) from err

        def place(number: int) -> str:
            return f"corpus file {file.path}, row {number} of row group {group}"

        return [
            document
            for number, values in enumerate(zip(*columns, strict=True), start=start)
            for document in self._columns.documents(values, partial(place, number))
        ]

    def _groups(self, file: File) -> RowGroupSizes:
        footer = _read_footer(file)
        schema = footer.schema.to_arrow_schema()
        for column in self._columns.names:
            if column not in schema.names:
                then = self._columns.if_missing
                raise no_column(f"corpus file {file.path}", column, schema.names, then)
            if (num := schema.names.count(column)) > 1:
                raise CorpusError(
                    f"corpus file {file.path}: {num} columns are named {column}, expected one; "
                    "rename the others, or choose another column"
                )
            kind = schema.field(column).type
            if pa.types.is_dictionary(kind):
                kind = kind.value_type
            expected = self._columns.holds(column)
            if not pa.types.is_null(kind) and _held(kind) not in expected:
                raise wrong_type(f"corpus file {file.path}", column, str(kind), expected)
        # By path, a leaf `my.text` may be a column or the field `text` of `my`; by position not.
        ends = np.cumsum([0, *(_num_leaves(field.type) for field in schema)])
        numbers = [schema.names.index(column) for column in self._columns.names]
        leaves = [leaf for n in numbers for leaf in range(int(ends[n]), int(ends[n + 1]))]
        groups = [footer.row_group(group) for group in range(footer.num_row_groups)]
        return RowGroupSizes(
            np.array([g.num_rows for g in groups], np.int64),
            np.array(
                [sum(g.column(leaf).total_uncompressed_size for leaf in leaves) for g in groups],
                np.int64,
            ),
        )


def column_names(file: File) -> list[str]:
    """The columns of a file, from its footer alone.

    Raises:
        CorpusError: it is no Parquet file, or truncated.
    """
    return list(_read_footer(file).schema.to_arrow_schema().names)


def _read_footer(file: File) -> pq.FileMetaData:
    if file.size == 0:
        raise CorpusError(
            f"corpus file {file.path}: empty, not even a Parquet footer in it; "
            "fetch it again, or take it out of the corpus"
        )
    with reading(file.path, "not a whole Parquet file (truncated, or of another format)"):
        start = max(0, file.size - FOOTER_BYTES)
        tail = file.read(start, file.size)
        length = struct.unpack("<I", tail[-8:-4])[0] + 8 if len(tail) >= 8 else 0
        if tail.endswith(b"PAR1") and len(tail) < length <= file.size:
            tail = file.read(file.size - length, file.size)
        return pq.read_metadata(pa.BufferReader(tail))


def _held(kind: Any) -> str | None:
    """What a column of this type holds; None: neither text nor lists."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return TEXT
    return LIST if pa.types.is_list(kind) or pa.types.is_large_list(kind) else None


def _num_leaves(kind: Any) -> int:
    """Number of leaf columns that Parquet stores for a column of this type."""
    if isinstance(kind, pa.BaseExtensionType):
        return _num_leaves(kind.storage_type)
    if pa.types.is_nested(kind):
        return sum(_num_leaves(kind.field(number).type) for number in range(kind.num_fields))
    return 1


class _Remote(io.RawIOBase):
    """A remote file for pyarrow; each read is one request."""

    def __init__(self, file: File) -> None:
        super().__init__()
        self._file = file
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._file.size - self._at)
        wanted = left if size is None or size < 0 else min(size, left)
        raw = self._file.read(self._at, self._at + wanted) if wanted else b""
        self._at += len(raw)
        return raw

    def readall(self) -> bytes:
        return self.read()
