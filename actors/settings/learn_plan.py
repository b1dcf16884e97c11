"""What `tandem learn` asks for: how long and how a memory, and then its port, learns new data. No
torch.
"""

from __future__ import annotations

from dataclasses import dataclass

VALUE_LR_FRAC = 0.35  # of the rate at which the run trained its table; a higher one forgets more


@dataclass(frozen=True)
class LearnPlan:
    """How long and how the memory learns new data.

    Attributes:
        steps: optimizer steps.
        lr: peak learning rate of the value table; that of the other weights keeps its proportion.
        old_frac: share of a batch's sequences that come from the run's own data.
        assist: weight of the losses whose gradient passes through the frozen data layer, where the
            memory alone has weight 1: the loss of both together and, times the run's
            `losses.reader`, that of the data layer where it reads.
        seed: seed of batches and noise.
    """

    steps: int
    lr: float
    old_frac: float = 0.25
    assist: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class PortPlan:
    """How long and how the port learns what the memory has learned.

    Attributes:
        steps: optimizer steps.
        lr: peak learning rate.
        old_frac: as of `LearnPlan`.
        seed: seed of batches and noise.
    """

    steps: int
    lr: float
    old_frac: float = 0.25
    seed: int = 0


def default_lr(value_lr: float) -> float:
    """The learning rate where none is given, for a run whose table was trained at `value_lr`."""
    return VALUE_LR_FRAC * value_lr
