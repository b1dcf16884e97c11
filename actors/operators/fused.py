"""Small operations with a gradient written by hand, where autograd would take several times as many
operators, and as many passes over memory.

Each gives what the operations of torch give that its docstring names, the gradient up to rounding.
Knows no layers.

Shapes: B sequences, T tokens, R tokens before them, D width, K taps, N positions, E rows that a
position reads, U rows that occur.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from actors.operators.precision import widen

RMS_EPS, UNIT_EPS = 1e-6, 1e-12
SUM = 0  # mode of an embedding bag
BLOCK = 64  # numbers of which `few_largest` looks at the largest first


def rms(x: Tensor) -> Tensor:
    """x over its root mean square along the last dim, as `F.rms_norm` without weights."""
    y: Tensor = _Rms.apply(x)
    return y


class _Rms(torch.autograd.Function):
    """y = r x, r = (mean(x²) + eps)^-1/2; dx = r (g - y mean(g y))."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Returns y, of the dtype of x."""
        wide = widen(x)
        r = wide.pow(2).mean(-1, keepdim=True).add_(RMS_EPS).rsqrt_()
        y = (wide * r).to(x.dtype)
        ctx.save_for_backward(y, r)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        """The gradient of x."""
        y, r = ctx.saved_tensors
        g_wide, y_wide = widen(g), widen(y)
        inner = (g_wide * y_wide).mean(-1, keepdim=True)
        return torch.addcmul(g_wide, y_wide, inner, value=-1).mul_(r).to(g.dtype)


def unit(x: Tensor) -> Tensor:
    """x over its length along the last dim, as `F.normalize`."""
    y: Tensor = _Unit.apply(x)
    return y


class _Unit(torch.autograd.Function):
    """y = x / |x|; dx = (g - y <g, y>) / |x|."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Returns y."""
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min_(UNIT_EPS)
        y = x / length
        ctx.save_for_backward(y, length)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        """The gradient of x."""
        y, length = ctx.saved_tensors
        inner = (g * y).sum(-1, keepdim=True)
        return torch.addcmul(g, y, inner, value=-1).div_(length)


def taps(z_BSD: Tensor, same_BTK: Tensor, dilation: int) -> Tensor:
    """Of each of the last T tokens, itself and those at distances d, 2d, ... (B, T, K * D), times
    `same_BTK`.

    Args:
        z_BSD: R + T tokens, R = (K - 1) d.
        same_BTK: 1 where the tap counts, else 0.
        dilation: d.
    """
    out: Tensor = _Taps.apply(z_BSD, same_BTK, dilation)
    return out


class _Taps(torch.autograd.Function):
    """Views with the taps as a dim of their own, once forwards and once backwards in time."""

    @staticmethod
    def forward(ctx: Any, z_BSD: Tensor, same_BTK: Tensor, dilation: int) -> Tensor:
        """Returns (B, T, K * D)."""
        batch, tokens, num = same_BTK.shape
        z_BSD = z_BSD.contiguous()
        dim, row = z_BSD.shape[2], z_BSD.stride(0)
        oldest_first = z_BSD.as_strided((batch, tokens, num, dim), (row, dim, dilation * dim, 1))
        ctx.save_for_backward(same_BTK)
        ctx.shape, ctx.dilation = z_BSD.shape, dilation
        newest_first = torch.arange(num - 1, -1, -1, device=z_BSD.device)
        found = oldest_first.index_select(
            2, newest_first
        )  # compiled code can't view a flip's result
        found.mul_(same_BTK.unsqueeze(-1))
        return found.view(batch, tokens, num * dim)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of z: of each token, the sum over the taps that saw it."""
        (same_BTK,) = ctx.saved_tensors
        batch, tokens, num = same_BTK.shape
        dim, reach = ctx.shape[2], (num - 1) * ctx.dilation
        g_BTKD = g.reshape(batch, tokens, num, dim) * same_BTK.unsqueeze(-1)
        around = F.pad(g_BTKD, (0, 0, 0, 0, reach, reach))
        strides = (around.stride(0), num * dim, ctx.dilation * num * dim + dim, 1)
        return around.as_strided((*ctx.shape[:2], num, dim), strides).sum(2), None, None


def pooled(slots_NE: Tensor, values_RD: Tensor, weights_NE: Tensor) -> Tensor:
    """The weighted sum (N, D) of the rows that each position reads, as `F.embedding_bag`.

    The gradient of the rows is sparse; on a CPU it has each row once, ascending. Elsewhere it is
    the library's: how many rows there are would have to be waited for.
    """
    if not values_RD.requires_grad or values_RD.device.type != "cpu":
        return F.embedding_bag(
            slots_NE,
            values_RD,
            per_sample_weights=weights_NE,
            mode="sum",
            sparse=values_RD.requires_grad,
        )
    y_ND: Tensor = _Pooled.apply(slots_NE, values_RD, weights_NE)
    return y_ND


class _Pooled(torch.autograd.Function):
    """y = A V, A sparse; dV = Aᵀ g, by row of V; dA = <g, row of V>.

    Autograd's own would make a row for each read, E times as much as y, and add them up later.
    """

    @staticmethod
    def forward(ctx: Any, slots_NE: Tensor, values_RD: Tensor, weights_NE: Tensor) -> Tensor:
        """Returns y."""
        ctx.save_for_backward(slots_NE, values_RD, weights_NE)
        return F.embedding_bag(slots_NE, values_RD, per_sample_weights=weights_NE, mode="sum")

    @staticmethod
    def backward(ctx: Any, g_ND: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        """Gradients of the rows and of the weights."""
        slots_NE, values_RD, weights_NE = ctx.saved_tensors
        rows, of_weights = None, None
        if ctx.needs_input_grad[1]:
            rows = rows_gradient(slots_NE, weights_NE, g_ND, values_RD.shape)
        if ctx.needs_input_grad[2]:
            num, each = slots_NE.shape
            bag_M = torch.arange(num, device=g_ND.device).repeat_interleave(each)
            begin_N = torch.arange(0, num * each, each, device=g_ND.device)
            of_weights = torch.ops.aten._embedding_bag_per_sample_weights_backward(
                g_ND, values_RD, slots_NE.flatten(), begin_N, bag_M, SUM
            ).view_as(weights_NE)
        return None, rows, of_weights


def rows_gradient(slots_NE: Tensor, weights_NE: Tensor, g_ND: Tensor, shape: torch.Size) -> Tensor:
    """Aᵀ g as a sparse tensor of this shape, rows ascending: each of its rows is one weighted sum
    over the positions that read it, in their order.
    """
    sorted_M, order_M = slots_NE.flatten().sort(stable=True)
    begins_U = torch.from_numpy(np.flatnonzero(np.diff(sorted_M.numpy(), prepend=-1)))
    values_UD = F.embedding_bag(
        order_M // slots_NE.shape[1],
        g_ND,
        begins_U,
        mode="sum",
        per_sample_weights=weights_NE.flatten()[order_M].to(g_ND.dtype),
    )
    return torch.sparse_coo_tensor(
        sorted_M[begins_U].unsqueeze(0), values_UD, shape, is_coalesced=True, check_invariants=False
    )


def largest(x: Tensor, k: int, ordered: bool) -> Tensor:
    """Places (..., k) of the k largest along the last dim; `ordered`: descending.

    On a CPU by numpy, whose vectorised sort takes a third of the time of `topk`.
    """
    if x.device.type != "cpu":
        return x.topk(k, dim=-1, sorted=ordered).indices
    array = x.numpy()
    if ordered:
        found = np.argsort(array, axis=-1)[..., ::-1][..., :k]
    else:
        found = np.argpartition(array, x.shape[-1] - k, axis=-1)[..., x.shape[-1] - k :]
    return torch.from_numpy(np.ascontiguousarray(found))


def permuted(x_NE: Tensor, order_N: Tensor, back_N: Tensor) -> Tensor:
    """The rows in another order, each once; its gradient is one selection too.

    Args:
        x_NE: rows.
        order_N: which row comes where.
        back_N: the inverse of `order_N`.
    """
    y_NE: Tensor = _Permuted.apply(x_NE, order_N, back_N)
    return y_NE


class _Permuted(torch.autograd.Function):
    """y = P x; dx = Pᵀ g."""

    @staticmethod
    def forward(ctx: Any, x_NE: Tensor, order_N: Tensor, back_N: Tensor) -> Tensor:
        """Returns y."""
        ctx.save_for_backward(back_N)
        return x_NE.index_select(0, order_N)

    @staticmethod
    def backward(ctx: Any, g_NE: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of x."""
        (back_N,) = ctx.saved_tensors
        return g_NE.index_select(0, back_N), None, None


def few_largest(x_NV: Tensor, k: int) -> Tensor:
    """Places (N, k) of the few largest along the last dim, the largest first.

    On a CPU by blocks: the k largest are in the k blocks with the largest maxima, and these are
    found without a look at the rest. Of 49,152 numbers 32 take a fifth of the time of a selection.
    """
    if x_NV.device.type != "cpu" or x_NV.shape[1] < BLOCK * 2 * k:
        found_Nk = largest(x_NV, k, ordered=False)
    else:
        whole = x_NV.shape[1] // BLOCK * BLOCK
        maxima_NB = x_NV[:, :whole].unflatten(1, (-1, BLOCK)).amax(-1)
        within = torch.arange(BLOCK)
        blocks_NkW = largest(maxima_NB, k, ordered=False).unsqueeze(-1) * BLOCK + within
        rest_NR = torch.arange(whole, x_NV.shape[1]).expand(len(x_NV), -1)
        among_NE = torch.cat([blocks_NkW.flatten(1), rest_NR], dim=1)
        found_Nk = among_NE.gather(1, largest(x_NV.gather(1, among_NE), k, ordered=False))
    order_Nk = x_NV.gather(1, found_Nk).argsort(dim=1, descending=True, stable=True)
    return found_Nk.gather(1, order_Nk)
