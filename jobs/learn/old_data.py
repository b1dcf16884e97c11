"""What keeps the old while a memory learns: text that it writes itself, or the run's own corpus.

Decides which, and opens it; what was kept is measured on the run's corpus where that is there, else
on written text that is not rehearsed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from actors.settings.run import MEMORY
from actors.wire import ConfigError, TandemError
from orchestrator.reporting.task_progress import TaskProgress
from orchestrator.settings.config import Config

if TYPE_CHECKING:
    from actors.corpus.corpus import Corpus
    from actors.corpus.windows import Windows
    from actors.layers.memory_layer import MemoryLayer
    from actors.learning.rehearsal import WrittenCorpus
    from actors.tokenizers.tokenizer import Tokenizer

OldFrom = Literal["memory", "corpus"]
CAN_WRITE = 0.4  # of what a memory writes is likely: good writers have .5 to .7, scraps .0 to .3


def old_from(wanted: OldFrom | None, summary: Mapping[str, Any]) -> OldFrom:
    """Where old data comes from; by default from a memory that can write.

    Args:
        wanted: by the option.
        summary: of the run.
    """
    if wanted is not None:
        return wanted
    likely = summary.get("heldout", {}).get("written_likely_frac")
    return "memory" if likely is not None and likely >= CAN_WRITE else "corpus"


@dataclass(frozen=True)
class OldData:
    """Attributes:
    rehearsed: what keeps the old.
    measured: what is asked to see what was kept.
    source: which of the two `rehearsed` is.
    """

    rehearsed: Corpus | WrittenCorpus
    measured: Corpus | WrittenCorpus
    source: OldFrom

    def sample(self, num_reads: int) -> Windows:
        """Old text for a memory that keeps none yet, as that of a run of an earlier version."""
        from actors.corpus.corpus import Corpus
        from actors.corpus.kept_windows import kept_windows

        if isinstance(self.measured, Corpus):
            return kept_windows(self.measured, MEMORY, num_reads)
        return self.measured.sample(num_reads)


def open_old(
    config: Config,
    memory: MemoryLayer,
    tokenizer: Tokenizer,
    source: OldFrom,
    seed: int,
    subjects: Collection[str],
    progress: TaskProgress,
) -> OldData:
    """Opens the old data.

    Args:
        config: of the run.
        memory, tokenizer: the run's.
        source: where from.
        seed: of what is written.
        subjects: that are to be learned: what is written of them is left out.
        progress: shows what is written, and where the corpus is missed.

    Raises:
        ConfigError: the memory writes nothing that could be rehearsed.
        TandemError: the corpus is wanted and can't be opened.
    """
    from actors.corpus.corpus import Corpus
    from actors.learning.rehearsal import WrittenCorpus

    if source == "corpus":
        corpus = Corpus.open(config, tokenizer)
        return OldData(corpus, corpus, source)
    try:
        written = WrittenCorpus.write(
            memory, tokenizer, config.corpus.window, seed, subjects, progress=progress
        )
    except ValueError as err:
        raise ConfigError(f"{err}: --old-from corpus") from err
    try:
        return OldData(written, Corpus.open(config, tokenizer), source)
    except TandemError as err:
        progress.says(
            f"the run's corpus can't be opened ({err}); what is kept is measured on written text"
        )
        return OldData(written, written, source)
