"""What a person tells a loaded pair: `model.tell`, `told`, `untell`, `telling`.

A mixin of `TandemModel`, whose pair it changes in memory alone; the commands keep what was told
beside the export. Solves nothing itself: `telling` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from actors.layers.kept_reads import KeptReads
from actors.layers.memory_layer import MemoryLayer
from actors.layers.named_writes import Association, NamedWrite
from actors.machine.progress import Progress, unseen
from actors.pair import telling
from actors.settings.groups import KEPT_READS
from actors.tokenizers.tokenizer import Tokenizer

Told = str | Association | Sequence[Association]


class Teller:
    """Tells a memory.

    Attributes:
        memory_layer: the memory.
        words: the run's tokenizer; None: the pair can't be told.
        longest: tokens that the model reads at most; None: any number.
    """

    memory_layer: MemoryLayer
    words: Tokenizer | None = None
    longest: int | None = None
    _kept: KeptReads | None = None

    @property
    def kept_reads(self) -> KeptReads:
        """The memory's sample of its own reads, made once.

        Raises:
            ValueError: it keeps none.
        """
        return self.sample(unseen)

    @property
    def has_reads(self) -> bool:
        """Whether the sample is made, or given."""
        return self._kept is not None

    def give_reads(self, kept: KeptReads) -> None:
        """The sample, as it was made of the same memory and text before."""
        self._kept = kept

    def sample(self, progress: Progress) -> KeptReads:
        """As `kept_reads`; `progress` sees how far it is."""
        if self._kept is None:
            if self.memory_layer.kept is None:
                raise ValueError(
                    "this memory keeps no sample of what it was trained on, so what is told would "
                    "change what is near it: it was exported by an earlier version. `tandem tell "
                    "RUN` makes one from the run's corpus; here, set model.memory_layer.kept to "
                    f"actors.corpus.kept_windows.kept_windows(corpus, 'memory', {KEPT_READS})"
                )
            self._kept = KeptReads.of(self.memory_layer, self.memory_layer.kept, progress=progress)
        return self._kept

    def _for_solving(self) -> KeptReads:
        """The sample where a write is rows, which are solved again beside it; else none of it: to
        read it takes seconds.
        """
        if any(write.places is None for write in self.memory_layer.writes):
            return self.kept_reads
        return KeptReads.none(self.memory_layer)

    def tell(
        self,
        prompt: Told,
        answer: str | None = None,
        wordings: Sequence[str] = (),
        id: str | None = None,
        progress: Progress = unseen,
        subject: str = "",
    ) -> NamedWrite:
        """The answer is given to the prompt from now on; no weight is trained.

        Args:
            prompt: text before the answer; or one or several `Association`s, without an answer.
            answer: what is to follow it.
            wordings: other prompts for the same answer; the more, the further it reaches.
            id: the write's name; None: the next free number.
            progress: sees what is being done, as `actors.machine.progress` has it.
            subject: what the prompt is about, as it names it: the answer is not said of anything
                else. Empty: words like names are taken for it, or else each word.

        Returns: what was written; `untell(write.id)` takes it back.

        Raises:
            ValueError: nothing to tell, too long, two answers to one prompt, a subject that no
                prompt names, or a known id.
        """
        if self.words is None:
            raise ValueError("this model has no tokenizer of its run: load it by tandem.load")
        if isinstance(prompt, str):
            if answer is None:
                raise ValueError(f"{prompt!r} was told without an answer: give one")
            told = [Association(prompt, answer, tuple(wordings), subject=subject)]
        else:
            if answer is not None or wordings or subject:
                raise ValueError(
                    "associations have their answers, wordings and subjects: give nothing else"
                )
            told = [prompt] if isinstance(prompt, Association) else list(prompt)
        return telling.tell(
            self.memory_layer,
            self.words,
            told,
            self.sample(progress),
            telling.free_id(self.memory_layer.writes) if id is None else id,
            longest=self.longest,
            progress=progress,
        )

    def told(self) -> tuple[NamedWrite, ...]:
        """What was told and not taken back, oldest first."""
        return self.memory_layer.writes.writes

    def untell(self, id: str) -> None:
        """Takes back what was told under that id; with nothing left, predictions have their old
        bits.

        Raises:
            KeyError: there is no such write.
        """
        telling.untell(self.memory_layer, id, self._for_solving())

    def switch_told(self, id: str, on: bool) -> None:
        """Switches a write off or on. Raises: KeyError: there is no such write."""
        telling.switch(self.memory_layer, id, on, self._for_solving())

    @contextmanager
    def telling(
        self,
        prompt: Told,
        answer: str | None = None,
        wordings: Sequence[str] = (),
        subject: str = "",
    ) -> Iterator[NamedWrite]:
        """As `tell`, inside the `with` block alone."""
        before = self.memory_layer.writes
        write = self.tell(prompt, answer, wordings, subject=subject)
        try:
            yield write
        finally:
            if self.memory_layer.writes.writes[:-1] == before.writes:
                self.memory_layer.writes = before
            elif write.id in self.memory_layer.writes:
                self.untell(write.id)
