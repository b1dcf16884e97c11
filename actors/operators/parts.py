"""The parts into which the positions of a pass are cut, so that nothing of the size of all
positions times all token ids is made.

A pass of no more tokens than `positions_at_once` is one graph with one backward pass. The positions
of a longer one are cut into parts of so many. Of each part in turn the logits are made, the losses
computed and their gradients added up, before the next one's are made; `Cut` gathers the gradients
of the hidden states, with which one backward pass through the layer goes on.

Knows no layers and no losses. Called by the trainers, the learner and the layers' output matrices.

Shapes: N positions, V token ids, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from actors.operators.precision import in_float32

# Logits of one part, where no setting says otherwise. On a CPU: what the allocator keeps for the
# next part (glibc maps what is above 32 MiB anew each time, which costs as much as computing it).
CPU_LOGITS, GPU_LOGITS = 6 << 20, 1 << 28


def positions_at_once(num_tokens: int, device: torch.device, setting: int | None = None) -> int:
    """Positions whose logits over `num_tokens` ids are made at a time: `setting`, or as many as
    make 24 MiB of float32 on a CPU, a GiB on a GPU.
    """
    most = CPU_LOGITS if device.type == "cpu" else GPU_LOGITS
    return setting or max(1, most // num_tokens)


def parts_of(num: int, size: int) -> Iterator[slice]:
    """So many positions in parts of `size`."""
    for start in range(0, num, size):
        yield slice(start, min(num, start + size))


def leading(num: int, part: slice) -> slice:
    """What a part has of the first `num` positions."""
    return slice(min(num, part.start), min(num, part.stop))


def linear(x_ND: Tensor, weight: Tensor, rows: slice, into_grad: bool) -> Tensor:
    """x Wᵀ (N, rows) with some rows of a weight (V, D).

    Args:
        x_ND: hidden states.
        weight: a parameter or a frozen tensor.
        rows: of the weight.
        into_grad: adds the weight's gradient to its `.grad` at once, in the backward pass, instead
            of making one of the weight's size for each part.
    """
    if into_grad:
        result: Tensor = _Linear.apply(x_ND, weight, rows)
        return result
    is_whole = rows.indices(len(weight)) == (0, len(weight), 1)
    return F.linear(x_ND, weight if is_whole else weight[rows])  # a view's gradient is copied


class _Linear(torch.autograd.Function):
    """`linear` with `into_grad`."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight: Tensor, rows: slice) -> Tensor:
        """Returns the product."""
        ctx.save_for_backward(x_ND)
        ctx.weight, ctx.rows = weight, rows
        return F.linear(x_ND, weight[rows])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_NV: Tensor) -> tuple[Tensor | None, None, None]:
        """The gradient of x; that of the weight is added to its own."""
        (x_ND,), weight, rows = ctx.saved_tensors, ctx.weight, ctx.rows
        dtype, x_gradient = gradient_NV.dtype, None
        if ctx.needs_input_grad[0]:
            x_gradient = (gradient_NV @ weight[rows].to(dtype)).to(x_ND.dtype)
        if weight.requires_grad:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            into = weight.grad[rows]
            if into.dtype == dtype:
                into.addmm_(gradient_NV.T, x_ND.to(dtype))
            else:
                into.add_(gradient_NV.T @ x_ND.to(dtype))
        return x_gradient, None, None


class Cut:
    """Tensors cut off the graph that made them: many backward passes end at their `leaves`, and one
    goes on from there.

    Args:
        made: tensors that some layer made.
    """

    def __init__(self, *made: Tensor) -> None:
        self._made = made
        self.leaves = tuple(x.detach().requires_grad_(x.requires_grad) for x in made)

    def joined(self) -> Tensor | None:
        """A scalar whose gradients of the tensors are those that were gathered; None: there are
        none.
        """
        found = [
            (made * leaf.grad).sum()
            for made, leaf in zip(self._made, self.leaves, strict=True)
            if leaf.grad is not None
        ]
        return sum(found[1:], found[0]) if found else None


def in_parts(num: int, size: int, loss: Callable[..., Tensor], *made: Tensor) -> Tensor:
    """The sum of a loss over parts, whose backward passes have ended at `made`: its own goes on
    from there, and has to be with a factor of 1, since weights may have their gradients already.

    Args:
        num: positions.
        size: of a part.
        loss: of a part, a slice, and the leaves of `made`: its share, a scalar.
        made: tensors that some layer made.
    """
    cut, total = Cut(*made), made[0].new_zeros(())
    for some in parts_of(num, size):
        value = loss(some, *cut.leaves)
        with in_float32(value.device):
            value.backward()
        total += value.detach()
    joined = cut.joined()
    return total if joined is None else total + (joined - joined.detach())
