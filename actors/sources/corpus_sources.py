"""The sources that a corpus names, opened in the order of the config; no file is in two of them.

Also files that are read whole: what is measured on once, and never trained on.
"""

from __future__ import annotations

from actors.settings.corpus import CorpusSpec
from actors.sources.columns import Columns
from actors.sources.documents import Document, Source
from actors.sources.facts import FactTable
from actors.sources.facts_source import FactsSource
from actors.sources.file_source import FileSource
from actors.sources.lines import HEAD_BYTES, line_end, parse_jsonl, plain_text
from actors.sources.paths import File, expand_paths, reading, refuse_twice
from actors.sources.row_groups import RowGroupReader
from actors.sources.text_file import read_bytes


def open_sources(spec: CorpusSpec, seed: int) -> tuple[list[Source], FactTable | None]:
    """The sources that `spec` names, in its order, and the fact table of a corpus of facts.

    Raises:
        CorpusError: a file is missing, unreadable, empty, of a foreign format, without the
            columns, or in two sources.
    """
    if spec.kind == "facts":
        table = FactTable.read(spec, expand_paths(spec.paths), seed)
        return [FactsSource(table, spec.loss_on == "answers")], table
    sources = [FileSource(files, spec, seed) for files in spec.files]
    numbers = {id(file): n for n, source in enumerate(sources) for file in source.files}

    def where(first: File, second: File) -> str:
        under = "" if first.path == second.path else f" (as {first.path})"
        return (
            f"in source {numbers[id(first)]}{under} and in source {numbers[id(second)]} of "
            "corpus.sources"
        )

    refuse_twice([file for source in sources for file in source.files], where)
    return [*sources], None


def read_documents(file: File, columns: Columns) -> list[Document]:
    """The documents of one file, read whole, without those that are blank: a file of text is one,
    a line of JSON or a row of Parquet another.

    Args:
        file: as `list_files` has it.
        columns: those of JSON lines and Parquet that are read.

    Raises:
        CorpusError: it can't be read, is no UTF-8, or a row has no such columns.
        StorageError: its storage is away.
    """
    if file.format == "parquet":
        rows = RowGroupReader(columns)
        [sizes] = rows.of_files([file])
        return [
            document
            for group, num in enumerate(sizes.rows.tolist())
            if num
            for document in rows.slice(file, group, 0, num)
        ]
    with reading(file.path):
        raw = read_bytes(file.path)
    if file.format == "jsonl":
        newline = line_end(raw[:HEAD_BYTES])
        return parse_jsonl(file, columns, raw, 0, lambda start, stop: raw[start:stop], newline)
    text = plain_text(file.path, raw, 0)
    return [Document(text)] if text.strip() else []
