"""The optimizers of both layers: fused AdamW over flat sections, Adam over touched rows, one
schedule.

Does not know which layer it trains; parameters are chosen by the section rules below, by name.
Called by the trainers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from actors.flat import FROZEN, FlatParameters
from actors.spec import OptimizerSpec

DECAY, NO_DECAY, ROWS = "decay", "no_decay", "rows"
ROW_TABLE = "values"
COPIED = "encoder.copy."  # the memory's frozen copy of a data layer's first layers
EPS = 1e-8


def section_of(name: str, parameter: Tensor) -> str:
    """Section of a parameter: the value table by its rows, matrices with weight decay, vectors and
    keys without, a frozen copy nowhere.

    Embeddings decay too: the row of a token that training never shows shrinks towards saying
    nothing.
    """
    if name.startswith(COPIED):
        return FROZEN
    if name == ROW_TABLE:
        return ROWS
    return DECAY if parameter.dim() >= 2 and name != "keys" else NO_DECAY


def learning_rate(peak: float, spec: OptimizerSpec, step: int, total_steps: int) -> float:
    """Linear warm-up, then a cosine from `peak` down to its final share at `total_steps`, constant
    after.
    """
    if step < spec.warmup_steps:
        return peak * (step + 1) / spec.warmup_steps
    progress = min(1.0, (step - spec.warmup_steps) / max(1, total_steps - spec.warmup_steps))
    floor = spec.final_lr_frac
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


class DenseOptimizer:
    """AdamW on the dense sections of a flat buffer, with clipping by their common norm."""

    def __init__(self, flat: FlatParameters, spec: OptimizerSpec) -> None:
        self._spec = spec
        self.gradients: list[Tensor] = []
        groups = []
        for section in flat.sections():
            rule = section.partition(":")[0]
            if rule == ROWS:
                continue
            parameter = torch.nn.Parameter(flat.section(section))
            parameter.grad = flat.attach_gradients(section)
            self.gradients.append(parameter.grad)
            groups.append(
                {"params": [parameter], "weight_decay": spec.weight_decay if rule == DECAY else 0.0}
            )
        self.adamw = torch.optim.AdamW(groups, lr=spec.lr, betas=spec.betas, eps=EPS, fused=True)

    def zero_grad(self) -> None:
        """Clears the gradients in place; they stay views."""
        for gradient in self.gradients:
            gradient.zero_()

    def step(self, lr: float) -> float:
        """Clips, steps, and returns the gradient norm before clipping."""
        norm = float(torch.stack([g.norm() for g in self.gradients]).norm())
        if norm > self._spec.clip_norm:
            for gradient in self.gradients:
                gradient.mul_(self._spec.clip_norm / norm)
        for group in self.adamw.param_groups:
            group["lr"] = lr
        self.adamw.step()
        return norm


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
    def step(self, lr: float) -> tuple[float, int]:
        """Takes the table's sparse gradient.

        Returns its norm before clipping and the number of rows written.
        """
        gradient = self._table_RD.grad
        self._table_RD.grad = None
        if gradient is None:
            return 0.0, 0
        rows, inverse = gradient._indices()[0].unique(return_inverse=True)
        g_UD = torch.zeros(
            len(rows), self._table_RD.shape[1], dtype=gradient.dtype, device=gradient.device
        )
        g_UD.index_add_(0, inverse, gradient._values())
        norm = float(g_UD.norm())
        if norm > self._clip_norm:
            g_UD.mul_(self._clip_norm / norm)
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
