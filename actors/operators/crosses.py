"""How much a prediction with reads differs from one without, by both ways in which it is used.

Knows no layers. Called by `layers.mixture`.

Shapes: N positions, V token ids.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LEAST_P = 1e-38  # about the least that float32 divides by


def crosses(z_NV: Tensor, logit_N: Tensor, r_NV: Tensor, p_NV: Tensor, q_NV: Tensor) -> Tensor:
    """- sum p log ((1 - lambda) r + lambda q) - sum p log r of each position, (N,), nats; in fewer
    passes over the logits than autograd would take.

    Args:
        z_NV: logits, float32, and r_NV their softmax, without gradient.
        logit_N: of lambda, float32.
        p_NV, q_NV: probabilities that get no gradient.
    """
    result: Tensor = _Crosses.apply(z_NV, logit_N, r_NV, p_NV, q_NV)
    return result


class _Crosses(torch.autograd.Function):
    """Both cross-entropies against p, and their gradients of the logits z of r and of the logit l
    of lambda; with m = (1 - lambda) r + lambda q, w = p / m and s = sum w q, as sum w m is 1:

        - sum p log m      dz = r (1 - lambda s - (1 - lambda) w)     dl = lambda (1 - s)
        - sum p log r      dz = r - p

    The gradients are made in the
    forward pass; the backward pass scales them, in place, so that a graph has one.
    """

    @staticmethod
    def forward(
        ctx: Any, z_NV: Tensor, logit_N: Tensor, r_NV: Tensor, p_NV: Tensor, q_NV: Tensor
    ) -> Tensor:
        """Returns their sum, (N,)."""
        mixing_N = torch.sigmoid(logit_N)
        top_N, over_N = z_NV.amax(-1), -r_NV.amax(-1).log()
        of_read_N = over_N + (top_N - (p_NV * z_NV).sum(-1))
        m_NV = torch.lerp(r_NV, q_NV, mixing_N[:, None]).clamp_min_(LEAST_P)
        dz_NV = p_NV / m_NV
        s_N = (dz_NV * q_NV).sum(-1)
        of_mixture_N = -m_NV.log_().mul_(p_NV).sum(-1)
        dz_NV.mul_(mixing_N[:, None] - 1).add_((2 - mixing_N * s_N)[:, None])
        dz_NV.mul_(r_NV).sub_(p_NV)
        ctx.save_for_backward(dz_NV, mixing_N * (1 - s_N))
        return of_read_N + of_mixture_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_N: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of z and of the logit of lambda."""
        dz_NV, dl_N = ctx.saved_tensors
        return dz_NV.mul_(gradient_N[:, None]), dl_N.mul_(gradient_N), None, None, None
