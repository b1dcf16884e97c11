"""The files that a corpus stands for: what is read, what lies beside it and is not, and whether
they are still what they were when a run began.

Content is compared, not modification times: a copied or touched file is the same, and two versions
of one length are not. A small corpus is digested whole; of a large one, names and sizes of all
files, and the content of a bounded number of pieces spread over them. Called by `inventory` and the
driver.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import xxhash

from actors.settings.corpus import CorpusSpec, SourceSpec
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
    """A file below a path of the corpus that is not read."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path} ({self.reason})"


def corpus_files(spec: CorpusSpec) -> list[list[File]]:
    """The files of each source as they are listed now; of facts, the templates are the last.

    Raises:
        CorpusError: as `list_files`.
    """
    if spec.kind == "text":
        return [list_files(source.paths, source.format) for source in spec.files]
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
    for path in source.paths:
        for name in expand_paths((path,)):
            if name not in taken:
                yield LeftOut(name, f"not of format {source.format}")
        fs, root = file_system(path)
        if path in taken or root in taken:  # asked whether it is a folder, HTTP reads all of it
            continue
        with reading(path, "can't be listed"):
            there = sorted(map(str, fs.find(root))) if fs.isdir(root) else []
        for key in there:
            if any(part.startswith((".", "_")) for part in key[len(root) :].split("/")):
                yield LeftOut(key, "a name that begins with . or _")


@dataclass(frozen=True)
class FileMark:
    """What a file is recognised by.

    Attributes:
        path: as the corpus names it.
        size: bytes.
        digest: `whole:…` of its content, `pieces:…` of pieces of it, empty where none was read.
    """

    path: str
    size: int
    digest: str


@dataclass(frozen=True)
class CorpusMarks:
    """What a whole corpus is recognised by: its files in the order in which they are read."""

    files: tuple[FileMark, ...]

    @classmethod
    def of(cls, spec: CorpusSpec) -> Self:
        """Of the corpus as it is now. Raises: CorpusError where a file can't be read."""
        for path in (*(p for source in spec.files for p in source.paths), *_templates(spec)):
            file_system(path)[0].invalidate_cache()  # this process may have listed it before
        files = [file for source in corpus_files(spec) for file in source]
        if sum(file.size for file in files) <= WHOLE_BYTES:
            chosen, pieces = set(range(len(files))), 0
        else:
            spread = np.linspace(0, len(files) - 1, min(DIGESTED_FILES, len(files))).round()
            chosen, pieces = {int(i) for i in spread}, PIECES

        def mark(index: int) -> FileMark:
            file = files[index]
            digest = _digest(file, pieces) if index in chosen else ""
            return FileMark(file.path, file.size, digest)

        with ThreadPoolExecutor(THREADS) as pool:
            return cls(tuple(pool.map(mark, range(len(files)))))

    @classmethod
    def from_list(cls, values: Sequence[Mapping[str, Any]]) -> Self:
        """Takes back what `as_list` gave."""
        return cls(tuple(FileMark(**value) for value in values))

    def as_list(self) -> list[dict[str, Any]]:
        """As JSON takes it."""
        return [asdict(file) for file in self.files]

    @property
    def digest(self) -> str:
        """Of all of it, short enough to be typed; with a letter first, since YAML reads it."""
        total = xxhash.xxh3_64()
        for file in self.files:
            total.update(f"{file.path}\0{file.size}\0{file.digest}\0".encode())
        return f"c{total.hexdigest()}"

    def changes(self, now: CorpusMarks) -> list[str]:
        """What is different now, file by file; nothing where it is the same corpus."""
        before, after = ({file.path: file for file in m.files} for m in (self, now))
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


def _differ(before: str, now: str) -> bool:
    """Whether two digests that were made alike say that the content is another."""
    return before.partition(":")[0] == now.partition(":")[0] and before != now


def _digest(file: File, pieces: int) -> str:
    """Of the content; of so many pieces spread over it, where that is less than all."""
    total = xxhash.xxh3_128()
    if pieces and file.size > pieces * PIECE_BYTES:
        for i in range(pieces):
            start = i * (file.size - PIECE_BYTES) // (pieces - 1)
            total.update(file.read(start, start + PIECE_BYTES))
        return f"pieces:{total.hexdigest()}"
    for start in range(0, file.size, CHUNK_BYTES):
        total.update(file.read(start, min(start + CHUNK_BYTES, file.size)))
    return f"whole:{total.hexdigest()}"
