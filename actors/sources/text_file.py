"""Files of text that people wrote: unpacked, decoded as UTF-8, without byte order marks.

Other encodings are refused with the command that converts them; UTF-16 and UTF-32 are recognised by
their marks, or by where NUL bytes are.
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

from actors.sources.local_files import refuse_unreadable
from actors.storage import locate, name_of

BYTE_ORDER_MARK = "\ufeff"
WIDE_MARKS = {  # the longer ones first: UTF-32's little-endian mark begins with that of UTF-16
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
CODECS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd", ".zstd": "zstd", ".lz4": "lz4"}
FEWEST_NULS = 8  # fewer prove nothing
NUL_FRAC = 0.01  # of the bytes; UTF-16 has at least one per space and line end
SAME_FRAC = 0.9  # of the NULs are all at even positions, or all at odd ones


class EncodingError(ValueError):
    """Bytes that are not UTF-8 text; the message says what they are and what to do."""


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
        raise EncodingError("nothing but NUL bytes, expected text; copy the file again")
    if wide := _wide(raw, begin):
        marked = "" if begin else " without a byte order mark"  # only the first bytes can be one
        raise EncodingError(_convert(f"by its NUL bytes {wide}{marked}", wide))
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
    """The UTF-16 or UTF-32 encoding that the NUL bytes suggest."""
    num = raw.count(0)
    if num < FEWEST_NULS or num < NUL_FRAC * len(raw):
        return None
    at = [raw[(i - begin) % 4 :: 4].count(0) for i in range(4)]  # by position in the file, mod 4
    nearly_all = SAME_FRAC * len(raw) / 4
    if min(at[2:]) > nearly_all or min(at[:2]) > nearly_all:
        return "UTF-32LE" if min(at[2:]) > nearly_all else "UTF-32BE"
    even, odd = at[0] + at[2], at[1] + at[3]
    if max(even, odd) < SAME_FRAC * num:
        return None
    return "UTF-16BE" if even > odd else "UTF-16LE"


def unpacked(packed: Any, codec: str) -> Any:
    """A handle that decompresses what another one reads."""
    if codec == "gzip":
        return gzip.GzipFile(fileobj=packed)
    if codec == "bz2":
        return bz2.BZ2File(packed)
    if codec == "xz":
        return lzma.LZMAFile(packed)
    return pa.CompressedInputStream(pa.PythonFile(packed, mode="r"), codec)


def codec_of(path: str) -> str | None:
    """Compression of a file with that name; None: none."""
    name = name_of(path).lower()
    return next((codec for end, codec in CODECS.items() if name.endswith(end)), None)


def read_bytes(path: str, limit: int = -1) -> bytes:
    """Content of a file, unpacked; its first `limit` bytes, or all.

    Raises:
        CorpusError: it is a link to nothing, a pipe, a socket or a device. Else what its file
            system or decompressor raises.
    """
    fs, root = locate(path)
    if isinstance(fs, LocalFileSystem):
        refuse_unreadable(root)
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
    """Lines with any line end, without the byte order marks that joined files have inside."""
    for line in io.StringIO(text, newline=None):
        yield line.removeprefix(BYTE_ORDER_MARK)
