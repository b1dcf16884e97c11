"""What a pair of layers knows of one corpus: held-out losses, and whole answers where it has facts.

The same windows and questions each time, so that two measurements, before and after learning, can
be compared. (`pair.evaluator` measures the committed pairs of a run.) Trains nothing. Called by
`jobs.learn`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from actors.corpus.general_text import shown_general_text
from actors.corpus.windows import Windows
from actors.layers.batch import Batch, to_batch
from actors.layers.pair import Pair
from actors.machine.progress import Progress, unseen
from actors.measuring.heldout import general_figures, heldout_figures, parts
from actors.measuring.probing import accuracy_of
from actors.measuring.voices import BATCH_TOKENS, VOICES, predict_voice_at
from actors.settings.run import RunSpec
from actors.sources.facts import FactTable, Probe
from actors.tokenizers.tokenizer import Tokenizer

HELD_OUT, TRAINED_ON = "answers in wordings held out", "answers in wordings trained on"


@dataclass(frozen=True)
class Knowledge:
    """What one measurement found.

    Attributes:
        heldout: as `heldout_figures`, and as `general_figures` where general text is shown.
        accuracy: whole answers right by voice, and the baseline, in wordings held out; empty where
            the corpus has no facts.
        accuracy_seen: the same in wordings that are trained on.
        num_probes: questions in wordings held out.
    """

    heldout: dict[str, float]
    accuracy: dict[str, float]
    accuracy_seen: dict[str, float]
    num_probes: int


class HeldoutText(Protocol):
    """What is measured on: a `Corpus`, or text that the memory wrote."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The run's."""

    @property
    def facts(self) -> FactTable | None:
        """Those it consists of; None: it is text."""

    def heldout(self, limit: int) -> Windows:
        """At most `limit` windows that nothing trains on."""


class KnowledgeTest:
    """Measures pairs on one corpus.

    Args:
        spec: of the run, with this corpus; its `evaluation` has the numbers of windows and probes.
        corpus: the same, open.
        device: where the pair is.
        final: as many windows and probes as a run's last evaluation has, else those of one during
            the run.
        general: measure general text too, where the run's evaluations show it.
    """

    def __init__(
        self,
        spec: RunSpec,
        corpus: HeldoutText,
        device: torch.device,
        final: bool,
        general: bool = False,
    ) -> None:
        sizes = spec.evaluation
        self._batch_tokens = sizes.batch_tokens
        self._tokenizer, self._facts = corpus.tokenizer, corpus.facts
        num_windows = sizes.final_windows if final else sizes.windows
        most = max(sizes.probes, sizes.final_probes)  # as the evaluator: a prefix of one order
        num = sizes.final_probes if final else sizes.probes
        self._batch = to_batch(corpus.heldout(num_windows), device)
        other = shown_general_text(spec, corpus.tokenizer) if general else None
        self._general = None if other is None else to_batch(other, device)
        self._unseen = self._facts.probes(False, most, spec.seed)[:num] if self._facts else []
        self._seen = self._facts.probes(True, most, spec.seed)[:num] if self._facts else []

    @torch.no_grad()
    def measure(self, pair: Pair, ask: bool = True, progress: Progress = unseen) -> Knowledge:
        """Held-out figures and, with `ask`, the share of questions that each voice answers."""
        held_out, seen = (self._unseen, self._seen) if ask else ([], [])
        figures = heldout_figures(pair, self._batch, self._batch_tokens, progress)
        if self._general is not None:
            figures |= general_figures(pair, self._general, self._batch_tokens)
        return Knowledge(
            figures,
            self._accuracy(pair, held_out, progress, HELD_OUT),
            self._accuracy(pair, seen, progress, TRAINED_ON),
            len(held_out),
        )

    def _accuracy(
        self, pair: Pair, probes: Sequence[Probe], progress: Progress, what: str
    ) -> dict[str, float]:
        majority = self._facts.majority() if self._facts else {}
        size = self._batch_tokens
        return accuracy_of(pair, self._tokenizer, probes, majority, size, progress, what)

    @torch.no_grad()
    def by_voice(self, pair: Pair, progress: Progress = unseen) -> dict[str, Any]:
        """As `voice_figures`, of the held-out windows; and `accuracy` and `accuracy_seen` as in
        `Knowledge` where there are facts.
        """
        figures: dict[str, Any] = dict(voice_figures(pair, self._batch, self._batch_tokens))
        asked = (
            ("accuracy", self._unseen, HELD_OUT),
            ("accuracy_seen", self._seen, TRAINED_ON),
        )
        for name, probes, what in asked:
            if probes:
                figures[name] = self._accuracy(pair, probes, progress, what)
        return figures


@torch.no_grad()
def voice_figures(pair: Pair, batch: Batch, batch_tokens: int = BATCH_TOKENS) -> dict[str, float]:
    """Loss in nats per token, and share of the tokens that are likeliest, of each voice.

    Keys: own_loss, own_tokens_right, and so on for help and memory.
    """
    sums: defaultdict[str, float] = defaultdict(float)
    for part in parts(batch, batch_tokens):
        for voice in VOICES:
            at = 0
            pieces = predict_voice_at(pair, voice, part.tokens_BT, part.segments_BT, part.valid_BT)
            for logp_NV in (piece.logp for piece in pieces):
                targets_N = part.targets_N[at : at + len(logp_NV)]
                at += len(logp_NV)
                sums[f"{voice}_tokens_right"] += float((logp_NV.argmax(-1) == targets_N).sum())
                sums[f"{voice}_loss"] -= float(logp_NV.gather(1, targets_N[:, None]).sum())
    names = [f"{voice}_{what}" for voice in VOICES for what in ("tokens_right", "loss")]
    return {name: sums[name] / max(1, batch.num_valid) for name in names}
