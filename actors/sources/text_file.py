"""Bytes of a file that people wrote, as text: unpacked, UTF-8, without byte order marks.

What is not UTF-8 is refused with how to convert it; UTF-16 is known by its mark, or by the NUL in
every other byte. Called by what reads such files: `lines`, `facts`, `spool`, the reader of configs.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from actors.sources.local_files import refuse_broken_link
from actors.storage import locate

BYTE_ORDER_MARK = "\ufeff"
WIDE_MARKS = {  # the longer ones first: that of UTF-16 begins one of UTF-32
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
CODECS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd", ".zstd": "zstd", ".lz4": "lz4"}
FEWEST_NULS = 8  # fewer are no sign of anything
NUL_FRAC = 0.01  # of the bytes: UTF-16 has one for each space and line end at least
SAME_FRAC = 0.9  # of the NULs are at even places, or at odd ones: the same half of a character


class EncodingError(ValueError):
    """Bytes that are no UTF-8 text; the message says what they are and what to do."""


def decode(raw: bytes, begin: int = 0) -> str:
    """The text of `raw`, which begins at byte `begin` of its file.

    Raises:
        EncodingError: it is not UTF-8.
    """
    if begin == 0:
        for mark, name in WIDE_MARKS.items():
            if raw.startswith(mark):
                raise EncodingError(_convert(f"{name} by its first bytes", name))
    if len(raw) >= FEWEST_NULS and raw.count(0) == len(raw):
        raise EncodingError("nothing but NUL bytes, expected text; bring the file here again")
    if wide := _wide(raw, begin):
        raise EncodingError(_convert(f"by its NUL bytes {wide} without a byte order mark", wide))
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as err:
        raise EncodingError(
            f"byte {begin + err.start} is not UTF-8 ({err.reason}); convert the file, e.g. from "
            "Latin-1 by: iconv -f LATIN1 -t UTF-8 OLD > NEW"
        ) from err
    return text.removeprefix(BYTE_ORDER_MARK) if begin == 0 else text


def _convert(found: str, name: str) -> str:
    return f"{found}, expected UTF-8; convert it: iconv -f {name} -t UTF-8 OLD > NEW"


def _wide(raw: bytes, begin: int) -> str | None:
    """The wide encoding that the bytes look like."""
    num = raw.count(0)
    if num < FEWEST_NULS or num < NUL_FRAC * len(raw):
        return None
    at = [raw[(place - begin) % 4 :: 4].count(0) for place in range(4)]  # by place in the file
    nearly_all = SAME_FRAC * len(raw) / 4
    if min(at[2:]) > nearly_all or min(at[:2]) > nearly_all:
        return "UTF-32LE" if min(at[2:]) > nearly_all else "UTF-32BE"
    even, odd = at[0] + at[2], at[1] + at[3]
    if max(even, odd) < SAME_FRAC * num:
        return None
    return "UTF-16BE" if even > odd else "UTF-16LE"


def unpacked(packed: Any, codec: str) -> Any:
    """A handle on what is packed in another one."""
    if codec == "gzip":
        return gzip.GzipFile(fileobj=packed)
    if codec == "bz2":
        return bz2.BZ2File(packed)
    if codec == "xz":
        return lzma.LZMAFile(packed)
    return pa.CompressedInputStream(pa.PythonFile(packed, mode="r"), codec)


def codec_of(path: str) -> str | None:
    """How a file of that name is compressed."""
    return next((codec for end, codec in CODECS.items() if path.lower().endswith(end)), None)


def read_bytes(path: str, limit: int = -1) -> bytes:
    """What is in a small file, unpacked; of a larger one its first `limit` bytes.

    Raises:
        CorpusError: it is a link to nothing. Else whatever its file system or decompressor raises.
    """
    fs, root = locate(path)
    if isinstance(fs, LocalFileSystem):
        refuse_broken_link(root)
    codec = codec_of(root)
    with fs.open(root, "rb") as handle:
        stream = handle if codec is None else unpacked(handle, codec)
        return bytes(stream.read() if limit < 0 else stream.read(limit))


def read_text(path: str) -> str:
    """The text of a small file.

    Raises:
        EncodingError: it is not UTF-8. Else as `read_bytes`.
    """
    return decode(read_bytes(path))


def lines_of(text: str) -> Iterator[str]:
    """Lines, however they end; a file that was joined from several may have marks inside."""
    for line in io.StringIO(text, newline=None):
        yield line.removeprefix(BYTE_ORDER_MARK)
