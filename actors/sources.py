"""Where documents come from: plain text by byte ranges, facts by sentence templates.

A source is a numbered list of training blocks, each readable on its own, and a held-out split that
no training block overlaps. Nothing here tokenises, shuffles or packs. Called by `corpus`.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import fsspec

from actors.corpus_spec import CorpusSpec
from actors.facts import Fact, FactTable, Wording
from actors.wire import CorpusError

FACTS_PER_BLOCK = 64


@dataclass(frozen=True)
class Document:
    """A text that is packed apart from its neighbours.

    Attributes:
        text: what is to be learned.
        subject: documents of one subject never share a window.
        given: what stands before `text` and is read but not predicted.
    """

    text: str
    subject: str | None = None
    given: str = ""


class Source(Protocol):
    """A corpus before tokenisation."""

    @property
    def num_blocks(self) -> int:
        """Training blocks."""

    def block(self, index: int) -> list[Document]:
        """The documents of one training block, always the same ones in the same order."""

    def heldout(self) -> Iterator[Document]:
        """The held-out split, in order."""


def expand_paths(paths: tuple[str, ...]) -> list[str]:
    """Files behind `paths` (files, globs, directories, URLs), sorted within each entry.

    Raises:
        CorpusError: an entry matches no file.
    """
    files: list[str] = []
    for path in paths:
        try:
            fs, root = fsspec.core.url_to_fs(path)
            if any(c in root for c in "*?["):
                found = [f for f in sorted(fs.glob(root)) if not fs.isdir(f)]
            elif fs.isdir(root):
                found = [
                    f for f in sorted(fs.find(root)) if not posixpath.basename(f).startswith(".")
                ]
            else:
                found = [root] if fs.exists(root) else []
        except (OSError, ImportError, ValueError) as err:
            raise CorpusError(f"corpus path {path}: can't be listed: {err}") from err
        if not found:
            raise CorpusError(
                f"corpus path {path}: no such file; give an existing file, glob or directory"
            )
        files.extend(str(fs.unstrip_protocol(f)) if "://" in path else str(f) for f in found)
    return files


class TextSource:
    """Plain text read by byte ranges that end at a line end, every so many blocks one held out."""

    def __init__(self, spec: CorpusSpec, seed: int) -> None:
        self._ranges: list[tuple[str, int, int]] = []
        for path in expand_paths(spec.paths):
            self._ranges.extend(self._cut(path, spec.block_bytes))
        if not self._ranges:
            raise CorpusError(
                f"corpus {', '.join(spec.paths)}: empty; give at least a few kilobytes of text"
            )
        stride = max(2, round(1 / spec.heldout_frac))
        if len(self._ranges) < stride:
            stride = max(2, len(self._ranges))
        if len(self._ranges) < 2:
            raise CorpusError(
                f"corpus {', '.join(spec.paths)}: only one block of {spec.block_bytes} bytes, "
                "nothing left to hold out; "
                "give more text or lower corpus.block_bytes"
            )
        held = seed % stride
        self._train = [r for i, r in enumerate(self._ranges) if i % stride != held]
        self._heldout = [r for i, r in enumerate(self._ranges) if i % stride == held]

    @staticmethod
    def _cut(path: str, block_bytes: int) -> list[tuple[str, int, int]]:
        try:
            with fsspec.open(path, "rb") as handle:
                size = handle.seek(0, 2)
        except OSError as err:
            raise CorpusError(f"corpus file {path}: can't be read: {err}") from err
        return [
            (path, start, min(start + block_bytes, size)) for start in range(0, size, block_bytes)
        ]

    @staticmethod
    def _read(path: str, start: int, stop: int) -> str:
        """Text of the lines that begin in [start, stop): each line belongs to exactly one range."""
        try:
            with fsspec.open(path, "rb") as handle:
                if start > 0:
                    handle.seek(start - 1)
                    handle.readline()
                begin = handle.tell()
                if begin >= stop:
                    return ""
                raw = handle.read(stop - begin)
                if not raw.endswith(b"\n"):
                    raw += handle.readline()
        except OSError as err:
            raise CorpusError(f"corpus file {path}: can't be read: {err}") from err
        try:
            return str(raw.decode("utf-8"))
        except UnicodeDecodeError as err:
            raise CorpusError(
                f"corpus file {path}: byte {begin + err.start} is not UTF-8 ({err.reason})"
            ) from err

    @property
    def num_blocks(self) -> int:
        """Training blocks."""
        return len(self._train)

    def block(self, index: int) -> list[Document]:
        """One block is one document: what follows it was shuffled away."""
        text = self._read(*self._train[index])
        return [Document(text)] if text.strip() else []

    def heldout(self) -> Iterator[Document]:
        """The held-out blocks, in order."""
        for where in self._heldout:
            if (text := self._read(*where)).strip():
                yield Document(text)


class FactsSource:
    """Sentences of a fact table in its training wordings.

    The held-out wordings are the held-out split.
    """

    def __init__(self, table: FactTable, answers_only: bool) -> None:
        self._table = table
        self._answers_only = answers_only

    def _documents(self, fact: Fact, wordings: Sequence[Wording]) -> Iterator[Document]:
        """A fact's sentences.

        Where only answers are learned, those with the object last, as prompt and answer.
        """
        for wording in wordings:
            sentence = wording.sentence(fact)
            if not self._answers_only:
                yield Document(sentence, fact.subject)
            elif wording.askable:
                given = wording.prompt(fact)
                yield Document(sentence[len(given) :], fact.subject, given)

    @property
    def num_blocks(self) -> int:
        """Training blocks of 64 facts each."""
        return -(-len(self._table.facts) // FACTS_PER_BLOCK)

    def block(self, index: int) -> list[Document]:
        """Every training wording of the block's facts."""
        facts = self._table.facts[index * FACTS_PER_BLOCK : (index + 1) * FACTS_PER_BLOCK]
        return [
            d for f in facts for d in self._documents(f, self._table.train_wordings[f.relation])
        ]

    def heldout(self) -> Iterator[Document]:
        """Every held-out wording of every fact."""
        for fact in self._table.facts:
            yield from self._documents(fact, self._table.heldout_wordings[fact.relation])


def open_source(spec: CorpusSpec, seed: int) -> tuple[Source, FactTable | None]:
    """The source that `spec` names, and its fact table where it has one."""
    if spec.kind == "facts":
        table = FactTable.read(spec, expand_paths(spec.paths), seed)
        return FactsSource(table, spec.loss_on == "answers"), table
    return TextSource(spec, seed), None
