"""What a pair of layers is asked: whole answers, losses, what changed. Called by the cells of
`learning`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.corpus.block_reader import encode
from actors.corpus.corpus import Corpus
from actors.corpus.windows import Windows, pack
from actors.layers.batch import Batch, to_batch
from actors.layers.pair import Pair
from actors.machine.device import device_of
from actors.measuring.heldout import heldout_figures
from actors.measuring.probing import answer_reflection, answers_right, prompt_tokens
from actors.measuring.voices import VOICES, Voice
from actors.settings.run import RunSpec
from actors.sources.documents import Document
from actors.sources.facts import Probe, baseline_accuracy
from actors.tokenizers.tokenizer import Tokenizer
from benchmarks.learning_controls import LAMBDAS, mixed_at
from benchmarks.learning_data import Questions

Json = dict[str, Any]
LOSS: Mapping[Voice, str] = {"own": "own_loss", "help": "help_loss", "memory": "self_loss"}


def facts_batch(spec: RunSpec, tokenizer: Tokenizer, limit: int) -> Batch:
    """At most `limit` windows of facts in wordings that are held out."""
    return to_batch(Corpus.open(spec, tokenizer).heldout(limit), device_of(spec.data.workers.gpus))


def text_windows(path: Path, tokenizer: Tokenizer, window: int, limit: int) -> Windows:
    """The first windows of a text file, at most `limit`."""
    pieces = encode(tokenizer, [Document(path.read_text(encoding="utf-8"))])
    return pack(pieces, window, tokenizer.end_of_text)[:limit]


def text_batch(path: Path, spec: RunSpec, tokenizer: Tokenizer, limit: int) -> Batch:
    """As `text_windows`, where the run's data layer is."""
    windows = text_windows(path, tokenizer, spec.corpus.window, limit)
    return to_batch(windows, device_of(spec.data.workers.gpus))


def share(right: Sequence[bool]) -> float:
    """Of these, how many are true."""
    return sum(right) / max(1, len(right))


class Exam:
    """Questions about one table of facts, for pairs that are asked again and again.

    Args:
        tokenizer: the run's.
        questions: what is asked.
        heldout: facts in wordings that are held out.
    """

    def __init__(self, tokenizer: Tokenizer, questions: Questions, heldout: Batch) -> None:
        self._tokenizer, self._questions, self._heldout = tokenizer, questions, heldout
        self._prompts = [prompt_tokens(tokenizer, probe.prompt) for probe in questions.unseen]
        self._said: list[tuple[int, ...]] = []

    def right(self, pair: Pair, voice: Voice, probes: Sequence[Probe]) -> float:
        """Share of the probes that `voice` answers."""
        return share(answers_right(pair, voice, self._tokenizer, probes))

    def point(self, pair: Pair, voices: Sequence[Voice] = VOICES) -> Json:
        """Accuracy of the voices in unseen wordings."""
        return {voice: self.right(pair, voice, self._questions.unseen) for voice in voices}

    def compared(self, pair: Pair) -> Json:
        """Help loss, and of the data layer's answers that changed since the last call those that
        the memory gives.
        """
        reflection, self._said = answer_reflection(pair, self._said, self._tokenizer, self._prompts)
        figures = heldout_figures(pair, self._heldout)
        return {
            "help_loss": figures["help_loss"],
            "changed": reflection.changed,
            "followed": reflection.followed,
        }

    def final(self, pair: Pair, voices: Sequence[Voice] = VOICES) -> Json:
        """All figures, accuracies in both kinds of wordings, and the baseline."""
        questions, figures = self._questions, heldout_figures(pair, self._heldout)
        return {
            **figures,
            "gains": self._gains(pair),
            "unseen": self.point(pair, voices),
            "seen": {voice: self.right(pair, voice, questions.seen) for voice in voices},
            "baseline": baseline_accuracy(questions.unseen, questions.majority),
            "baseline_seen": baseline_accuracy(questions.seen, questions.majority),
            "probes": len(questions.unseen),
        }

    def _gains(self, pair: Pair) -> list[Json]:
        """Help gain of each held-out window, and its positions."""
        rows = range(len(self._heldout.tokens_BT))
        windows = [self._heldout.rows(slice(row, row + 1)) for row in rows]
        return [
            {"gain": heldout_figures(pair, window)["help_gain"], "num": window.num_valid}
            for window in windows
            if window.num_valid
        ]

    def mixed(self, pair: Pair) -> Json:
        """Accuracy of an ensemble in unseen wordings, at the best lambda."""
        return {"help": max(self._over_lambdas(pair, self._help_right))}

    def mixed_final(self, pair: Pair) -> Json:
        """Its loss and what it gains on the data layer alone, at the best lambda for that."""
        loss = min(self._over_lambdas(pair, self._help_loss))
        own = heldout_figures(pair, self._heldout)["own_loss"]
        return {"help_loss": loss, "help_gain": own - loss}

    def _over_lambdas(self, pair: Pair, figure: Callable[[Pair], float]) -> list[float]:
        found = []
        for share in LAMBDAS:
            with mixed_at(pair.data.port, share):
                found.append(figure(pair))
        return found

    def _help_right(self, pair: Pair) -> float:
        return self.right(pair, "help", self._questions.unseen)

    def _help_loss(self, pair: Pair) -> float:
        return heldout_figures(pair, self._heldout)["help_loss"]
