"""The files behind a path, a glob, a directory or a URL, and reading byte ranges of them.

A file is listed once, with its size; after that each read is one request, whatever the storage.
Knows nothing of documents.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, get_args

from fsspec.implementations.local import LocalFileSystem

from actors.formats import first_line
from actors.settings.corpus import FileFormat
from actors.sources.local_files import (
    files_below,
    files_matching,
    is_one_file,
    refuse_unreadable,
    split_pattern,
)
from actors.sources.text_file import CODECS
from actors.storage import (
    WEB_MAGIC,
    info_of,
    is_web,
    locate,
    matching,
    name_of,
    storage_errors,
)
from actors.wire import CorpusError, TandemError

FORMATS: dict[str, FileFormat] = {
    ".txt": "text",
    ".md": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
}
# Certainly not text. A file with any other unknown extension is read as text.
FOREIGN = (
    *(".7z", ".arrow", ".avro", ".bin", ".csv", ".db", ".doc", ".docx", ".feather", ".gguf"),
    *(".h5", ".jpeg", ".jpg", ".mp3", ".mp4", ".npy", ".npz", ".orc", ".pdf", ".pickle", ".pkl"),
    *(".png", ".pt", ".pth", ".rar", ".safetensors", ".sqlite", ".tar", ".tgz", ".tsv", ".xls"),
    *(".xlsx", ".zip"),
)
PIP_EXTRAS = {  # URL schemes that each of our pip extras makes readable
    "s3": ("s3", "s3a"),
    "gcs": ("gs", "gcs"),
    "azure": ("abfs", "abfss", "az", "adl"),
    "hf": ("hf",),
}


PAGE, PAGES = "text/html", (".htm", ".html", ".xhtml")  # what a server calls a page; named as one


@dataclass(frozen=True)
class _Found:
    """What a listing says of one file.

    Attributes:
        key: its path as its file system knows it.
        size: bytes; None: its server does not say.
        is_page: its server sends a web page under a name that is none.
    """

    key: str
    size: int | None
    is_page: bool = False


@dataclass(frozen=True)
class File:
    """One file of a corpus.

    Attributes:
        path: name in messages and records; with its scheme where it has one.
        size: bytes.
        format: of its content, once unpacked.
        codec: compression; None: not compressed.
        fs: the fsspec file system that has it.
        key: its path as that file system knows it.
    """

    path: str
    size: int
    format: FileFormat
    codec: str | None
    fs: Any  # fsspec is untyped
    key: str

    @property
    def local(self) -> bool:
        """Whether the file is on a file system of this machine."""
        return isinstance(self.fs, LocalFileSystem)

    @property
    def identity(self) -> object:
        """Equal for two names of one file, rarely for two files; `is_same` decides."""
        if not self.local:
            return self.path
        with reading(self.path):
            found = os.stat(self.key)
        return (found.st_dev, found.st_ino) if found.st_ino else os.path.realpath(self.key)

    def is_same(self, other: File) -> bool:
        """Whether both are names of one file, by links of either kind too."""
        return self.path == other.path or (
            self.local and other.local and is_one_file(self.key, other.key)
        )

    @property
    def state(self) -> str:
        """A text that changes when the content may have changed."""
        if not self.local:
            return str(self.fs.ukey(self.key))
        with reading(self.path):
            found = os.stat(self.key)  # follows links
        return f"{os.path.realpath(self.key)} {found.st_ino} {found.st_size} {found.st_mtime_ns}"

    def read(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop), by one request.

        Raises:
            CorpusError: the file can't be read, or is shorter than when it was listed.
            StorageError: its storage is away.
        """
        with reading(self.path):
            if self.local:
                with open(self.key, "rb") as handle:
                    handle.seek(start)
                    raw = handle.read(stop - start)
            else:
                raw = bytes(self.fs.cat_file(self.key, start=start, end=stop))
        if len(raw) > stop - start:
            raise CorpusError(
                f"corpus file {self.path}: its server sends {len(raw)} bytes where "
                f"{stop - start} of {self.size} are asked for: it can't send parts of a file; copy "
                "the file to a disk or a bucket, or compress it: such files are fetched whole"
            )
        if len(raw) != stop - start:
            raise CorpusError(
                f"corpus file {self.path}: {self.size} bytes when it was listed, but ends at byte "
                f"{start + len(raw)} now; leave a corpus as it is while a run reads it"
            )
        return raw

    def open(self) -> BinaryIO:
        """A handle for reading from start to end."""
        handle: BinaryIO = self.fs.open(self.key, "rb")
        return handle


@contextmanager
def reading(path: str, doing: str = "can't be read") -> Iterator[None]:
    """Turns any error inside the block into one that names the file.

    Raises:
        StorageError: its storage is away.
        CorpusError: any other fault.
    """
    try:
        with storage_errors(f"corpus file {path}", doing):
            yield
    except TandemError:
        raise
    except Exception as err:  # each remote file system raises types of its own
        raise CorpusError(
            f"corpus file {path}: {doing}: {first_line(err, with_type=True)}"
        ) from err


def file_system(url: str, what: str = "path") -> tuple[Any, str]:
    """The fsspec file system of `url`, and the path in it.

    Raises:
        CorpusError: unknown scheme, or one whose package is not installed (names the pip extra).
        StorageError: its storage is away.
    """
    scheme = url.partition("://")[0].rpartition("::")[2] if "://" in url else ""
    try:
        with storage_errors(f"{what} {url}", "can't be opened"):
            fs, root = locate(url)
    except TandemError:
        raise
    except ImportError as err:
        extra = next((e for e, schemes in PIP_EXTRAS.items() if scheme in schemes), None)
        need = f"pip install 'tandem-memory[{extra}]'" if extra else str(err)
        raise CorpusError(
            f"{what} {url}: reading {scheme}:// needs a package that is not installed: {need}"
        ) from err
    except Exception as err:  # credentials and endpoints fail in each package's own way
        raise CorpusError(
            f"{what} {url}: can't be opened: {first_line(err, with_type=True)}"
        ) from err
    return fs, root


def split_name(path: str) -> tuple[str, str | None]:
    """The extension without that of a compression, and the compression: `a.jsonl.gz` gives
    `.jsonl` and gzip.
    """
    stem, last = posixpath.splitext(name_of(path).lower())
    if last in CODECS:
        return posixpath.splitext(stem)[1], CODECS[last]
    return last, None


def expand_paths(paths: Sequence[str]) -> list[str]:
    """Names of the files behind `paths` (files, globs, directories, URLs), sorted within each.

    Raises:
        CorpusError: an entry matches no file.
    """
    names = []
    for path in paths:
        fs, found = _find(path)
        names += [_name(fs, path, file.key) for file in found]
    return names


def list_files(paths: Sequence[str], chosen: str = "auto") -> list[File]:
    """The files behind `paths`, sorted within each entry.

    With a `chosen` format, only files with its extensions are taken from an entry that has some.

    Raises:
        CorpusError: an entry matches no file; a file of a foreign format, of unknown size, or named
            twice; a directory that mixes tables and text.
    """
    files: list[File] = []
    for path in paths:
        fs, found = _find(path)
        entry = [_file(fs, _name(fs, path, one.key), one, chosen, path) for one in found]
        files += _of_one_kind(entry, path, chosen)
    refuse_twice(files, lambda first, second: "")
    return files


def refuse_twice(files: Sequence[File], where: Callable[[File, File], str]) -> None:
    """Refuses files of which two are one, by name or by links.

    Args:
        files: all that a run reads.
        where: names, for the message, the places in the config of two files that are one.

    Raises:
        CorpusError: two names of one file.
    """
    seen: dict[object, File] = {}
    for file in files:
        first = seen.setdefault(file.identity if file.size else file.path, file)
        if first is file or not file.is_same(first):
            continue
        same = "named twice" if first.path == file.path else f"the same file as {first.path}"
        raise CorpusError(
            f"corpus file {file.path}: {where(first, file) or same}; what one copy holds out the "
            "other would train on (to read a source more often, give it a weight: corpus.sources)"
        )


def is_there(path: str) -> bool:
    """Whether a path, glob or URL matches anything.

    Raises: whatever the storage's client raises.
    """
    fs, root = locate(path)
    fixed, pattern = _split_remote(fs, root)
    if pattern is not None:
        return bool(matching(fs, root, fixed, pattern))
    return info_of(fs, fixed) is not None if is_web(fs) else bool(fs.exists(fixed))


def _find(path: str) -> tuple[Any, list[_Found]]:
    """The file system of `path`, and every file behind it."""
    fs, root = file_system(path, "corpus path")
    with reading(path, "can't be listed"):
        local = isinstance(fs, LocalFileSystem)
        found = _find_local(root) if local else _find_remote(fs, root)
    if not found:
        what = "no file in that directory" if local and os.path.isdir(root) else "no such file"
        raise CorpusError(f"corpus path {path}: {what}; give an existing file, glob or directory")
    return fs, found


def _find_local(root: str) -> list[_Found]:
    fixed, pattern = split_pattern(root)
    refuse_unreadable(fixed)
    if pattern is not None:
        below = files_matching(fixed, pattern) if os.path.isdir(fixed) else []
        return [_Found(file.path, file.size) for file in below]
    if os.path.isdir(fixed):
        return [_Found(file.path, file.size) for file in files_below(fixed, _hidden)]
    return [_Found(fixed, os.path.getsize(fixed))] if os.path.isfile(fixed) else []


def _split_remote(fs: Any, root: str) -> tuple[str, str | None]:
    if is_web(fs):  # asking whether a name with a star exists would fetch it
        return split_pattern(root, lambda name: False, WEB_MAGIC)
    return split_pattern(root, fs.exists)


def _find_remote(fs: Any, root: str) -> list[_Found]:
    fixed, pattern = _split_remote(fs, root)
    if pattern is not None:
        infos = matching(fs, root, fixed, pattern)
        if is_web(fs):  # whose listings are links alone
            infos = {key: found for key in infos if (found := info_of(fs, key)) is not None}
    else:
        info = info_of(fs, root)
        if info is None:
            return []
        infos = {root: info}
        if info["type"] == "directory":
            infos = {
                key: info
                for key, info in fs.find(root, detail=True).items()
                if not any(map(_hidden, str(key)[len(root) :].split("/")))
            }
    return [
        _Found(
            str(key),
            info.get("size"),
            info.get("mimetype") == PAGE and not name_of(key).lower().endswith(PAGES),
        )
        for key, info in sorted(infos.items())
        if info["type"] == "file"
    ]


def _hidden(name: str) -> bool:
    """Whether a name is that of a marker or leftover (.cache, _SUCCESS)."""
    return name.rpartition("/")[2].startswith((".", "_"))


def _name(fs: Any, path: str, key: str) -> str:
    return str(fs.unstrip_protocol(key)) if "://" in path else key


def _file(fs: Any, name: str, found: _Found, chosen: str, path: str) -> File:
    extension, codec = split_name(found.key)
    if found.is_page and chosen == "auto":
        raise CorpusError(
            f"corpus file {name}: its server sends a web page ({PAGE}), such as the list of a "
            "folder or a form to log in; name files, or a glob such as FOLDER/*.txt (or set "
            "corpus.format where that is the text)"
        )
    if extension in FOREIGN and chosen == "auto":
        raise CorpusError(
            f"corpus file {name}: {extension} files are not read, only text, JSONL and Parquet; "
            + ("give a glob that leaves it out" if path != name else "convert it")
            + ", or set corpus.format"
        )
    if found.size is None:
        raise CorpusError(
            f"corpus file {name}: its server does not report a size; copy it to a disk or a bucket"
        )
    formats = get_args(FileFormat)
    format_: FileFormat = chosen if chosen in formats else FORMATS.get(extension, "text")  # type: ignore[assignment]
    if format_ == "parquet" and codec is not None:
        raise CorpusError(
            f"corpus file {name}: Parquet inside {codec} can't be read in parts; unpack it "
            "(Parquet compresses its columns itself)"
        )
    return File(name, int(found.size), format_, codec, fs, found.key)


def _of_one_kind(files: list[File], path: str, chosen: str) -> list[File]:
    """Those of an entry's files that are read; they have one format."""
    if chosen != "auto":
        named = [f for f in files if FORMATS.get(split_name(f.key)[0]) == chosen]
        return named or files
    by_format: dict[str, list[File]] = {}
    for file in files:
        by_format.setdefault(file.format, []).append(file)
    if len(by_format) > 1:
        kinds = ", ".join(
            f"{len(fs)} {kind} ({posixpath.basename(fs[0].key)}{', …' if len(fs) > 1 else ''})"
            for kind, fs in sorted(by_format.items())
        )
        raise CorpusError(
            f"corpus path {path}: holds files of different formats: {kinds}; set corpus.format to "
            "take those of one, or give each its own path or glob"
        )
    return files
