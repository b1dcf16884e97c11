"""The losses, each a pure function of logits or log probabilities and the positions that count.

Shapes: N positions, V token ids. Every function averages over the positions it is given; callers
choose them. Teachers are under stop-gradient here, and logits of any precision become float32, so
that a caller can't forget it. Source of all: DESIGN 1, where no paper is named.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from actors.layers.precision import widen

JS_NOISE = 1e-6  # nats; what rounding makes of two equal float32 distributions


def log_probabilities(logits: Tensor) -> Tensor:
    """log softmax (..., V) in float32; bf16 would round away what two distributions differ by."""
    return widen(logits).log_softmax(-1)


@dataclass(frozen=True)
class Teacher:
    """What a layer that gets no gradient says at N positions, worked out once for all who ask."""

    logp_NV: Tensor
    p_NV: Tensor

    @classmethod
    def of(cls, said: Teacher | Tensor) -> Teacher:
        """Of the layer's logits (N, V); of a teacher, itself."""
        if isinstance(said, Teacher):
            return said
        with torch.no_grad():
            logp_NV = log_probabilities(said)
            return cls(logp_NV, logp_NV.exp())

    @cached_property
    def entropy_N(self) -> Tensor:
        """Entropy of each position, nats."""
        return -(self.p_NV * self.logp_NV).sum(-1)

    def first(self, num: int) -> Teacher:
        """The first `num` positions."""
        return self if num == len(self) else Teacher(self.logp_NV[:num], self.p_NV[:num])

    def kl_to(self, student_logp_NV: Tensor) -> Tensor:
        """KL(teacher || student) of each position, (N,), nats."""
        return (self.p_NV * (self.logp_NV - student_logp_NV)).sum(-1)

    def __len__(self) -> int:
        return len(self.logp_NV)


def own(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """L_own = -E log p_theta(y | x), memory reads off; nats per token."""
    return F.cross_entropy(widen(logits_NV), targets_N)


def unsaid(logits_NV: Tensor, beyond_N: Tensor) -> Tensor:
    """-E log of the probability that theta gives to any token at all; nats.

    What the loss over all output rows has more than `own`, which is over the tokenizer's ids.
    Without it nothing keeps the rows of a padded vocabulary down while the hidden states move.

    Args:
        logits_NV: of the tokenizer's ids.
        beyond_N: logsumexp of those of all other rows.
    """
    return F.softplus(widen(beyond_N) - widen(logits_NV).logsumexp(-1)).mean()


def help_(log_mixed_NV: Tensor, targets_N: Tensor) -> Tensor:
    """L_help = -E log p_{theta,phi}(y | x), reads on; nats per token.

    Args:
        log_mixed_NV: log of (1 - lambda) p_theta + lambda q_phi.
    """
    return F.nll_loss(log_mixed_NV, targets_N)


def self_(logits_NV: Tensor, targets_N: Tensor, weight_N: Tensor | None = None) -> Tensor:
    """L_self = -E log q_phi(y | x), the memory alone; nats per token.

    Args:
        weight_N: what each position counts, at most 1; the mean is over all positions all the same.
    """
    if weight_N is None:
        return F.cross_entropy(widen(logits_NV), targets_N)
    loss_N = F.cross_entropy(widen(logits_NV), targets_N, reduction="none")
    return (weight_N * loss_N).mean()


def yielding(said: Teacher | Tensor, targets_N: Tensor, strength: float) -> Tensor:
    """1 - strength (max p_theta - p_theta(y)) of each position, (N,): what the text counts.

    All where the data layer holds the text's token likeliest, little where it is sure of another.

    Args:
        said: by the data layer, logits (N, V) or what was made of them.
    """
    with torch.no_grad():
        p_NV = Teacher.of(said).p_NV
        margin_N = p_NV.max(-1).values - p_NV.gather(1, targets_N[:, None])[:, 0]
        return 1.0 - strength * margin_N


def kl(teacher_logp_NV: Tensor, student_logp_NV: Tensor) -> Tensor:
    """KL(teacher || student) of each position, (N,), nats; the teacher under stop-gradient."""
    teacher_logp_NV = teacher_logp_NV.detach()
    return (teacher_logp_NV.exp() * (teacher_logp_NV - student_logp_NV)).sum(-1)


def entropy(logp: Tensor) -> Tensor:
    """Entropy (...), nats, of distributions given by their log probabilities (..., V)."""
    return -(logp.exp() * logp).sum(-1)


def heeding(teacher: Teacher, student_logp_NV: Tensor, yields: float) -> Tensor:
    """min(1, exp(yields (H(q_phi) - H(p_theta)))) of each position, (N,): what the teacher counts.

    All where the data layer is as sure as the memory or surer, little where the memory knows
    something and the data layer does not yet. No gradient.
    """
    if yields == 0:
        return teacher.logp_NV.new_ones(len(teacher))
    with torch.no_grad():
        surer_N = entropy(student_logp_NV) - teacher.entropy_N
        return (yields * surer_N).clamp_max(0.0).exp()


def recall(said: Teacher | Tensor, student_logits_NV: Tensor, yields: float = 0.0) -> Tensor:
    """L_recall = E w KL(p_thetak || q_phi), w = 1, or as `heeding` says.

    Can the memory say what the data layer would say; nats per token.

    Args:
        said: by the data layer, logits (N, V) or what was made of them.
        student_logits_NV: the memory's.
        yields: as in `heeding`.
    """
    teacher, student = Teacher.of(said), log_probabilities(student_logits_NV)
    weight_N = heeding(teacher, student, yields)
    return (weight_N * teacher.kl_to(student)).mean()


def jensen_shannon(logp_NV: Tensor, logq_NV: Tensor) -> Tensor:
    """JS(p, q) of each position, (N,), in [0, ln 2]."""
    middle = torch.logaddexp(logp_NV, logq_NV) - math.log(2.0)
    return (0.5 * (kl(logp_NV, middle) + kl(logq_NV, middle))).clamp_min(0.0)


@dataclass(frozen=True)
class SyncParts:
    """What sync is made of at each position, (N,): how far the data layer changed, what following
    it and staying cost, and what each counts besides the change.
    """

    changed_N: Tensor
    heed_N: Tensor
    follow_N: Tensor
    agreed_N: Tensor
    stay_N: Tensor

    def weighted(self, median: Tensor) -> Tensor:
        """Sync of each position, where half of the positions changed less than `median`."""
        with torch.no_grad():
            tiny = torch.finfo(self.changed_N.dtype).tiny
            weight_N = self.changed_N / (self.changed_N + median).clamp_min(tiny)
        follow_N = weight_N * self.heed_N * self.follow_N
        return follow_N + (1 - weight_N) * self.agreed_N * self.stay_N


def sync_parts(
    said: Teacher | Tensor,
    ref_logits_NV: Tensor,
    before_logits_NV: Tensor,
    student_logits_NV: Tensor,
    yields: float = 0.0,
) -> SyncParts:
    """The parts of `sync`, which has the same arguments."""
    teacher = Teacher.of(said)
    with torch.no_grad():
        ref, before = log_probabilities(ref_logits_NV), log_probabilities(before_logits_NV)
        changed = jensen_shannon(teacher.logp_NV, ref)
        changed = changed.masked_fill(changed < JS_NOISE, 0.0)
        agreed_N = (before.argmax(-1) == ref.argmax(-1)).to(changed.dtype)
    student = log_probabilities(student_logits_NV)
    return SyncParts(
        changed,
        heeding(teacher, student, yields),
        teacher.kl_to(student),
        agreed_N,
        kl(before, student),
    )


def sync(
    said: Teacher | Tensor,
    ref_logits_NV: Tensor,
    before_logits_NV: Tensor,
    student_logits_NV: Tensor,
    all_ranks: Callable[[Tensor], Tensor] = lambda own: own,
    yields: float = 0.0,
) -> Tensor:
    """L_sync = E[w h KL(p_thetak || q_phi) + (1 - w) a KL(q_phi- || q_phi)], w = JS / (JS + its
    median over N), h = 1, or as `heeding` says.

    Where the data layer changed since the memory last trained, follow it; where it did not and the
    memory was right, stay. JS is between p_thetak and p_thetaref; a = 1 where q_phi- agreed with
    p_thetaref on the likeliest token.

    Args:
        said: by the adopted data layer, logits (N, V) or what was made of them.
        ref_logits_NV: the data layer when the memory last trained.
        before_logits_NV: the memory at the start of the interval.
        student_logits_NV: the memory now; the only one that gets a gradient.
        all_ranks: this rank's values, (N,), -> those of all ranks; the median is theirs.
        yields: as in `heeding`.
    """
    parts = sync_parts(said, ref_logits_NV, before_logits_NV, student_logits_NV, yields)
    return parts.weighted(all_ranks(parts.changed_N).median()).mean()


def balance(
    side_scores_2NHS: Tensor, all_ranks: Callable[[Tensor], Tensor] = lambda own: own
) -> Tensor:
    """L_balance = ln S - H(mean use of the half keys), averaged over both sides and heads; 0 where
    use is even.

    The entropy of the mean, so that a single token may be as choosy as it likes. The value is that
    of all ranks, the gradient this rank's part of it. Source: DESIGN 1; Shazeer et al. 2017 (arXiv
    1701.06538), section 4, for the idea.

    Args:
        side_scores_2NHS: scores of both half keys at this rank's positions.
        all_ranks: adds a vector over all ranks.
    """
    sum_2HS = side_scores_2NHS.softmax(-1).sum(1)
    mine = sum_2HS.detach()
    num = mine.new_full((1,), side_scores_2NHS.shape[1])
    total = all_ranks(torch.cat([mine.flatten(), num]))
    use_2HS = (sum_2HS + (total[:-1].view_as(mine) - mine)) / total[-1].clamp_min(1)
    entropy_2H = -(use_2HS * use_2HS.clamp_min(1e-20).log()).sum(-1)
    return (math.log(use_2HS.shape[-1]) - entropy_2H).mean()


def assist(log_mixed_NV: Tensor, targets_N: Tensor) -> Tensor:
    """L_assist = L_help with theta frozen.

    The gradient reaches phi through read and prediction; nats per token.
    """
    return help_(log_mixed_NV, targets_N)
