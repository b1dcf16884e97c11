"""Some of the token ids of a large vocabulary, on which the encoder's guess is compared with text
and teacher: those that matter at these positions, and a sample that stands for all others.

    sum over all of exp z  ~  sum over the chosen of exp z  +  num_others / num_sampled * sum over
                                                               the sampled of exp z

The estimate of the sum has no bias; of its logarithm a small one. Nothing is predicted by the
guess, so nothing but the encoder's own gradient is computed on a sample. Called by `memory_states`.
Source: sampled softmax (Jean et al., arXiv 1412.2007), with every target in each sum.

Shapes: P positions, M leading ones of them, V token ids, S chosen ones, D memory width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from actors.layers.predicted import Teacher

NUM_SAMPLED = 4096
LEAST_TOKENS = 16384  # of a vocabulary of which a sample is taken


@dataclass(frozen=True)
class SampledTokens:
    """Token ids, ascending.

    Attributes:
        ids_S: the ids.
        logw_S: log of how many ids each stands for.
    """

    ids_S: Tensor
    logw_S: Tensor

    @classmethod
    def of(
        cls, targets_P: Tensor, teachers: Mapping[str, Teacher], num_tokens: int, seed: int
    ) -> SampledTokens:
        """Those of some positions: their targets, each teacher's likeliest, and a sample.

        Args:
            targets_P: the text's tokens.
            teachers: what is predicted at the first of the positions.
            num_tokens: of the vocabulary.
            seed: of the sample.
        """
        device = targets_P.device
        best = [teacher.p_NV.argmax(-1) for teacher in teachers.values()]
        is_sure = torch.zeros(num_tokens, dtype=torch.bool, device=device)
        is_sure[torch.cat([targets_P, *best])] = True
        drawn = torch.Generator().manual_seed(seed)
        some = torch.randperm(num_tokens, generator=drawn)[:NUM_SAMPLED].to(device)
        is_some = torch.zeros_like(is_sure)
        is_some[some] = True
        ids_S = (is_sure | is_some).nonzero()[:, 0]
        sure_S = is_sure[ids_S]
        num_sure = int(sure_S.sum())
        others = math.log((num_tokens - num_sure) / max(1, len(ids_S) - num_sure))
        return cls(ids_S, torch.where(sure_S, 0.0, others))

    def logits(self, logits_PS: Tensor) -> Tensor:
        """Logits of the ids, with what each stands for."""
        return logits_PS + self.logw_S.to(logits_PS.dtype)

    def places(self, targets_P: Tensor) -> Tensor:
        """Where the targets are among the ids."""
        return torch.searchsorted(self.ids_S, targets_P)

    def teacher(self, teacher: Teacher) -> Teacher:
        """A teacher's probabilities of the ids and what they stand for, which sum up to 1."""
        logp_NS = teacher.p_NV[:, self.ids_S].clamp_min(1e-30).log() + self.logw_S
        logp_NS = logp_NS.log_softmax(-1)
        return Teacher(logp_NS.exp(), logp_NS)
