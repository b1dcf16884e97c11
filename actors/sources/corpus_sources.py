"""The sources that a corpus names, opened in the order of the config; no file is in two of them."""

from __future__ import annotations

from actors.settings.corpus import CorpusSpec
from actors.sources.documents import Source
from actors.sources.facts import FactTable
from actors.sources.facts_source import FactsSource
from actors.sources.file_source import FileSource
from actors.sources.paths import File, expand_paths, refuse_twice


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
