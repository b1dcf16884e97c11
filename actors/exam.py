"""What a pair of layers knows of one corpus: held-out losses, and whole answers where it has facts.

The same windows and questions each time, so that two exams of one corpus can be compared. Trains
nothing. Called by `jobs.learn` and `fork`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from actors import losses
from actors.corpus import Corpus
from actors.evaluation import Pair, heldout_figures, parts
from actors.layers import Batch, both_voices, to_batch
from actors.probing import accuracy_of
from actors.spec import RunSpec


@dataclass(frozen=True)
class Marks:
    """Figures of one exam.

    Attributes:
        heldout: as `heldout_figures`.
        accuracy: whole answers right by voice, and the baseline, in wordings held out; empty where
            the corpus has no facts.
        accuracy_seen: the same in wordings that are trained on.
        num_probes: questions in wordings held out.
    """

    heldout: dict[str, float]
    accuracy: dict[str, float]
    accuracy_seen: dict[str, float]
    num_probes: int


class Exam:
    """Questions about one corpus.

    Args:
        spec: of the run, with the corpus that is asked about; its `evaluation` says how much.
        corpus: the same, open.
        device: where the pair is.
        final: as many windows and probes as a run's last evaluation has, else those of one during
            the run.
    """

    def __init__(self, spec: RunSpec, corpus: Corpus, device: torch.device, final: bool) -> None:
        sizes = spec.evaluation
        self._tokenizer, self._facts = corpus.tokenizer, corpus.facts
        num_windows = sizes.final_windows if final else sizes.windows
        most = max(sizes.probes, sizes.final_probes)  # as the evaluator: a prefix of one order
        num = sizes.final_probes if final else sizes.probes
        self._batch = to_batch(corpus.heldout(num_windows), device)
        self._unseen = self._facts.probes(False, most, spec.seed)[:num] if self._facts else []
        self._seen = self._facts.probes(True, most, spec.seed)[:num] if self._facts else []

    @torch.no_grad()
    def take(self, pair: Pair, ask: bool = True) -> Marks:
        """What the pair knows now; without `ask`, the held-out figures alone."""
        majority = self._facts.majority() if self._facts else {}
        unseen, seen = (self._unseen, self._seen) if ask else ([], [])
        return Marks(
            heldout_figures(pair, None, self._batch),
            accuracy_of(pair, self._tokenizer, unseen, majority),
            accuracy_of(pair, self._tokenizer, seen, majority),
            len(unseen),
        )

    @torch.no_grad()
    def figures(self, pair: Pair) -> dict[str, Any]:
        """As `voice_figures`, of the held-out windows; and `accuracy` and `accuracy_seen` as in
        `Marks` where there are facts.
        """
        figures: dict[str, Any] = dict(voice_figures(pair, self._batch))
        if self._facts:
            majority = self._facts.majority()
            for name, probes in (("accuracy", self._unseen), ("accuracy_seen", self._seen)):
                if probes:
                    figures[name] = accuracy_of(pair, self._tokenizer, probes, majority)
        return figures


@torch.no_grad()
def voice_figures(pair: Pair, batch: Batch) -> dict[str, float]:
    """Loss in nats per token, and share of the tokens that are likeliest, of each voice.

    Keys: own_loss, own_tokens_right, and so on for help and memory.
    """
    sums: dict[str, float] = {}
    for part in parts(batch):
        at, targets_N = part.valid_BT, part.targets_N
        y_BTD = pair.memory.read(part.tokens_BT, part.segments_BT).y
        mixed = both_voices(pair.data, pair.memory, part, y_BTD, at).mixed()
        own_NV = pair.data(part.tokens_BT, part.segments_BT).logits_BTV[at]
        said = {
            "own": losses.log_probabilities(own_NV),
            "help": mixed.log_mixed_NV,
            "memory": losses.log_probabilities(pair.memory.predict(y_BTD[at])),
        }
        for voice, logp_NV in said.items():
            right = (logp_NV.argmax(-1) == targets_N).sum()
            loss = -logp_NV.gather(1, targets_N[:, None]).sum()
            for name, value in ((f"{voice}_tokens_right", right), (f"{voice}_loss", loss)):
                sums[name] = sums.get(name, 0.0) + float(value)
    return {name: value / max(1, batch.num_valid) for name, value in sums.items()}
