"""Lines of a file by byte ranges, and the documents in them. Each line belongs to one range.

A line of text that is longer than a block is cut at the end of the block, at white space if there
is some: otherwise one long line would be one block, and the blocks that it covers would be empty. A
JSON line is one document and is never cut.

Works on anything that is read by byte positions: local files, remote ones, unpacked ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from actors.sources import text_file
from actors.sources.columns import LIST, TEXT, Columns, no_column, wrong_type
from actors.sources.documents import Document
from actors.sources.paths import File
from actors.sources.text_file import BYTE_ORDER_MARK, EncodingError
from actors.wire import CorpusError

SLACK_BYTES = 4096  # read beyond a range, so that its last line rarely needs a second request
MORE_BYTES = 64 << 10  # of the second request; doubled for each further one
LONGEST_LINE_BYTES = 64 << 20
COUNTED_BYTES = 1 << 30  # up to here a message gives the number of a line, beyond it the byte
HEAD_BYTES = 64 << 10  # of a file, from which its line ends are recognised
SPACE_DIVISOR = 8  # white space is looked for in this part (an eighth) of a block
WHITE = re.compile(rb"[ \t\r\n\f\v]")
MARK = BYTE_ORDER_MARK.encode()
CHARACTER = re.compile(rb"[\x00-\x7f\xc0-\xff]")  # a byte that begins one in UTF-8

Read = Callable[[int, int], bytes]


def line_end(head: bytes) -> bytes:
    """Line end of a file with this beginning: a carriage return if it has no line feed."""
    # The last byte is left out: it may be the first half of CR LF.
    return b"\r" if b"\r" in head[:-1] and b"\n" not in head else b"\n"


def lines_between(
    path: str, read: Read, size: int, start: int, stop: int, newline: bytes = b"\n"
) -> tuple[int, bytes]:
    """Position of the first line that begins in [start, stop), and the bytes of all such lines.

    Raises:
        CorpusError: a line is longer than 64 MiB.
    """
    first = max(start - 1, 0)
    raw = read(first, min(stop + SLACK_BYTES, size))
    begin = first
    if start > 0:
        begin = first + raw.find(newline) + 1
        if begin == first or begin >= stop:
            return stop, b""  # an earlier line covers the whole range
        raw = raw[begin - first :]
    searched = stop - 1 - begin
    more = MORE_BYTES
    while (end := raw.find(newline, searched)) < 0 and begin + len(raw) < size:
        if len(raw) > LONGEST_LINE_BYTES + (stop - start):
            raise CorpusError(
                f"corpus file {path}: a line near byte {stop} is longer than "
                f"{LONGEST_LINE_BYTES >> 20} MiB; break it into lines"
            )
        searched, at = len(raw), begin + len(raw)
        raw += read(at, min(at + more, size))
        more *= 2
    return begin, raw if end < 0 else raw[: end + 1]


def text_between(
    read: Read, size: int, start: int, stop: int, limit: int, newline: bytes = b"\n"
) -> tuple[int, bytes]:
    """As `lines_between`, for text: lines longer than `limit` bytes are cut."""
    first = max(start - 1, 0)
    near = _Part(read, first, read(first, min(stop + SLACK_BYTES, size)))
    begin = _cut(near, size, start, limit, newline)
    end = _cut(near, size, stop, limit, newline)
    return (begin, near.between(begin, end)) if begin < end else (stop, b"")


class _Part:
    """Bytes of a file from `begin` on; reads more when a range ends beyond them."""

    def __init__(self, read: Read, begin: int, raw: bytes) -> None:
        self._read, self._begin, self._raw = read, begin, raw

    def between(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop)."""
        if stop > (end := self._begin + len(self._raw)):
            self._raw += self._read(end, stop)
        return self._raw[start - self._begin : stop - self._begin]

    def line_begins(self, start: int, stop: int, newline: bytes) -> bool:
        """Whether a line ends in [start, stop), which may begin before what was read."""
        early = self._read(start, min(stop, self._begin)) if start < self._begin else b""
        late = self.between(self._begin, stop)[max(0, start - self._begin) :]
        return newline in early or newline in late


def _cut(near: _Part, size: int, at: int, limit: int, newline: bytes) -> int:
    """First position, from byte `at` on, at which text may be cut. Depends on the file alone, so
    that the range before ends there too; grows with `at`.
    """
    if at in (0, size):
        return at
    found = near.between(at - 1, min(at - 1 + SLACK_BYTES, size)).find(newline)
    if found < 0:
        found = near.between(at - 1, min(at + limit, size)).find(newline)
    if found < 0 and at + limit < size:
        return _space(near, size, at, limit)
    end = size if found < 0 else at + found
    # The line goes on for `end - at` bytes. A short rest of a long line is not cut off, unless
    # the last range of the file would get nothing.
    if end == at or (end - at <= limit // SPACE_DIVISOR and end < size) or end <= limit:
        return end
    if near.line_begins(end - limit - 1, at - 1, newline):
        return end
    return _space(near, end, at, limit)


def _space(near: _Part, end: int, at: int, limit: int) -> int:
    """The first position from `at` on, before `end`, that follows white space; without any, the
    first that begins a character.
    """
    raw = near.between(at - 1, min(at + limit // SPACE_DIVISOR, end - 1))
    if white := WHITE.search(raw):
        return at + white.start()
    character = CHARACTER.search(raw, 1)
    return at if character is None else at - 1 + character.start()


def decode(path: str, raw: bytes, begin: int) -> str:
    """The text of `raw`, which begins at byte `begin`.

    Raises:
        CorpusError: it is not UTF-8.
    """
    try:
        return text_file.decode(raw, begin)
    except EncodingError as err:
        raise CorpusError(f"corpus file {path}: {err}") from err


def plain_text(path: str, raw: bytes, begin: int) -> str:
    """The text of `raw` without byte order marks: that of the file, and those of files that were
    joined to it.

    Raises:
        CorpusError: as `decode`.
    """
    text = decode(path, raw, begin)
    return re.sub(rf"(\A|(?<=[\r\n])){BYTE_ORDER_MARK}", "", text) if MARK in raw else text


def parse_jsonl(
    file: File,
    columns: Columns,
    raw: bytes,
    begin: int,
    read: Read,
    newline: bytes = b"\n",
) -> list[Document]:
    """The documents of JSON lines; a line whose columns are null or blank gives none.

    Args:
        file: for messages.
        columns: those that are read.
        raw, begin: the lines, and the byte at which they start.
        read: reads the file; used to count the lines before a malformed one.
        newline: what ends the file's lines.

    Raises:
        CorpusError: with line or byte, where a line is not a JSON object with the columns, each
            null or what it should hold.
    """
    documents = []
    at = begin
    for line in re.split(rb"[\r\n]", raw) if newline == b"\r" else raw.split(b"\n"):
        documents += _parse_line(file, columns, line, at, read, newline)
        at += len(line) + 1
    return documents


def _parse_line(
    file: File, columns: Columns, line: bytes, at: int, read: Read, newline: bytes
) -> list[Document]:
    text = decode(file.path, line, at).removeprefix(BYTE_ORDER_MARK)
    if not text.strip():
        return []

    def where() -> str:
        return f"corpus file {file.path}, {_place(at, read, newline)}"

    try:
        row = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as err:
        problem = (
            f"{err.msg} at column {err.colno}"
            if isinstance(err, json.JSONDecodeError)
            else ("nested too deeply")
        )
        hint = "; each line must be one object" if text.lstrip()[:1] == "[" else ""
        if "\r" in text.rstrip():
            hint = "; it holds carriage returns: end every line of the file alike"
        raise CorpusError(f"{where()}: not JSON: {problem}{hint}") from err
    if not isinstance(row, dict):
        raise CorpusError(
            f"{where()}: expected an object with {', '.join(columns.names)}, "
            f"got {type(row).__name__}; each line must be one object"
        )
    values: list[Any] = []
    for column in columns.names:
        if column not in row and not columns.is_optional(column):
            raise no_column(where(), column, list(row), columns.if_missing)
        value, expected = row.get(column), columns.holds(column)
        kind = TEXT if isinstance(value, str) else LIST if isinstance(value, list) else None
        if value is not None and kind not in expected:
            got = f"{type(value).__name__} {json.dumps(value)[:40]}"
            raise wrong_type(where(), column, got, expected)
        if "\\u" in text:  # the only way in which JSON can hold what UTF-8 can't
            _check_unicode(value, column, where)
        values.append(value)
    return columns.documents(values, where)


def _check_unicode(value: object, column: str, where: Callable[[], str]) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as err:
        raise CorpusError(
            f"{where()}: half a surrogate pair in column {column}, expected valid Unicode; "
            "write the text again as UTF-8"
        ) from err


def _place(at: int, read: Read, newline: bytes) -> str:
    """For messages: the number of the line that begins at byte `at`, or that byte far into a
    large file.
    """
    if at > COUNTED_BYTES:
        return f"byte {at}"
    number, step = 1, 1 << 22
    for start in range(0, at, step):
        number += read(start, min(start + step, at)).count(newline)
    return f"line {number}"
