"""What a layer predicts at some positions, as the losses need it: numbers by position, with their
gradients of the logits.

Knows no layers and no losses. Called by the trainers, the learner and the layers.

Shapes: N positions, M of the first of them, K token ids, V all token ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from actors.operators.precision import widen

TINY_BUCKET = 1e-6  # a bucket's probability is no smaller: it is 1 less a sum in float32


def log_probabilities(logits: Tensor) -> Tensor:
    """log softmax (..., V) in float32; bf16 would round away what two distributions differ by."""
    return widen(logits).log_softmax(-1)


def entropy(logp: Tensor) -> Tensor:
    """Entropy (...), nats, of distributions given by their log probabilities (..., V)."""
    return -(logp.exp() * logp).sum(-1)


@dataclass(frozen=True)
class Teacher:
    """What a layer that gets no gradient predicts at N positions, computed once for all losses.

    Attributes:
        p_NV: probabilities.
        given_logp_NV: their logarithms; None: not kept.
        given_entropy_N: entropy of each position, nats; None: not computed yet.
    """

    p_NV: Tensor
    given_logp_NV: Tensor | None = None
    given_entropy_N: Tensor | None = None

    @classmethod
    def of(cls, given: Teacher | Tensor) -> Teacher:
        """From the layer's logits (N, V); a teacher is returned as it is."""
        if isinstance(given, Teacher):
            return given
        with torch.no_grad():
            logp_NV = log_probabilities(given)
            return cls(logp_NV.exp(), logp_NV)

    @classmethod
    @torch.no_grad()
    def fused(cls, logits_NV: Tensor) -> Teacher:
        """From the layer's logits, without their logarithms."""
        z_NV = widen(logits_NV)
        p_NV = z_NV.softmax(-1)
        return cls(p_NV, None, _over(p_NV) + _below(p_NV, z_NV, z_NV.amax(-1)))

    @property
    def logp_NV(self) -> Tensor:
        """Log probabilities."""
        assert self.given_logp_NV is not None
        return self.given_logp_NV

    @cached_property
    def entropy_N(self) -> Tensor:
        """Entropy of each position, nats."""
        if self.given_entropy_N is not None:
            return self.given_entropy_N
        return -(self.p_NV * self.logp_NV).sum(-1)

    def first(self, num: int) -> Teacher:
        """The first `num` positions."""
        if num == len(self):
            return self
        parts = (self.given_logp_NV, self.given_entropy_N)
        return Teacher(self.p_NV[:num], *(None if x is None else x[:num] for x in parts))

    def kl_to(self, student_logp_NV: Tensor) -> Tensor:
        """KL(teacher || student) of each position, (N,), nats."""
        return (self.p_NV * (self.logp_NV - student_logp_NV)).sum(-1)

    @property
    def least_cross_N(self) -> Tensor:
        """The cross-entropy of a prediction that is the teacher's own, nats."""
        return self.entropy_N

    def __len__(self) -> int:
        return len(self.p_NV)


@dataclass(frozen=True)
class FewLikeliest:
    """What a teacher found likeliest at N positions, K token ids each; of all others together only
    the probability is known.

    Attributes:
        ids_NK: the token ids, the likeliest first.
        p_NK: their probabilities.
        entropy_N: of the teacher's whole distribution, nats.
    """

    ids_NK: Tensor
    p_NK: Tensor
    entropy_N: Tensor

    @property
    def rest_N(self) -> Tensor:
        """Probability of all other ids."""
        return (1.0 - self.p_NK.sum(-1)).clamp_min(0.0)

    @property
    def least_cross_N(self) -> Tensor:
        """As `Teacher.least_cross_N`, of the ids and the bucket."""
        p_NB = torch.cat([self.p_NK, self.rest_N.unsqueeze(-1)], dim=-1)
        return -torch.xlogy(p_NB, p_NB).sum(-1)

    def at(self, some: slice) -> FewLikeliest:
        """Some of the positions."""
        return FewLikeliest(self.ids_NK[some], self.p_NK[some], self.entropy_N[some])

    def first(self, num: int) -> FewLikeliest:
        """The first `num` positions."""
        return self.at(slice(num))

    def __len__(self) -> int:
        return len(self.p_NK)


def _over(q_NV: Tensor) -> Tensor:
    """log sum exp of logits less the largest of them, (N,), from their softmax: of the largest, so
    that nothing underflows.
    """
    return -q_NV.amax(-1).log()


def _below(weights_MV: Tensor, z_MV: Tensor, top_M: Tensor) -> Tensor:
    """The largest logit less a mean of the logits, (M,)."""
    return top_M - (weights_MV * z_MV).sum(-1)


Teachers = Mapping[str, Teacher | FewLikeliest]
NO_TEACHERS: Teachers = MappingProxyType({})


class Predicted:
    """What a layer predicts at N positions: numbers by position, all with one gradient, in a third
    of the passes over the logits that autograd would take step by step.

    Args:
        logits_NV: of any precision.
        targets_N: the tokens of the text there.
        teachers: what `kl` may be asked for, each at the first of the positions.
        num_entropies: leading positions whose entropy may be asked for.

    Attributes:
        nll_N: -log of the probability of each target, nats.
        logsumexp_N: log of the sum of exp of each position's logits.
    """

    def __init__(
        self,
        logits_NV: Tensor,
        targets_N: Tensor,
        teachers: Teachers = NO_TEACHERS,
        num_entropies: int = 0,
    ) -> None:
        self._teachers = teachers
        known = [_known(teacher) for teacher in teachers.values()]
        self.nll_N, self.logsumexp_N, self._entropy_M, *crosses = _Statistics.apply(
            logits_NV, targets_N, num_entropies, *(x for pair in known for x in pair)
        )
        self._crosses = dict(zip(teachers, crosses, strict=True))

    def entropy(self, num: int) -> Tensor:
        """Entropy of the first `num` positions, (M,), nats, without gradient."""
        assert num <= len(self._entropy_M)
        return self._entropy_M[:num]

    def spread(self, some: slice) -> tuple[Tensor, Tensor]:
        """`logsumexp_N` and the entropy, nats, of some positions, without gradient."""
        assert len(self._entropy_M) == len(self.nll_N)
        return self.logsumexp_N.detach()[some], self._entropy_M[some]

    def kl(self, num: int, *names: str) -> tuple[Tensor, ...]:
        """KL(teacher || prediction) of the first `num` positions, (M,), nats, for each teacher."""
        return tuple(
            self._crosses[name][:num] - self._teachers[name].least_cross_N[:num] for name in names
        )


def _known(teacher: Teacher | FewLikeliest) -> tuple[Tensor, Tensor | None]:
    """Probabilities, and of which token ids where they are not of all."""
    if isinstance(teacher, Teacher):
        return teacher.p_NV, None
    return teacher.p_NK, teacher.ids_NK


class _Statistics(torch.autograd.Function):
    """Numbers of each position that losses are made of, and their gradients of the logits z, with
    q = softmax(z):

        nll = lse - z_y                  dz = q - onehot(y)
        lse = log sum exp z              dz = q
        H(q) = lse - sum q z             none
        cross entropy = lse - sum p z    dz = q - p, for each teacher p
        of a few ids and a bucket of     dz = q - p at the ids,
        probabilities r and q':              q (1 - r / q') elsewhere
        - sum p log q - r log q'

    q is made in the forward pass and becomes dz in the backward pass, in place.
    """

    @staticmethod
    def forward(
        ctx: Any, logits_NV: Tensor, targets_N: Tensor, num_entropies: int, *known: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Returns nll (N,), lse (N,), entropies, and a cross entropy for each teacher, of which
        `known` has two entries, as `_known` gives them.
        """
        z_NV = widen(logits_NV)
        q_NV = z_NV.softmax(-1)
        top_N, over_N = z_NV.amax(-1), _over(q_NV)
        chosen_N = z_NV.gather(1, targets_N[:, None])[:, 0]

        def less_mean(weights_MV: Tensor) -> Tensor:
            num = len(weights_MV)
            return over_N[:num] + _below(weights_MV, z_NV[:num], top_N[:num])

        entropy_M = less_mean(q_NV[:num_entropies])
        crosses, saved = [], []
        for p, ids_MK in zip(known[::2], known[1::2], strict=True):
            assert p is not None
            if ids_MK is None:
                crosses.append(less_mean(p))
                saved += [p, None, None]
                continue
            num, rest_M = len(p), (1.0 - p.sum(-1)).clamp_min(0.0)
            others_M = (1.0 - q_NV[:num].gather(1, ids_MK).sum(-1)).clamp_min(TINY_BUCKET)
            among_MK = z_NV[:num].gather(1, ids_MK) - top_N[:num, None]
            of_ids_M = (p * (over_N[:num, None] - among_MK)).sum(-1)
            crosses.append(of_ids_M - rest_M * others_M.log())
            saved += [p, ids_MK, rest_M / others_M]
        ctx.save_for_backward(targets_N, q_NV, *saved)
        ctx.dtype = logits_NV.dtype
        ctx.mark_non_differentiable(entropy_M)
        return over_N + (top_N - chosen_N), over_N + top_N, entropy_M, *crosses

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, nll_N: Tensor, lse_N: Tensor, _entropy_M: Tensor, *crosses: Tensor
    ) -> tuple[Tensor | None, ...]:
        """The logits' gradient; q is used up, so that a graph has one backward pass."""
        targets_N, dz_NV, *saved = ctx.saved_tensors
        known = list(zip(saved[::3], saved[1::3], saved[2::3], crosses, strict=True))
        whole_N, of_ids = nll_N + lse_N, []
        for p_MK, ids_MK, ratio_M, cross_M in known:
            if ids_MK is None:
                whole_N[: len(cross_M)] += cross_M
            else:
                whole_N[: len(cross_M)] += cross_M * (1.0 - ratio_M)
                q_MK = dz_NV[: len(cross_M)].gather(1, ids_MK)
                of_ids.append((ids_MK, (q_MK * ratio_M[:, None] - p_MK) * cross_M[:, None]))
        dz_NV.mul_(whole_N[:, None])
        for p_MV, ids_MK, _, cross_M in known:
            if ids_MK is None:
                dz_NV[: len(p_MV)].addcmul_(p_MV, cross_M[:, None], value=-1)
        rows_N = torch.arange(len(targets_N), device=targets_N.device)
        for ids_MK, more_MK in of_ids:
            dz_NV[rows_N[: len(ids_MK), None], ids_MK] += more_MK
        dz_NV[rows_N, targets_N] -= nll_N  # no place comes twice: in any order the same bits
        return dz_NV.to(ctx.dtype), None, None, *(None for _ in range(2 * len(crosses)))
