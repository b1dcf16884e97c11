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

import torch
import torch.nn.functional as F
from torch import Tensor

from actors.layers.predicted import Teacher as Teacher
from actors.layers.predicted import entropy, log_probabilities
from actors.operators.precision import widen


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
