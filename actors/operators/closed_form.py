"""Solves for a write of the value table: few rows, such that given reads change by given amounts
and other reads stay as they are.

    minimise  Σ_i κ_i ‖a_iᵀX − t_i‖²  +  Σ_j γ_j ‖b_jᵀX − s_j‖²  +  λ ‖X₀ + X‖²

X: of the rows that the a read. a: keys, b: reads that are to stay, t: wanted changes, s: what
brings those back that moved, or 0. X₀: what was added to these rows before, or 0.
Small systems are factored in float64, over the rows (primal) or over the reads (dual), whichever
are fewer. Larger ones are solved by conjugate gradients, each row scaled by its own sum of squares,
to the stated residual: of 9,000 rows that takes a third of the seconds of a factor. Sparse products
are of float32, and the bits are the same each time. On the CPU. Knows no tokens and no layers.

`Overlay` is what such writes add to the table, summed up.

Shapes: N keys, M reads that stay, E slots of a read, U rows, C columns (the width, and the mark), D
d_m, R rows asked for, S slots.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

RIDGE = 1e-3  # λ
EXACT_SIZE = 3072  # up to this size the system is factored, in float64
RESIDUAL = 3e-3  # of larger ones, relative to what was there before the first step, in float32
STEPS = 400  # of conjugate gradients, at most
DENSE = 256  # products that a dense matrix makes in the time of one of a sparse matrix
TINY = 1e-30


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
        num_slots = 1 + max(
            int(part.max()) if part.numel() else -1 for part in (rows_U, self.slots_NE)
        )
        place_S = torch.full((num_slots,), -1)
        place_S[rows_U] = torch.arange(len(rows_U))
        place_NE = place_S[self.slots_NE]
        inside_NE = (place_NE >= 0) & (self.weights_NE != 0)
        num_N = inside_NE.sum(1)
        some_N = num_N > 0
        num_M = num_N[some_N]
        row_P = torch.arange(len(num_M)).repeat_interleave(num_M)
        at_P = torch.arange(len(row_P)) - (num_M.cumsum(0) - num_M)[row_P]
        shape = len(num_M), int(num_M.max()) if len(num_M) else 1
        packed = SparseReads(torch.zeros(shape, dtype=torch.int64), torch.zeros(shape))
        packed.slots_NE[row_P, at_P] = place_NE[inside_NE]
        packed.weights_NE[row_P, at_P] = self.weights_NE[inside_NE]
        return packed, some_N


class SparseMatrix:
    """Sparse reads that multiply quickly from both sides, in float32.

    Args:
        reads: its rows.
        num_columns: U.
    """

    def __init__(self, reads: SparseReads, num_columns: int) -> None:
        row_P, place_P = (reads.weights_NE != 0).nonzero(as_tuple=True)
        column_P = reads.slots_NE[row_P, place_P]
        weight_P = reads.weights_NE[row_P, place_P]
        order_P = column_P.argsort(stable=True)
        self._num_rows = len(reads)
        self._forward = column_P, _starts(row_P, len(reads)), weight_P
        self._backward = row_P[order_P], _starts(column_P, num_columns), weight_P[order_P]

    def times(self, x_UC: Tensor) -> Tensor:
        """This matrix times x, (N, C)."""
        return _bags(self._forward, x_UC)

    def transposed_times(self, y_NC: Tensor) -> Tensor:
        """Its transpose times y, (U, C)."""
        return _bags(self._backward, y_NC)

    def squares(self) -> Tensor:
        """The sum of squares of each column, (U, 1)."""
        index, starts, weights = self._backward
        return _bags((index, starts, weights.square()), torch.ones(self._num_rows, 1))


def _bags(entries: tuple[Tensor, Tensor, Tensor], x: Tensor) -> Tensor:
    index, starts, weights = entries
    return F.embedding_bag(index, x, starts, per_sample_weights=weights, mode="sum")


def _starts(row_P: Tensor, num: int) -> Tensor:
    """Where each row's entries begin, when they are sorted by row."""
    counts = torch.bincount(row_P, minlength=num)
    return counts.cumsum(0) - counts


def _gram(reads: SparseReads, num_columns: int, of_reads: bool) -> Tensor:
    """readsᵀ reads, (U, U), or of the reads, reads readsᵀ, (N, N); float64."""
    row_P, place_P = (reads.weights_NE != 0).nonzero(as_tuple=True)
    at_2P = torch.stack([row_P, reads.slots_NE[row_P, place_P]])
    weights_P = reads.weights_NE[row_P, place_P].double()
    shape = len(reads), num_columns
    matrix = torch.sparse_coo_tensor(at_2P, weights_P, shape, check_invariants=False).coalesce()
    outer, inner = (0, 1) if of_reads else (1, 0)
    products = float(matrix.indices()[inner].bincount().double().square().sum())
    if matrix.shape[inner] * matrix.shape[outer] ** 2 <= DENSE * products:
        whole = matrix.to_dense()
        return whole @ whole.T if of_reads else whole.T @ whole
    mirror = matrix.t().coalesce()
    with warnings.catch_warnings():  # the product goes through a layout that torch calls beta
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        product = torch.sparse.mm(*((matrix, mirror) if of_reads else (mirror, matrix)))
    return product.to_dense()


class WriteSystem:
    """The system of one write, ready to be solved for wanted changes.

    Args:
        keys: reads that are to change.
        staying: reads that are to stay.
        gamma_M: how much each of those counts.
        ridge: λ.
        counts_N: κ, how much each key counts; None: 1.

    Attributes:
        rows_U: rows of the table that the write may change, ascending: those that the keys read.
        form: `primal` or `dual`, which are factored, or `gradients`.
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
        self._root_counts = counts_N.sqrt()[:, None]
        own, _ = keys.scaled(counts_N.sqrt()).within(self.rows_U)
        others, self._taking_part = staying.scaled(gamma_M.sqrt()).within(self.rows_U)
        self._root_gamma = gamma_M.sqrt()[self._taking_part]
        self._num_keys, self.num_staying, self._ridge = len(own), len(others), ridge
        both, num_rows = SparseReads.concat([own, others]), len(self.rows_U)
        exact = min(num_rows, len(both)) <= EXACT_SIZE
        self._matrix = SparseMatrix(both, num_rows)
        self._keys = SparseMatrix(own, num_rows)
        if not exact:
            self.form = "gradients"
            self._diagonal_U1 = self._matrix.squares() + ridge
            return
        self.form = "primal" if num_rows <= len(both) else "dual"
        system = _gram(both, num_rows, of_reads=self.form == "dual")
        system.diagonal().add_(ridge)
        self._factor = torch.linalg.cholesky(system)

    def changed(self, x_UC: Tensor) -> Tensor:
        """By how much X changes what the keys read, (N, C) float32."""
        return self._keys.times(x_UC) / self._root_counts

    def solve(
        self,
        wanted_NC: Tensor,
        back_MC: Tensor | None = None,
        before_UC: Tensor | None = None,
        near_UC: Tensor | None = None,
    ) -> tuple[Tensor, float]:
        """X (U, C) float32, and the residual of the linear system: of what had to change.

        Args:
            wanted_NC: by how much the keys are to change.
            back_MC: by how much the reads that stay are to, since they have moved; None: 0.
            before_UC: X₀, None: 0. Solved for is X₀ + X, which gives the reads X₀ already.
            near_UC: an X that is near, e.g. that of nearly the same changes, to begin from.
        """
        matrix = self._matrix
        wanted = F.pad(wanted_NC * self._root_counts, (0, 0, 0, self.num_staying))
        if back_MC is not None:
            back_MC = back_MC[self._taking_part]
            wanted[len(wanted_NC) :] = back_MC * self._root_gamma[:, None]
        right = matrix.transposed_times(wanted)
        if before_UC is not None:  # X₀ gives its share of the reads already, but λ is of the sum
            right -= self._ridge * before_UC
        size = float(right.norm())
        if size == 0:
            return right, 0.0
        if self.form == "gradients":
            x = self._by_gradients(right, size, near_UC)
        elif self.form == "primal":
            x = torch.cholesky_solve(right.double(), self._factor).float()
        else:  # X₀ + X = Bᵀ(BBᵀ + λ)⁻¹ (wanted + BX₀)
            sums = wanted if before_UC is None else wanted + matrix.times(before_UC)
            solved = torch.cholesky_solve(sums.double(), self._factor).float()
            x = matrix.transposed_times(solved)
            x = x if before_UC is None else x - before_UC
        return x, float((right - self._times(x)).norm()) / size

    def _times(self, x_UC: Tensor) -> Tensor:
        """The primal system's matrix times x."""
        product = self._matrix.transposed_times(self._matrix.times(x_UC))
        return product.add_(x_UC, alpha=self._ridge)

    def _by_gradients(self, right_UC: Tensor, size: float, near_UC: Tensor | None) -> Tensor:
        """By conjugate gradients, each column by itself, until the residual of all is as stated."""
        x = torch.zeros_like(right_UC) if near_UC is None else near_UC.clone()
        rest = right_UC.clone() if near_UC is None else right_UC - self._times(x)
        direction = old_C = None
        for _ in range(STEPS):
            if float(rest.norm()) <= RESIDUAL * size:
                break
            step = rest / self._diagonal_U1
            now_C = torch.linalg.vecdot(rest, step, dim=0)
            direction = step if old_C is None else step.add_(direction * (now_C / old_C))
            image, old_C = self._times(direction), now_C.clamp_min(TINY)
            length_C = now_C / torch.linalg.vecdot(direction, image, dim=0).clamp_min(TINY)
            x.addcmul_(direction, length_C)
            rest.addcmul_(image, length_C, value=-1)
        return x


class Rows(Protocol):
    """What adds values (U, D) and a mark (U,) to rows (U,) of the table."""

    @property
    def rows_U(self) -> Tensor:
        """Rows of the table."""
        ...

    @property
    def values_UD(self) -> Tensor:
        """What is added to them."""
        ...

    @property
    def mark_U(self) -> Tensor:
        """Their mark."""
        ...


@dataclass(frozen=True, eq=False)
class Overlay:
    """The writes that are on, added up.

    Attributes:
        rows_U: rows that any of them changes, ascending.
        values_UD: what is added to them.
        mark_U: the sum of the marks.
    """

    rows_U: Tensor
    values_UD: Tensor
    mark_U: Tensor

    @classmethod
    def of(cls, writes: Sequence[Rows], minus: Sequence[Rows] = ()) -> Overlay:
        """These writes, in this order, at least one; less those of `minus`."""
        return cls._sum([*((w, 1.0) for w in writes), *((w, -1.0) for w in minus)])

    def plus(self, write: Rows) -> Overlay:
        """With one more; the bits of all of them added up in order."""
        return self._sum([(self, 1.0), (write, 1.0)])

    @classmethod
    def _sum(cls, signed: Sequence[tuple[Rows, float]]) -> Overlay:
        rows_M = torch.cat([w.rows_U for w, _ in signed])
        both_M = torch.cat(
            [sign * torch.cat([w.values_UD, w.mark_U[:, None]], 1) for w, sign in signed]
        )
        rows_U, place_M = rows_M.unique(return_inverse=True)
        both = both_M.new_zeros(len(rows_U), both_M.shape[1]).index_add_(0, place_M, both_M)
        return cls(rows_U, both[:, :-1].contiguous(), both[:, -1].contiguous())

    @cached_property
    def _padded(self) -> Tensor:
        """Values and mark in one table, and a last row of zeros for rows that are not here."""
        both = torch.cat([self.values_UD, self.mark_U[:, None]], dim=1)
        return torch.cat([both, both.new_zeros(1, both.shape[1])])

    def read(self, slots_NE: Tensor, weights_NE: Tensor) -> tuple[Tensor, Tensor]:
        """What reads get from the writes: values (N, D) and mark (N,)."""
        place_NE = self._places(slots_NE)
        both = F.embedding_bag(place_NE, self._padded, per_sample_weights=weights_NE, mode="sum")
        return both[:, :-1], both[:, -1]

    def of_rows(self, rows_R: Tensor) -> Tensor:
        """What is added to these rows, and in the last column their mark, (R, D + 1)."""
        return self._padded[self._places(rows_R)]

    @cached_property
    def _place_S(self) -> Tensor:
        """The place in the padded table of each row up to the last that is here, and of one more,
        which stands for all after it.
        """
        num = len(self.rows_U)
        place_S = self.rows_U.new_full((int(self.rows_U.max()) + 2,), num)
        place_S[self.rows_U] = torch.arange(num, device=self.rows_U.device)
        return place_S

    def _places(self, rows: Tensor) -> Tensor:
        """Where they are in the padded table."""
        return self._place_S[rows.clamp_max(len(self._place_S) - 1)]

    def to(self, device: torch.device) -> Overlay:
        """The same on that device."""
        if self.rows_U.device == device:
            return self
        return Overlay(*(getattr(self, f.name).to(device) for f in fields(self)))
