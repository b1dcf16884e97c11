"""Lines of a file by byte ranges, and the documents in them. Each line belongs to one range.

Works on anything that is read by byte positions: files, ranges of remote ones, unpacked ones.
Called by the file source.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from actors.columns import document, no_column, wrong_type
from actors.documents import Document
from actors.paths import File
from actors.wire import CorpusError

SLACK_BYTES = 4096  # read beyond a range, so that its last line mostly needs no second request
MORE_BYTES = 64 << 10  # the second request; each further one reads twice as much
LONGEST_LINE_BYTES = 64 << 20
COUNTED_BYTES = 1 << 30  # of a file at most, to name the line of a mistake

Read = Callable[[int, int], bytes]


def lines_between(path: str, read: Read, size: int, start: int, stop: int) -> tuple[int, bytes]:
    """Where the lines that begin in [start, stop) start, and their bytes.

    Raises:
        CorpusError: a line is longer than 64 MiB.
    """
    first = max(start - 1, 0)
    raw = read(first, min(stop + SLACK_BYTES, size))
    begin = first
    if start > 0:
        begin = first + raw.find(b"\n") + 1
        if begin == first or begin >= stop:
            return stop, b""  # an earlier line covers the whole range
        raw = raw[begin - first :]
    searched = stop - 1 - begin
    more = MORE_BYTES
    while (end := raw.find(b"\n", searched)) < 0 and begin + len(raw) < size:
        if len(raw) > LONGEST_LINE_BYTES + (stop - start):
            raise CorpusError(
                f"corpus file {path}: a line near byte {stop} is longer than "
                f"{LONGEST_LINE_BYTES >> 20} MiB; break it into lines"
            )
        searched, at = len(raw), begin + len(raw)
        raw += read(at, min(at + more, size))
        more *= 2
    return begin, raw if end < 0 else raw[: end + 1]


def decode(path: str, raw: bytes, begin: int) -> str:
    """The text of `raw`, which begins at byte `begin`.

    Raises:
        CorpusError: it is not UTF-8.
    """
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as err:
        raise CorpusError(
            f"corpus file {path}: byte {begin + err.start} is not UTF-8 ({err.reason})"
        ) from err


def parse_jsonl(
    file: File, columns: Sequence[str], raw: bytes, begin: int, read: Read
) -> list[Document]:
    """The documents of JSON lines; a line whose columns are null or blank holds none.

    Args:
        file: for messages.
        columns: the text, or prompt and completion.
        raw, begin: the lines and the byte at which they start.
        read: reads the file, to count the lines before a mistake.

    Raises:
        CorpusError: with line or byte, where a line is not a JSON object with the columns, each a
            string or null.
    """
    documents = []
    at = begin
    for line in raw.split(b"\n"):
        documents += _parse_line(file, columns, line, at, read)
        at += len(line) + 1
    return documents


def _parse_line(
    file: File, columns: Sequence[str], line: bytes, at: int, read: Read
) -> list[Document]:
    text = decode(file.path, line, at)
    if at == 0:
        text = text.removeprefix("\ufeff")
    if not text.strip():
        return []

    def where() -> str:
        return f"corpus file {file.path}, {_place(at, read)}"

    try:
        row = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as err:
        problem = (
            f"{err.msg} at column {err.colno}"
            if isinstance(err, json.JSONDecodeError)
            else ("nested too deeply")
        )
        hint = "; each line must be one object" if text.lstrip()[:1] == "[" else ""
        raise CorpusError(f"{where()}: not JSON: {problem}{hint}") from err
    if not isinstance(row, dict):
        raise CorpusError(
            f"{where()}: expected an object with {', '.join(columns)}, got {type(row).__name__}; "
            "each line must be one object"
        )
    values: list[str | None] = []
    for column in columns:
        if column not in row:
            raise no_column(where(), column, list(row))
        value = row[column]
        if value is not None and not isinstance(value, str):
            raise wrong_type(where(), column, f"{type(value).__name__} {json.dumps(value)[:40]}")
        values.append(value)
    try:
        for value in values:
            _ = value is not None and value.encode()
    except UnicodeEncodeError as err:
        raise CorpusError(
            f"{where()}: half a surrogate pair in column {column}; it is no character"
        ) from err
    return document(values)


def _place(at: int, read: Read) -> str:
    """Where the line that begins at byte `at` stands: its number, or the byte in a large file."""
    if at > COUNTED_BYTES:
        return f"byte {at}"
    number, step = 1, 1 << 22
    for start in range(0, at, step):
        number += read(start, min(start + step, at)).count(b"\n")
    return f"line {number}"
