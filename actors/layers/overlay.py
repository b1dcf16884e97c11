"""Rows that are added to the value table, summed up over the writes that add any.

Shapes: M reads, N of one call, E slots of a read, U rows that change, R rows asked for, D d_m, S
slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


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
