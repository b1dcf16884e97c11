"""The files of a corpus: which are read, which beside them are not, and whether they have changed.

Content is compared, not modification times: a copied or touched file is the same, two versions of
one length are not. A small corpus is digested as a whole; of a large one, the names and sizes of
all files, and a bounded number of pieces spread over them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from posixpath import basename
from typing import Any, Self

import xxhash

from actors.settings.corpus import CorpusSpec, SourceSpec
from actors.sources.documents import evenly
from actors.sources.paths import File, expand_paths, file_system, list_files, reading

WHOLE_BYTES = 64 << 20  # a corpus up to this is digested whole
PIECE_BYTES = 64 << 10
PIECES = 4  # of a file, the first and the last among them
DIGESTED_FILES = 256  # of a larger corpus, spread over it
CHUNK_BYTES = 4 << 20
THREADS = 16
SHOWN_CHANGES = 8


@dataclass(frozen=True)
class LeftOut:
    """A file below a path of the corpus that is not read, and why."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path} ({self.reason})"


def corpus_files(spec: CorpusSpec) -> list[list[File]]:
    """The files of each source, listed now; for facts, the templates file comes last.

    Raises:
        CorpusError: as `list_files`.
    """
    if spec.kind == "text":
        return [list_files(source.locations, source.format) for source in spec.files]
    return [[_file(path) for path in (*expand_paths(spec.paths), *_templates(spec))]]


def _templates(spec: CorpusSpec) -> tuple[str, ...]:
    return (spec.templates,) if spec.kind == "facts" and spec.templates else ()


def _file(path: str) -> File:
    fs, key = file_system(path)
    with reading(path):
        size = int(fs.info(key)["size"])
    return File(path, size, "text", None, fs, key)


def left_out(source: SourceSpec, read: Sequence[File]) -> Iterator[LeftOut]:
    """Files below the paths of a source that are not among those `read`, with the reason."""
    taken = {file.path for file in read}
    for path in source.locations:
        for name in expand_paths((path,)):
            if name not in taken:
                yield LeftOut(name, f"not of format {source.format}")
        fs, root = file_system(path)
        if path in taken or root in taken:  # over HTTP, `isdir` would read the whole file
            continue
        with reading(path, "can't be listed"):
            below = sorted(map(str, fs.find(root))) if fs.isdir(root) else []
        for key in below:
            if any(part.startswith((".", "_")) for part in key[len(root) :].split("/")):
                yield LeftOut(key, "a name that begins with . or _")


@dataclass(frozen=True)
class FileMark:
    """Fingerprint of a file.

    Attributes:
        path: name in the corpus.
        size: bytes.
        digest: `whole:…` of its content, `pieces:…` of parts of it, empty where nothing was read.
    """

    path: str
    size: int
    digest: str


@dataclass(frozen=True)
class CorpusMarks:
    """Fingerprint of a corpus: those of its files, in the order in which they are read."""

    files: tuple[FileMark, ...]

    @classmethod
    def of(cls, spec: CorpusSpec) -> Self:
        """The fingerprint of the corpus now. Raises: CorpusError: a file can't be read."""
        for path in (*(p for source in spec.files for p in source.locations), *_templates(spec)):
            file_system(path)[0].invalidate_cache()  # this process may have listed it before
        files = [file for source in corpus_files(spec) for file in source]
        if sum(file.size for file in files) <= WHOLE_BYTES:
            chosen, pieces = set(range(len(files))), 0
        else:
            chosen, pieces = set(evenly(len(files), DIGESTED_FILES).tolist()), PIECES

        def mark(index: int) -> FileMark:
            file = files[index]
            digest = _digest(file, pieces) if index in chosen else ""
            return FileMark(file.path, file.size, digest)

        with ThreadPoolExecutor(THREADS) as pool:
            return cls(tuple(pool.map(mark, range(len(files)))))

    @classmethod
    def from_list(cls, values: Sequence[Mapping[str, Any]]) -> Self:
        """The inverse of `as_list`."""
        return cls(tuple(FileMark(**value) for value in values))

    def as_list(self) -> list[dict[str, Any]]:
        """Plain values for JSON."""
        return [asdict(file) for file in self.files]

    @property
    def digest(self) -> str:
        """Of the whole corpus, short enough to be typed; begins with a letter, so that YAML reads
        it as text.
        """
        total = xxhash.xxh3_64()
        for file in self.files:
            total.update(f"{file.path}\0{file.size}\0{file.digest}\0".encode())
        return f"c{total.hexdigest()}"

    def changes(self, now: CorpusMarks) -> list[str]:
        """Differences of `now`, one line per file; empty for the same corpus, moved as a whole or
        not.
        """
        before, after = ({file.path: file for file in m.files} for m in (self, now))
        elsewhere = len(before) == len(after) and not before.keys() & after.keys()
        if elsewhere and all(map(_is_moved, before.values(), after.values())):
            return []
        found = [f"{path} is gone" for path in before if path not in after]
        found += [f"{path} is new" for path in after if path not in before]
        for path, old in before.items():
            new = after.get(path)
            if new is None:
                continue
            if new.size != old.size:
                found.append(f"{path} had {old.size:,} bytes and has {new.size:,}")
            elif _differ(old.digest, new.digest):
                found.append(f"{path} has the same {old.size:,} bytes but other content")
        if not found and [*before] != [*after]:
            found.append("the files are read in another order")
        more = len(found) - SHOWN_CHANGES
        return [*found[:SHOWN_CHANGES], *([f"and {more} more"] if more > 0 else [])]


def _is_moved(before: FileMark, now: FileMark) -> bool:
    """Whether two files, wherever they are, hold the same as far as their marks say."""
    alike = before.size == now.size and before.digest == now.digest
    return alike and (before.digest != "" or basename(before.path) == basename(now.path))


def _differ(before: str, now: str) -> bool:
    """Whether two digests of the same kind differ."""
    return before.partition(":")[0] == now.partition(":")[0] and before != now


def _digest(file: File, pieces: int) -> str:
    """Digest of the content, or of that many pieces spread over a larger file; 0: all of it."""
    total = xxhash.xxh3_128()
    if pieces and file.size > pieces * PIECE_BYTES:
        for i in range(pieces):
            start = i * (file.size - PIECE_BYTES) // (pieces - 1)
            total.update(file.read(start, start + PIECE_BYTES))
        return f"pieces:{total.hexdigest()}"
    for start in range(0, file.size, CHUNK_BYTES):
        total.update(file.read(start, min(start + CHUNK_BYTES, file.size)))
    return f"whole:{total.hexdigest()}"
