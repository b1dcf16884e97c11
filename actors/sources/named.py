"""The sources that a corpus names, and facts as one of them: sentences by templates.

Nothing here tokenises, shuffles or packs. Called by `corpus`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from actors.settings.corpus import CorpusSpec
from actors.sources.documents import TRAINING, Document, Indices, Source
from actors.sources.facts import Fact, FactTable, Wording
from actors.sources.file_source import FileSource
from actors.sources.paths import File, expand_paths, refuse_twice

FACTS_PER_BLOCK = 64


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

    def order(self, rng: np.random.Generator) -> Indices:
        """Every block once, shuffled."""
        return rng.permutation(self.num_blocks)

    def span(self, index: int) -> int:
        """Every block is read by itself."""
        return index

    def block(self, index: int) -> list[Document]:
        """Every training wording of the block's facts."""
        facts = self._table.facts[index * FACTS_PER_BLOCK : (index + 1) * FACTS_PER_BLOCK]
        return [
            d for f in facts for d in self._documents(f, self._table.train_wordings[f.relation])
        ]

    def blocks(self, indices: Sequence[int]) -> list[list[Document]]:
        """Several of these."""
        return [self.block(index) for index in indices]

    def heldout(self, num_blocks: int | None = None) -> Iterator[Document]:
        """Every held-out wording of every fact, however many."""
        for fact in self._table.facts:
            yield from self._documents(fact, self._table.heldout_wordings[fact.relation])

    def why_empty(self, split: str) -> str:
        """That the templates leave nothing."""
        kind = "training" if split == TRAINING else "held-out"
        need = " that ends in [Y], as corpus.loss_on 'answers' needs" if self._answers_only else ""
        return (
            f"{len(self._table.facts):,} fact(s) have no {kind} wording{need}; give one in "
            "corpus.templates"
        )


def open_sources(spec: CorpusSpec, seed: int) -> tuple[list[Source], FactTable | None]:
    """The sources that `spec` names, in its order, and the fact table where there is one.

    Raises:
        CorpusError: no such file, unreadable, empty, of a foreign format, without the columns, or
            in two sources.
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
