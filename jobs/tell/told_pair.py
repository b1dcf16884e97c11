"""A finished run's pair and what it was told, kept in its export: what the commands and the HTTP
service do. Prints nothing.

Each change is solved and kept under the store's lock, on top of what is kept then, so two processes
never solve past each other. Where keeping fails the pair is what it was.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from actors.corpus.corpus import Corpus
from actors.corpus.kept_windows import kept_windows
from actors.corpus.windows import Windows
from actors.formats import listed
from actors.layers.named_writes import Association, NamedWrite, NamedWrites
from actors.machine.progress import Progress, unseen
from actors.measuring.answers import is_answered
from actors.measuring.probing import answer_tokens
from actors.measuring.told_keys import sequences
from actors.pair.conversation import conversation_ids, prompt_ids, turn_ends
from actors.pair.speech import SpeechOptions, speak
from actors.pair.tandem_model import TandemModel, load_tandem_model
from actors.settings.run import MEMORY
from actors.tokenizers.tokenizer import Tokenizer
from actors.weights.writes_store import Kept, WritesStore, refuse_unfit_id
from actors.wire import ConfigError, TandemError
from jobs.tell.sample_store import SampleStore
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.run_dir.saved_config import saved_config
from orchestrator.settings.file_names import CONFIG

SHOWN_IDS = 20
MOST_SHOWN = 20  # associations of a tell that are asked before and after it
TOKENS_AFTER = 2  # an answer's, so that one that goes on is seen to

Say = Callable[[str], None]


def _silent(text: str) -> None:
    """Says nothing."""


class UnknownWriteError(ConfigError):
    """There is no write of that name, or there is none any more."""


@dataclass(frozen=True)
class Said:
    """What the pair says to a prompt before and after a tell."""

    prompt: str
    answer: str
    before: str
    after: str

    @property
    def right(self) -> bool:
        """Whether it gives the answer afterwards."""
        return is_answered(f" {self.after}", self.answer, self.prompt)

    def to_json(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "prompt": self.prompt,
            "answer": self.answer,
            "before": self.before,
            "after": self.after,
            "right": self.right,
        }


@dataclass(frozen=True)
class ToldResult:
    """What one tell did.

    Attributes:
        write: that it made.
        said: before and after, of its first associations.
        seconds: to solve and to keep it.
    """

    write: NamedWrite
    said: tuple[Said, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            **described(self.write),
            "said": [said.to_json() for said in self.said],
            "seconds": round(self.seconds, 3),
        }


def described(write: NamedWrite) -> dict[str, Any]:
    """A write as lists of them show it, as JSON takes it."""
    return {
        "id": write.id,
        "on": write.on,
        "taught": write.taught,
        "told_at": write.told_at,
        "associations": [association.to_json() for association in write.associations],
        "tokens": len(write.keys),
        "rows": len(write.rows_U),
        "bytes": write.num_bytes,
        "figures": dict(write.figures),
    }


@contextmanager
def _refused() -> Iterator[None]:
    """What can't be told, as an error of the person who asked."""
    try:
        yield
    except TandemError:
        raise
    except ValueError as err:
        raise ConfigError(f"this can't be told: {err}") from err


class ToldPair:
    """One export's pair, with its writes.

    Args:
        export: directory of the export; any fsspec URL.
        sample: gives the text that the memory keeps, for an export of an earlier version without.
        progress: sees how far the loading is.

    Attributes:
        model: the pair; its writes are those that were kept when it was last refreshed.

    Raises:
        ConfigError: there is no finished export, or a file of it is damaged.
        StorageError: its storage is away.
    """

    def __init__(
        self,
        export: str,
        sample: Callable[[Tokenizer], Windows] | None = None,
        progress: Progress = unseen,
    ) -> None:
        self.store = WritesStore(export)
        self.model: TandemModel = load_tandem_model(export, progress)
        memory, words = self.model.memory_layer, self.model.words
        if memory.kept is None and sample is not None and words is not None:
            memory.kept = sample(words)
        self._kept = Kept()
        self.refresh()

    def refresh(self) -> bool:
        """Takes over what other processes changed; returns whether they did. Raises: as
        `WritesStore.read`.
        """
        kept = self.store.read(self._kept)
        if kept is self._kept:
            return False
        self._take(kept)
        return True

    def _take(self, kept: Kept) -> None:
        self._kept = kept
        self.model.memory_layer.writes = kept.writes

    @property
    def writes(self) -> NamedWrites:
        """In their order."""
        return self._kept.writes

    @contextmanager
    def _changing(self, doing: str, say: Say) -> Iterator[Callable[[], None]]:
        """During the block the model's writes may be changed; what is yielded keeps them."""
        with self.store.changing(doing, say) as change:
            self.refresh()
            try:
                yield lambda: self._take(change.keep(self.model.memory_layer.writes))
            finally:
                self._take(self._kept)  # as it was, where they were not kept

    def tell(
        self,
        associations: Sequence[Association],
        id: str | None = None,
        say: Say = _silent,
        progress: Progress = unseen,
    ) -> ToldResult:
        """Solves one write for these associations, and keeps it.

        Args:
            associations: that are to be answered from now on.
            id: name of the write; None: the next free one.
            say: called where another process has to be waited for.
            progress: sees what is being done.

        Raises:
            ConfigError: an association can't be told; the message says which.
            LockedError: another process changes the writes for too long.
            StorageError: the write can't be kept; nothing changed.
        """
        if id is not None:
            refuse_unfit_id(id)
        shown = associations[:MOST_SHOWN]
        if (words := self.model.words) is not None:
            with _refused():  # before what can't be told is asked
                sequences(words, associations, self.model.longest)
        with self._changing("tell", say) as keep:
            progress("asking what the pair says now")
            before = self._ask(shown)
            self._find_sample(progress)
            began = time.perf_counter()
            with _refused():
                write = self.model.tell(associations, id=id or self._free_id(), progress=progress)
            keep()
            seconds = time.perf_counter() - began
        progress("asking what it says now that it is told")
        after = self._ask(shown)
        said = (
            Said(one.prompt, one.answer, was, now)
            for one, was, now in zip(shown, before, after, strict=True)
        )
        return ToldResult(write, tuple(said), seconds)

    def _find_sample(self, progress: Progress) -> None:
        """The encodings of kept text: those beside the export, or made and kept there."""
        model, samples = self.model, SampleStore(self.store.directory)
        if model.has_reads or model.memory_layer.kept is None:
            return
        trained = self.store.memory()
        if (found := samples.read(model.memory_layer, trained)) is not None:
            model.give_reads(found)
            return
        samples.write(model.sample(progress), trained)

    def _ask(self, associations: Sequence[Association]) -> list[str]:
        model = self.model
        words = model.words
        assert words is not None  # or nothing could be told
        longest = max(len(answer_tokens(words, one.answer)) for one in associations)
        ends = turn_ends(model) if any(one.as_chat for one in associations) else ()
        options = SpeechOptions("help", longest + TOKENS_AFTER, ends=ends)
        prompts = [
            conversation_ids(model, [{"role": "user", "content": one.prompt}])
            if one.as_chat
            else prompt_ids(model, one.prompt)
            for one in associations
        ]
        return [said.text.strip() for said in speak(model, prompts, options)]

    def untell(self, id: str, say: Say = _silent) -> NamedWrite:
        """Takes a write back; returns it.

        Raises:
            UnknownWriteError: there is none of that name.
            LockedError, StorageError: as `tell`.
        """
        with self._changing("untell", say) as keep:
            write = self._find(id)
            self.model.untell(id)
            keep()
        return write

    def switch(self, id: str, on: bool, say: Say = _silent) -> NamedWrite:
        """Switches a write on or off; returns it as it is now. Raises: as `untell`."""
        with self._changing("switch", say) as keep:
            self._find(id)
            self.model.switch_told(id, on)
            keep()
        return self._find(id)

    def _free_id(self) -> str:
        """The number after all that were ever given, those taken back too."""
        known = (*(write.id for write in self.writes), *self._kept.removed)
        return str(max((int(id) for id in known if id.isdecimal()), default=0) + 1)

    def _find(self, id: str) -> NamedWrite:
        known = [write.id for write in self.writes]
        if id in known:
            return self.writes.get(id)
        if id in self._kept.removed:
            raise UnknownWriteError(f"write {id!r} was taken back already; see: tandem told RUN")
        near = difflib.get_close_matches(id, known, 1)
        there = (
            f"told and not taken back: {listed(known, SHOWN_IDS)}" if known else "nothing is told"
        )
        hint = f"did you mean {near[0]!r}?" if near else there
        raise UnknownWriteError(f"no write {id!r}; {hint}")


def run_sample(run_dir: RunDir) -> Callable[[Tokenizer], Windows] | None:
    """What gives the sample of a run's text, made of its corpus; None: it is no run's directory."""
    if not run_dir.exists(CONFIG):
        return None

    def sample(tokenizer: Tokenizer) -> Windows:
        config = saved_config(run_dir)
        corpus = Corpus.open(config, tokenizer)
        return kept_windows(corpus, MEMORY, config.memory.kept_reads)

    return sample
