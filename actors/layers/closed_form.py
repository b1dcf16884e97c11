"""Solves for a write of the value table: few rows, such that given reads change by given amounts
and other reads stay as they are.

    minimise  Σ_i κ_i ‖a_iᵀX − t_i‖²  +  Σ_j γ_j ‖b_jᵀX − s_j‖²  +  λ ‖X₀ + X‖²

X: of the rows that the a read. a: keys, b: reads that are to stay, t: wanted changes, s: what
brings those back that moved, or 0. X₀: what was added to these rows before, or 0.
Exact, in the smaller of two forms: over the rows (primal) or over the reads (dual); both matrices
are sums of sparse outer products. The factor is made once and solves for any number of right sides.
Factored in float32 where it is large, and then corrected by conjugate gradients on the float64
system until the stated residual is reached. On the CPU, the same bits each time. Knows no tokens
and no layers.

Shapes: N keys, M reads that stay, E slots of a read, U rows, C columns (the width, and the mark).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

RIDGE = 1e-3  # λ
RESIDUAL = 1e-5  # of the linear system, relative, in float64
EXACT_SIZE = 1024  # up to this size the factor is of float64 itself
REFINEMENTS = 60
DENSE = 64  # a dense product is as fast as a sparse one of so many times fewer entries
PAIRS = 1 << 22  # of slots, added at a time
TINY = 1e-300


@dataclass(frozen=True)
class SparseReads:
    """Sparse rows of a matrix: slots and weights, (N, E); a slot may occur twice in a row."""

    slots_NE: Tensor
    weights_NE: Tensor

    def __len__(self) -> int:
        return len(self.slots_NE)

    @classmethod
    def concat(cls, parts: Sequence[SparseReads]) -> SparseReads:
        """The rows of all, in order; those of fewer slots are filled up with weights of 0."""
        width = max(part.slots_NE.shape[1] for part in parts)
        missing = [width - part.slots_NE.shape[1] for part in parts]
        return cls(
            torch.cat([F.pad(p.slots_NE, (0, n)) for p, n in zip(parts, missing, strict=True)]),
            torch.cat([F.pad(p.weights_NE, (0, n)) for p, n in zip(parts, missing, strict=True)]),
        )

    def at(self, where: Tensor | slice) -> SparseReads:
        """Some of the rows."""
        return SparseReads(self.slots_NE[where], self.weights_NE[where])

    def scaled(self, factor_N: Tensor) -> SparseReads:
        """Each row times its factor."""
        return SparseReads(self.slots_NE, self.weights_NE * factor_N[:, None])

    def heaviest(self, num: int) -> SparseReads:
        """The rows with at most so many of their slots, those of the largest weights."""
        if self.slots_NE.shape[1] <= num:
            return self
        weights_NE, at_NE = self.weights_NE.topk(num, dim=1)
        return SparseReads(self.slots_NE.gather(1, at_NE), weights_NE)

    def within(self, rows_U: Tensor) -> tuple[SparseReads, Tensor]:
        """The rows that read one of these slots, and which they are (mask).

        Slots become places in `rows_U`, others are left out: packed to the left, so that no more
        of them are kept than one row needs.
        """
        place_NE = torch.searchsorted(rows_U, self.slots_NE).clamp_max(max(0, len(rows_U) - 1))
        inside_NE = (rows_U[place_NE] == self.slots_NE) & (self.weights_NE != 0)
        some_N = inside_NE.any(1)
        place_ME, inside_ME = place_NE[some_N], inside_NE[some_N]
        weights_ME = self.weights_NE[some_N]
        width = int(inside_ME.sum(1).max()) if len(inside_ME) else 1
        if width < inside_ME.shape[1]:
            order_ME = inside_ME.byte().argsort(dim=1, descending=True, stable=True)[:, :width]
            place_ME, inside_ME = place_ME.gather(1, order_ME), inside_ME.gather(1, order_ME)
            weights_ME = weights_ME.gather(1, order_ME)
        return SparseReads(place_ME * inside_ME, weights_ME * inside_ME), some_N


class SparseMatrix:
    """Sparse reads that multiply quickly from both sides, in float64.

    Args:
        reads: its rows.
        num_columns: U.
    """

    def __init__(self, reads: SparseReads, num_columns: int) -> None:
        row_P, place_P = (reads.weights_NE != 0).nonzero(as_tuple=True)
        column_P = reads.slots_NE[row_P, place_P]
        weight_P = reads.weights_NE[row_P, place_P].double()
        order_P = column_P.argsort(stable=True)
        self._forward = column_P, _starts(row_P, len(reads)), weight_P
        self._backward = row_P[order_P], _starts(column_P, num_columns), weight_P[order_P]

    def times(self, x_UC: Tensor) -> Tensor:
        """This matrix times x, (N, C)."""
        index, starts, weights = self._forward
        return F.embedding_bag(index, x_UC, starts, per_sample_weights=weights, mode="sum")

    def transposed_times(self, y_NC: Tensor) -> Tensor:
        """Its transpose times y, (U, C)."""
        index, starts, weights = self._backward
        return F.embedding_bag(index, y_NC, starts, per_sample_weights=weights, mode="sum")


def _starts(row_P: Tensor, num: int) -> Tensor:
    """Where each row's entries begin, when they are sorted by row."""
    counts = torch.bincount(row_P, minlength=num)
    return counts.cumsum(0) - counts


def _gram_of_slots(reads: SparseReads, num_columns: int, dtype: torch.dtype) -> Tensor:
    """readsᵀ reads, (U, U)."""
    width = reads.slots_NE.shape[1]
    if num_columns**2 <= DENSE * width**2:
        whole_NU = torch.zeros(len(reads), num_columns, dtype=dtype)
        whole_NU.scatter_add_(1, reads.slots_NE, reads.weights_NE.to(dtype))
        return whole_NU.T @ whole_NU
    gram_UU = torch.zeros(num_columns, num_columns, dtype=dtype)
    flat = gram_UU.view(-1)
    at_once = max(1, PAIRS // (width * width))
    for start in range(0, len(reads), at_once):
        some = reads.at(slice(start, start + at_once))
        weights = some.weights_NE.to(dtype)
        place = some.slots_NE[:, :, None] * num_columns + some.slots_NE[:, None, :]
        flat.index_add_(0, place.flatten(), (weights[:, :, None] * weights[:, None, :]).flatten())
    return gram_UU


def _gram_of_reads(reads: SparseReads, num_columns: int, dtype: torch.dtype) -> Tensor:
    """reads readsᵀ, (N, N)."""
    gram_NN = torch.empty(len(reads), len(reads), dtype=dtype)
    weights_NE = reads.weights_NE.to(dtype)
    at_once = max(1, PAIRS // num_columns)
    for start in range(0, len(reads), at_once):
        some = reads.at(slice(start, start + at_once))
        dense_UB = torch.zeros(num_columns, len(some), dtype=dtype)
        place = some.slots_NE * len(some) + torch.arange(len(some))[:, None]
        dense_UB.view(-1).index_add_(0, place.flatten(), some.weights_NE.to(dtype).flatten())
        gram_NN[:, start : start + len(some)] = F.embedding_bag(
            reads.slots_NE, dense_UB, per_sample_weights=weights_NE, mode="sum"
        )
    return gram_NN


class WriteSystem:
    """The system of one write, factored; `solve` it for wanted changes.

    Args:
        keys: reads that are to change.
        staying: reads that are to stay.
        gamma_M: how much each of those counts.
        ridge: λ.
        counts_N: κ, how much each key counts; None: 1.

    Attributes:
        rows_U: rows of the table that the write may change, ascending: those that the keys read.
        form: `primal` or `dual`.
        num_staying: reads that stay and share rows with the keys.
    """

    def __init__(
        self,
        keys: SparseReads,
        staying: SparseReads,
        gamma_M: Tensor,
        ridge: float = RIDGE,
        counts_N: Tensor | None = None,
    ) -> None:
        self.rows_U = keys.slots_NE[keys.weights_NE != 0].unique()
        counts_N = torch.ones(len(keys)) if counts_N is None else counts_N
        self._root_counts = counts_N.double().sqrt()[:, None]
        own, _ = keys.scaled(counts_N.sqrt()).within(self.rows_U)
        others, self._taking_part = staying.scaled(gamma_M.sqrt()).within(self.rows_U)
        self._root_gamma = gamma_M.sqrt()[self._taking_part]
        self._num_keys, self.num_staying, self._ridge = len(own), len(others), ridge
        both, num_rows = SparseReads.concat([own, others]), len(self.rows_U)
        self._matrix = SparseMatrix(both, num_rows)
        self.form = "primal" if num_rows <= len(both) else "dual"
        dtype = torch.float64 if min(num_rows, len(both)) <= EXACT_SIZE else torch.float32
        if self.form == "primal":
            system = _gram_of_slots(own, num_rows, dtype).add_(
                _gram_of_slots(others, num_rows, dtype)
            )
        else:
            system = _gram_of_reads(both, num_rows, dtype)
        system.diagonal().add_(ridge)
        self._factor = torch.linalg.cholesky(system)

    def changed(self, x_UC: Tensor) -> Tensor:
        """By how much X changes what the keys read, (N, C) float32."""
        scaled_NC = self._matrix.times(x_UC.double())[: self._num_keys]
        return (scaled_NC / self._root_counts).float()

    def _times(self, x_UC: Tensor) -> Tensor:
        """The primal system's matrix times x, float64."""
        product = self._matrix.transposed_times(self._matrix.times(x_UC))
        return product + self._ridge * x_UC

    def _solve_roughly(self, right_UC: Tensor) -> Tensor:
        """By the factor alone, in its precision; in the dual form by
        (BᵀB + λ)⁻¹ = (1 - Bᵀ(BBᵀ + λ)⁻¹B) / λ.
        """
        if self.form == "primal":
            return torch.cholesky_solve(right_UC.to(self._factor.dtype), self._factor).double()
        inner_NC = self._matrix.times(right_UC).to(self._factor.dtype)
        solved_NC = torch.cholesky_solve(inner_NC, self._factor).double()
        return (right_UC - self._matrix.transposed_times(solved_NC)) / self._ridge

    def solve(
        self,
        wanted_NC: Tensor,
        back_MC: Tensor | None = None,
        before_UC: Tensor | None = None,
    ) -> tuple[Tensor, float]:
        """X (U, C) float32, and the residual of the linear system relative to its right side.

        Args:
            wanted_NC: by how much the keys are to change.
            back_MC: by how much the reads that stay are to, since they have moved; None: 0.
            before_UC: X₀, None: 0. Solved for is X₀ + X, which gives the reads X₀ already.
        """
        wanted = F.pad(wanted_NC.double() * self._root_counts, (0, 0, 0, self.num_staying))
        if back_MC is not None:
            back = back_MC[self._taking_part].double() * self._root_gamma[:, None]
            wanted[len(wanted_NC) :] = back
        before = 0.0 if before_UC is None else before_UC.double()
        if before_UC is not None:
            wanted = wanted + self._matrix.times(before_UC.double())
        right = self._matrix.transposed_times(wanted)
        size = float(right.norm())
        if size == 0:
            return (right - before).float(), 0.0
        if self.form == "primal":
            x = self._solve_roughly(right)
        else:
            solved = torch.cholesky_solve(wanted.to(self._factor.dtype), self._factor)
            x = self._matrix.transposed_times(solved.double())
        rest = right - self._times(x)
        best, residual = x, float(rest.norm()) / size
        direction, old = torch.zeros_like(x), None
        for _ in range(REFINEMENTS):  # conjugate gradients, the rough solution as preconditioner
            if residual <= RESIDUAL:
                break
            step = self._solve_roughly(rest)
            now = (rest * step).sum(0)  # of each column by itself
            direction = step if old is None else step + now / old.clamp_min(TINY) * direction
            image = self._times(direction)
            length = now / (direction * image).sum(0).clamp_min(TINY)
            x, rest, old = x + length * direction, rest - length * image, now
            if (left := float(rest.norm()) / size) < residual:
                best, residual = x, left
        return (best - before).float(), residual
