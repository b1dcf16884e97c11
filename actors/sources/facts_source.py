"""Facts as a source of documents: sentences in the wordings of a fact table.

The held-out wordings are the held-out split. Nothing here tokenises, shuffles or packs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from actors.sources.documents import TRAINING, Document, Indices
from actors.sources.facts import Fact, FactTable, Wording

FACTS_PER_BLOCK = 64


class FactsSource:
    """The facts of a table, one document per fact and training wording.

    Args:
        table: facts and wordings.
        answers_only: whether only the object is to be learned (`corpus.loss_on: answers`).
    """

    def __init__(self, table: FactTable, answers_only: bool) -> None:
        self._table = table
        self._answers_only = answers_only

    def _documents(self, fact: Fact, wordings: Sequence[Wording]) -> Iterator[Document]:
        """A fact's sentences; where only answers are learned, only those that end in the object,
        as prompt and answer.
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
        """Every training block once, shuffled."""
        return rng.permutation(self.num_blocks)

    def span(self, index: int) -> int:
        """Each block is its own span: it can be read by itself."""
        return index

    def block(self, index: int) -> list[Document]:
        """The block's facts, each in every training wording."""
        facts = self._table.facts[index * FACTS_PER_BLOCK : (index + 1) * FACTS_PER_BLOCK]
        return [
            d for f in facts for d in self._documents(f, self._table.train_wordings[f.relation])
        ]

    def blocks(self, indices: Sequence[int]) -> list[list[Document]]:
        """The documents of several blocks."""
        return [self.block(index) for index in indices]

    def heldout(self, num_blocks: int | None = None) -> Iterator[Document]:
        """Every fact in every held-out wording; `num_blocks` has no effect here."""
        for fact in self._table.facts:
            yield from self._documents(fact, self._table.heldout_wordings[fact.relation])

    def why_empty(self, split: str) -> str:
        """Says that the templates leave no wording on that side, and what to add."""
        kind = "training" if split == TRAINING else "held-out"
        need = " that ends in [Y], as corpus.loss_on 'answers' needs" if self._answers_only else ""
        return (
            f"{len(self._table.facts):,} fact(s) have no {kind} wording{need}; give one in "
            "corpus.templates"
        )
