"""The losses, each a pure function of logits or log probabilities at some positions.

    p, theta: the data layer      q, phi: the memory layer      y: the next token of the text

Every function averages over the positions it is given; callers choose them. Teachers are under
stop-gradient here, and logits of any precision become float32, so that a caller can't forget it.
All are in nats per token. Tandem's own where no paper is named.

Shapes: N positions, V token ids, H heads, S slots per side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from actors.layers.precision import widen
from actors.layers.predicted import Teacher as Teacher
from actors.layers.predicted import entropy, log_probabilities

JS_NOISE = 1e-6  # nats; what rounding makes of two equal float32 distributions


def own(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """L_own = -E log p_theta(y | x), memory reads off; nats per token."""
    return F.cross_entropy(widen(logits_NV), targets_N)


def own_of(nll_N: Tensor) -> Tensor:
    """`own`, or help, from -log of the probability of each position's token."""
    return nll_N.mean()


def beyond_tokens(logits_NV: Tensor, beyond_N: Tensor) -> Tensor:
    """-E log of the probability that theta gives to all of the tokenizer's ids together; nats.

    The difference between the loss over all output rows and `own`, which is over the tokenizer's
    ids. Without it nothing keeps the rows of a padded vocabulary down while the hidden states move.

    Args:
        logits_NV: of the tokenizer's ids.
        beyond_N: logsumexp of those of all other rows.
    """
    return beyond_of(widen(logits_NV).logsumexp(-1), beyond_N).mean()


def beyond_of(logsumexp_N: Tensor, beyond_N: Tensor) -> Tensor:
    """`beyond_tokens` of each position, (N,), from the logsumexp of the tokenizer's ids and that of
    all other rows.
    """
    return F.softplus(widen(beyond_N) - logsumexp_N)


def help_(log_mixed_NV: Tensor, targets_N: Tensor) -> Tensor:
    """L_help = -E log p_{theta,phi}(y | x), reads on; nats per token.

    Args:
        log_mixed_NV: log of (1 - lambda) p_theta + lambda q_phi.
    """
    return F.nll_loss(log_mixed_NV, targets_N)


def self_(logits_NV: Tensor, targets_N: Tensor, weight_N: Tensor | None = None) -> Tensor:
    """L_self = -E log q_phi(y | x), the memory alone; nats per token.

    Args:
        weight_N: weight of each position, at most 1; the mean is over all positions, whatever they
            weigh.
    """
    return self_of(F.cross_entropy(widen(logits_NV), targets_N, reduction="none"), weight_N)


def self_of(nll_N: Tensor, weight_N: Tensor | None = None) -> Tensor:
    """`self_` from -log q_phi(y | x) of each position."""
    return (nll_N if weight_N is None else weight_N * nll_N).mean()


def text_weights(teacher: Teacher | Tensor, targets_N: Tensor, strength: float) -> Tensor:
    """1 - strength (max p_theta - p_theta(y)) of each position, (N,): the text's weight in `self_`.

    1 where the text's token is the data layer's likeliest, small where another has nearly all of
    the probability.

    Args:
        teacher: the data layer, or its logits (N, V).
        targets_N: the text's tokens y.
        strength: 0 to 1; `losses.self_yields` of a run.
    """
    with torch.no_grad():
        p_NV = Teacher.of(teacher).p_NV
        margin_N = p_NV.max(-1).values - p_NV.gather(1, targets_N[:, None])[:, 0]
        return 1.0 - strength * margin_N


def kl(teacher_logp_NV: Tensor, student_logp_NV: Tensor) -> Tensor:
    """KL(teacher || student) of each position, (N,), nats; the teacher under stop-gradient."""
    teacher_logp_NV = teacher_logp_NV.detach()
    return (teacher_logp_NV.exp() * (teacher_logp_NV - student_logp_NV)).sum(-1)


def teacher_weights(teacher: Teacher, student_logp_NV: Tensor, strength: float) -> Tensor:
    """min(1, exp(strength (H(q_phi) - H(p_theta)))) of each position, (N,): weight of the teacher.

    1 where the data layer's entropy is no larger than the memory's, small where the memory already
    knows something that the data layer does not. No gradient.

    Args:
        teacher: the data layer.
        student_logp_NV: the memory's log probabilities.
        strength: per nat; 0: all weights are 1. `losses.recall_yields` of a run.
    """
    if strength == 0:
        return teacher.logp_NV.new_ones(len(teacher))
    with torch.no_grad():
        return teacher_weights_of(teacher.entropy_N, entropy(student_logp_NV), strength)


def teacher_weights_of(teacher_N: Tensor, student_N: Tensor, strength: float) -> Tensor:
    """`teacher_weights` from the entropies of both."""
    return (strength * (student_N - teacher_N)).clamp_max(0.0).exp()


def recall(teacher: Teacher | Tensor, student_logits_NV: Tensor, strength: float = 0.0) -> Tensor:
    """L_recall = E w KL(p_thetak || q_phi), w as in `teacher_weights`.

    The memory learns to predict what the data layer would predict; nats per token.

    Args:
        teacher: the data layer of version k, or its logits (N, V).
        student_logits_NV: the memory's.
        strength: as in `teacher_weights`.
    """
    teacher, student = Teacher.of(teacher), log_probabilities(student_logits_NV)
    weight_N = teacher_weights(teacher, student, strength)
    return (weight_N * teacher.kl_to(student)).mean()


def jensen_shannon(logp_NV: Tensor, logq_NV: Tensor) -> Tensor:
    """JS(p, q) of each position, (N,), in [0, ln 2]."""
    middle = torch.logaddexp(logp_NV, logq_NV) - math.log(2.0)
    return (0.5 * (kl(logp_NV, middle) + kl(logq_NV, middle))).clamp_min(0.0)


@dataclass(frozen=True)
class SyncParts:
    """What sync is computed from at each position, (N,).

    Attributes:
        changed_N: how far the data layer changed, JS(p_thetak, p_thetaref), nats.
        teacher_N: weight of the teacher, as in `teacher_weights`.
        follow_N: KL(p_thetak || q_phi), nats.
        agreed_N: 1 where the memory had agreed with the data layer, else 0.
        stay_N: KL(q_phi- || q_phi), nats.
    """

    changed_N: Tensor
    teacher_N: Tensor
    follow_N: Tensor
    agreed_N: Tensor
    stay_N: Tensor

    def weighted(self, median: Tensor) -> Tensor:
        """Sync of each position, where half of the positions changed less than `median`."""
        with torch.no_grad():
            tiny = torch.finfo(self.changed_N.dtype).tiny
            weight_N = self.changed_N / (self.changed_N + median).clamp_min(tiny)
        follow_N = weight_N * self.teacher_N * self.follow_N
        return follow_N + (1 - weight_N) * self.agreed_N * self.stay_N


def sync_parts(
    teacher: Teacher | Tensor,
    ref_logits_NV: Tensor,
    before_logits_NV: Tensor,
    student_logits_NV: Tensor,
    strength: float = 0.0,
) -> SyncParts:
    """The parts of `sync`, which has the same arguments."""
    teacher, before = Teacher.of(teacher), Teacher.of(before_logits_NV)
    changed_N, agreed_N = changes(teacher, ref_logits_NV, before.logp_NV.argmax(-1))
    student = log_probabilities(student_logits_NV)
    return SyncParts(
        changed_N,
        teacher_weights(teacher, student, strength),
        teacher.kl_to(student),
        agreed_N,
        before.kl_to(student),
    )


@torch.no_grad()
def changes(teacher: Teacher, ref_logits_NV: Tensor, before_N: Tensor) -> tuple[Tensor, Tensor]:
    """How far the data layer changed, and where the memory had agreed with it: `changed_N` and
    `agreed_N` of `SyncParts`.

    Args:
        teacher: the adopted data layer, with log probabilities.
        ref_logits_NV: the data layer when the memory last trained.
        before_N: the memory's likeliest tokens at the start of the interval.
    """
    ref_NV = log_probabilities(ref_logits_NV)
    changed_N = jensen_shannon(teacher.logp_NV, ref_NV)
    changed_N = changed_N.masked_fill(changed_N < JS_NOISE, 0.0)
    return changed_N, (before_N == ref_NV.argmax(-1)).to(changed_N.dtype)


def sync(
    teacher: Teacher | Tensor,
    ref_logits_NV: Tensor,
    before_logits_NV: Tensor,
    student_logits_NV: Tensor,
    all_ranks: Callable[[Tensor], Tensor] = lambda own: own,
    strength: float = 0.0,
) -> Tensor:
    """L_sync = E[w h KL(p_thetak || q_phi) + (1 - w) a KL(q_phi- || q_phi)], w = JS / (JS + its
    median over N), h as in `teacher_weights`.

    Where the data layer changed since the memory last trained, follow it; where it did not and the
    memory was right, stay. JS is between p_thetak and p_thetaref; a = 1 where q_phi- agreed with
    p_thetaref on the likeliest token. Nats per token.

    Args:
        teacher: the adopted data layer, or its logits (N, V).
        ref_logits_NV: the data layer when the memory last trained.
        before_logits_NV: the memory at the start of the interval.
        student_logits_NV: the memory now; the only one that gets a gradient.
        all_ranks: this rank's values, (N,), -> those of all ranks; the median is theirs.
        strength: as in `teacher_weights`.
    """
    parts = sync_parts(teacher, ref_logits_NV, before_logits_NV, student_logits_NV, strength)
    return parts.weighted(all_ranks(parts.changed_N).median()).mean()


def balance(
    side_scores_2NHS: Tensor, all_ranks: Callable[[Tensor], Tensor] = lambda own: own
) -> Tensor:
    """L_balance = ln S - H(mean use of the half keys), averaged over both sides and heads; 0 where
    use is even.

    The entropy of the mean, so that a single token may concentrate its reads on few slots. The
    value is that of all ranks, the gradient this rank's part of it. Nats.

    Source: Shazeer et al. 2017 (arXiv 1701.06538), section 4, for the idea.

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
    """L_assist = L_help with theta frozen: the memory learns what helps the mixture.

    The gradient reaches phi through the read and through its own prediction; nats per token.
    """
    return help_(log_mixed_NV, targets_N)
