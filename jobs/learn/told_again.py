"""What a memory was told, around its learning: set aside first, and told again afterwards.

Learning moves the encoder, and with it the addresses that writes were solved for. So their
associations are solved again for the memory that has learned, under their names and in their order.
"""

from __future__ import annotations

from typing import Any

from actors.corpus.windows import Windows
from actors.layers.kept_reads import KeptReads
from actors.layers.named_writes import NamedWrite, NamedWrites
from actors.layers.pair import Pair
from actors.measuring.probing import answers_right
from actors.pair import telling
from actors.sources.facts import Probe
from actors.tokenizers.tokenizer import Tokenizer


class ToldAgain:
    """The writes of a pair while it learns.

    Args:
        pair: that learns; it has no writes from now on.
        tokenizer: the run's.
    """

    def __init__(self, pair: Pair, tokenizer: Tokenizer) -> None:
        self._pair, self._tokenizer = pair, tokenizer
        self._writes = pair.memory.writes
        self._before = self._num_answered()
        pair.memory.writes = NamedWrites()

    def tell(self, kept: Windows) -> dict[str, Any] | None:
        """Tells the pair again what it was told; returns what became of it. None: it was nothing.

        Args:
            kept: the sample of its text that the memory keeps.
        """
        if not len(self._writes):
            return None
        memory = self._pair.memory
        reads = KeptReads.of(memory, kept)
        alone = self._num_answered()
        for write in self._writes:
            some = list(write.associations)
            about = write.id, write.told_at
            telling.tell(memory, self._tokenizer, some, reads, *about, taught=write.taught)
        for write in self._writes:
            if not write.on:
                telling.switch(memory, write.id, False, reads)
        return {
            "writes": len(self._writes),
            "associations": sum(len(write.associations) for write in self._on),
            "answered_before": self._before,
            "answered_untold": alone,
            "answered": self._num_answered(),
        }

    @property
    def _on(self) -> tuple[NamedWrite, ...]:
        return self._writes.on

    def _num_answered(self) -> int:
        """Associations of writes that are on, and whose first prompt is answered as told."""
        probes = [
            Probe("", "", one.prompt, (one.answer,), True)
            for write in self._on
            for one in write.associations
            if not one.as_chat  # a probe is the start of a document
        ]
        return sum(answers_right(self._pair, "help", self._tokenizer, probes)) if probes else 0
