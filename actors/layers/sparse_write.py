"""Sparse writes: which rows of the value table a new batch is written to, and one step on these.

A slot that the new batch reads often and old data seldom may change; one that old data reads
everywhere must not. So rows are ranked by TF-IDF, the batch being the document. Pure functions of
reads and a table: no losses, no encoder. Called by `MemoryLayer.write`; the background is counted
by `pair.learner`, which has the old data.

Shapes: R rows of the value table, D their width, U rows that occur, `...` any number of reads.
Source: Lin et al. 2025 (arXiv 2510.15103), sparse memory finetuning.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Background:
    """What old data reads.

    Attributes:
        batches_R: in how many batches of it each row was read, (R,) int64.
        num_batches: batches that were counted.
    """

    batches_R: Tensor
    num_batches: int

    @classmethod
    def of(cls, reads: Iterable[Tensor], num_rows: int) -> Background:
        """Counts batches.

        Args:
            reads: the row numbers that each batch read, (...).
            num_rows: R.
        """
        total, num = torch.zeros(num_rows, dtype=torch.int64), 0
        for slots in reads:
            read = slots.flatten()
            total = total.to(read.device)
            total[read.unique()] += 1
            num += 1
        return cls(total, num)

    @property
    def idf_R(self) -> Tensor:
        """log((B + 1) / (b + 1)) of each row, b of B batches having read it; (R,) float64."""
        return ((self.num_batches + 1) / (self.batches_R + 1).double()).log()


@dataclass(frozen=True)
class Written:
    """What one write did.

    Attributes:
        loss: of the batch before it; nats per token where the caller's loss is.
        rows_U: the rows that were written, ascending.
    """

    loss: float
    rows_U: Tensor


def tf_idf(slots: Tensor, background: Background) -> Tensor:
    """Share of the batch's reads that go to each row, times its inverse frequency in old data.

    Args:
        slots: row numbers that the new batch read, (...).
        background: what old data reads.

    Returns:
        (R,) float64; 0 for rows that the batch did not read or old data reads in every batch.

    Source: Lin et al. 2025.
    """
    counts_R = torch.bincount(slots.flatten(), minlength=len(background.batches_R)).double()
    return counts_R / counts_R.sum().clamp_min(1) * background.idf_R


def choose_rows(slots: Tensor, background: Background, rows: int | None) -> Tensor:
    """The `rows` highest rows by TF-IDF of those that the batch read, ascending; None or 0: all.

    Of equal ones the first rows of the table, so that the choice is the same everywhere.

    Raises:
        ValueError: a negative number of rows.
    """
    if rows is not None and rows < 0:
        raise ValueError(f"rows: expected how many to write, or None or 0 for all, got {rows}")
    read_U = slots.flatten().unique()
    if not rows or rows >= len(read_U):
        return read_U
    order = tf_idf(slots, background)[read_U].sort(descending=True, stable=True).indices
    return read_U[order[:rows]].sort().values


@torch.no_grad()
def descend(table_RD: Tensor, gradient_RD: Tensor, rows_U: Tensor, lr: float) -> None:
    """table[row] -= lr * gradient[row] for these rows, in place; the others keep their bits.

    Args:
        table_RD: the value table.
        gradient_RD: its gradient, sparse as `embedding_bag` gives it.
        rows_U: rows to write, each once.
        lr: learning rate of plain SGD.
    """
    found = gradient_RD.coalesce()
    chosen = torch.isin(found.indices()[0], rows_U)
    at_U, g_UD = found.indices()[0][chosen], found.values()[chosen]
    table_RD[at_U] = table_RD[at_U] - lr * g_UD
