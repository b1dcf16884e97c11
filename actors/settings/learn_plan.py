"""How much a memory takes in by itself, and how: what `tandem learn` asks for. No torch."""

from __future__ import annotations

from dataclasses import dataclass

LR_OF_VALUE_LR = 0.35  # of the rate at which the run trained its table; more of it forgets more
WRITE_LR = 10000.0  # of SGD on single rows, whose gradients are small


@dataclass(frozen=True)
class LearnPlan:
    """How much is taken in, and how.

    Attributes:
        steps: optimizer steps.
        lr: peak learning rate of the value table; that of the other weights keeps its proportion.
        rows: None: every weight of the memory is trained; else only the value table is written,
            by SGD, this many rows a step; 0: all that the batch reads.
        old_frac: share of a batch's sequences that are old data.
        assist: weight of the losses through the frozen data layer, beside 1 for the memory alone:
            of both together, and, at the run's `losses.reader`, of the data layer where it reads.
        seed: of batches and noise.
        background_batches: of old data, in which reads are counted where rows are chosen.
    """

    steps: int
    lr: float
    rows: int | None = None
    old_frac: float = 0.25
    assist: float = 1.0
    seed: int = 0
    background_batches: int = 256


def default_lr(value_lr: float, rows: int | None) -> float:
    """The rate of a plan that was given none, for a run whose table was trained at `value_lr`."""
    return LR_OF_VALUE_LR * value_lr if rows is None else WRITE_LR
