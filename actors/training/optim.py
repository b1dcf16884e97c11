"""The optimizers of both layers: fused AdamW over flat sections, Adam over touched rows, one
schedule.

Does not know which layer it trains; parameters are chosen by the section rules below, by name.
Called by the trainers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from actors.settings.groups import OptimizerSpec
from actors.snapshots.flat_parameters import FlatParameters
from actors.snapshots.sections import DECAY, ROW_TABLE, ROWS
from actors.training.process_group import ProcessGroup

EPS = 1e-8
KEPT_WORK = 2 / 3  # of a step's work with a weight, where it needs no gradient of its own
WARMUP_FRAC = 0.1  # of all steps at most, where these are few


def worked_parameters(layer: nn.Module) -> int:
    """Dense parameters of a layer, by the work that a step has with
    them: of those that don't train the forward pass and the gradient of their inputs alone.
    """
    found = [(p.numel(), p.requires_grad) for n, p in layer.named_parameters() if n != ROW_TABLE]
    return round(sum(num if trains else KEPT_WORK * num for num, trains in found))


def short_warmup(spec: OptimizerSpec, total_steps: int) -> int:
    """Steps of warm-up where there are few steps in all: at most a tenth of these."""
    return min(spec.warmup_steps, int(WARMUP_FRAC * total_steps))


def learning_rate(peak: float, spec: OptimizerSpec, step: int, total_steps: int) -> float:
    """Linear warm-up to `peak`, then the schedule; from `total_steps` on its final share."""
    if step < spec.warmup_steps:
        return peak * (step + 1) / spec.warmup_steps
    progress = min(1.0, (step - spec.warmup_steps) / max(1, total_steps - spec.warmup_steps))
    floor = spec.final_lr_frac
    if spec.schedule == "constant":
        left = 1.0
    elif spec.schedule == "linear":
        left = 1.0 - progress
    elif spec.schedule == "wsd":
        left = min(1.0, (1.0 - progress) / spec.decay_frac)
    else:
        left = 0.5 * (1 + math.cos(math.pi * progress))
    return peak * (floor + (1 - floor) * left)


class DenseOptimizer:
    """AdamW on the dense sections of a flat buffer, with clipping by their common norm.

    All gradients are views of `gradient`, one flat tensor of fixed layout, which is what the ranks
    of a group sum.

    Args:
        flat: the layer.
        spec: its settings.
        apart: names of parameters that have a learning rate of their own; None: there are none.
    """

    def __init__(
        self,
        flat: FlatParameters,
        spec: OptimizerSpec,
        apart: Callable[[str], bool] | None = None,
    ) -> None:
        self._spec = spec
        parts = flat.parts(apart or (lambda name: False))
        parts = [part for part in parts if part.section.partition(":")[0] != ROWS]
        sizes = [len(part.flat) for part in parts]
        self.gradient = torch.zeros(sum(sizes), dtype=torch.float32, device=flat.buffer.device)
        groups: list[dict[str, Any]] = []
        self._norms = self.gradient.split(sizes)
        for part, gradient in zip(parts, self._norms, strict=True):
            parameter = torch.nn.Parameter(part.flat)
            parameter.grad = gradient
            flat.attach_gradients(part, gradient)
            decay = spec.weight_decay if part.section.partition(":")[0] == DECAY else 0.0
            groups.append({"params": [parameter], "weight_decay": decay, "is_apart": part.is_apart})
        self.adamw = torch.optim.AdamW(groups, lr=spec.lr, betas=spec.betas, eps=EPS, fused=True)
        for group in self.adamw.param_groups:  # now, not at the first step: checkpoints need a
            for parameter in group["params"]:  # layout that never changes
                self.adamw.state[parameter] = {
                    "step": torch.zeros((), device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }

    def zero_grad(self) -> None:
        """Clears the gradients in place; they stay views."""
        self.gradient.zero_()

    def step(self, lr: float, apart_lr: float | None = None) -> Tensor:
        """Clips, steps, and returns the gradient norm before clipping, a scalar of the device.

        Args:
            lr: of all parameters but those that have a rate of their own.
            apart_lr: theirs; None: the same.
        """
        norm = torch.stack([part.norm() for part in self._norms]).norm()
        clip(self.gradient, norm, self._spec.clip_norm)
        for group in self.adamw.param_groups:
            group["lr"] = lr if apart_lr is None or not group["is_apart"] else apart_lr
        self.adamw.step()
        return norm

    def moments(self) -> dict[str, Tensor]:
        """The optimizer's state as named flat tensors, live."""
        named: dict[str, Tensor] = {}
        for index, state in enumerate(self.adamw.state.values()):
            named[f"adam.{index}.first"] = state["exp_avg"]
            named[f"adam.{index}.second"] = state["exp_avg_sq"]
        return named

    def set_steps(self, steps: int) -> None:
        """Tells the bias correction how many steps the moments have seen."""
        for state in self.adamw.state.values():
            state["step"].fill_(steps)


def clip(gradient: Tensor, norm: Tensor, limit: float) -> None:
    """Scales a gradient of that norm to `limit` where it is longer, in place; else by 1.

    The host never learns the norm, so it does not wait for a GPU.
    """
    wide = norm.double()  # as a float of the host would be
    scale = (wide.new_full((), limit) / wide).clamp_max(1.0)
    gradient.mul_(scale.to(gradient.dtype))


class RowAdam:
    """Adam whose work and state follow the rows that a batch touched.

    First moment per element, second moment one number per row (the mean square of its gradient),
    bias correction by the row's own count of updates. Untouched rows cost nothing and don't move;
    there is no weight decay.
    Source: Adam (arXiv 1412.6980); the row-wise second moment after row-wise Adagrad of embedding
    tables.
    """

    def __init__(self, table_RD: Tensor, betas: tuple[float, float], clip_norm: float) -> None:
        self._table_RD = table_RD
        self._betas = betas
        self._clip_norm = clip_norm
        self.first_RD = torch.zeros_like(table_RD)
        self.second_R = torch.zeros(len(table_RD), dtype=table_RD.dtype, device=table_RD.device)
        self.updates_R = torch.zeros(len(table_RD), dtype=torch.int32, device=table_RD.device)

    @torch.no_grad()
    def step(self, lr: float, ranks: ProcessGroup) -> tuple[Tensor, int]:
        """Takes the table's sparse gradient, summed over all ranks.

        Only touched rows travel; they are added in rank order, so that every rank gets the same
        bits. Returns the norm before clipping, a scalar of the device, and the number of rows
        written: the size of what is computed depends on it, so a GPU is waited for once.
        """
        gradient = self._table_RD.grad
        self._table_RD.grad = None
        if gradient is None:
            g_UD = self._table_RD[:0]
            rows = torch.zeros(0, dtype=torch.int64, device=g_UD.device)
        else:
            rows, g_UD = gradient._indices()[0], gradient._values()
            if not _is_ascending(rows):
                rows, g_UD = _add_rows([rows], [g_UD])
        if ranks.num_ranks > 1:
            rows, g_UD = _add_rows(ranks.gather_rows(rows), ranks.gather_rows(g_UD))
        if not len(rows):
            return g_UD.new_zeros(()), 0
        norm = g_UD.norm()
        clip(g_UD, norm, self._clip_norm)
        beta1, beta2 = self._betas
        updates_U = self.updates_R[rows] + 1
        first_UD = self.first_RD[rows].lerp_(g_UD, 1 - beta1)
        second_U = self.second_R[rows].lerp_(g_UD.square().mean(1), 1 - beta2)
        self.updates_R[rows], self.first_RD[rows], self.second_R[rows] = (
            updates_U,
            first_UD,
            second_U,
        )
        counts_U = updates_U.to(g_UD.dtype)
        scale_U = lr / (1 - beta1**counts_U) / ((second_U / (1 - beta2**counts_U)).sqrt() + EPS)
        self._table_RD.index_add_(0, rows, first_UD * scale_U.unsqueeze(1), alpha=-1.0)
        return norm, len(rows)

    def moments(self) -> dict[str, Tensor]:
        """The state as named flat tensors, live."""
        return {
            "rows.first": self.first_RD,
            "rows.second": self.second_R,
            "rows.updates": self.updates_R,
        }


def _is_ascending(rows: Tensor) -> bool:
    """Whether each row is known to be there once, as in a gradient of one pass on a CPU."""
    return rows.device.type == "cpu" and bool((np.diff(rows.numpy()) > 0).all())


def _add_rows(indices: Sequence[Tensor], values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows that occur, ascending, and the sum of each one's values in the order given."""
    rows, inverse = torch.cat(list(indices)).unique(return_inverse=True)
    joined = torch.cat(list(values))
    total_UD = torch.zeros(len(rows), *joined.shape[1:], dtype=joined.dtype, device=joined.device)
    if total_UD.is_cuda:  # index_add_ adds there in any order
        return rows, total_UD.index_put_((inverse,), joined, accumulate=True)
    return rows, total_UD.index_add_(0, inverse, joined)
