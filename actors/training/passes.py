"""What the losses of one pass are computed from: what both layers predict at its positions, counts.

A step of a rank is one pass, or several where gradients are accumulated. Filled by the trainers,
whose `terms` turn it into losses. A pass with more tokens than `RunSpec.logit_tokens` comes in
parts, one after the other, each with some of its positions.

Shapes: N positions that have something to predict, M leading ones of them, D memory width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from actors.layers.mixture import Mixture
from actors.layers.predicted import Predicted, Teachers


@dataclass(frozen=True)
class DataPass:
    """What the losses of one pass, or of a part of it, are computed from.

    Attributes:
        num_reading: positions that read; they are the first ones.
        predicted: what the data layer predicts by itself, at all positions.
        beyond_N: as `DataOutput.beyond_BT`.
        mixture: both together where the memory is read, its `logp` (M,) that of the text's tokens;
            None: no position reads.
        num_own, num_help: positions without and with reads in the global batch.
    """

    num_reading: int
    predicted: Predicted
    beyond_N: Tensor | None
    mixture: Mixture | None
    num_own: int
    num_help: int


@dataclass(frozen=True)
class TermCounts:
    """How many sequences, or positions, each loss of the memory is computed at; 0 where its weight
    is 0.
    """

    self_: int = 0
    given: int = 0
    recall: int = 0


@dataclass(frozen=True)
class MemoryPass:
    """What the losses of one pass, or of a part of it, are computed from.

    Attributes:
        u_ND: encodings.
        y_ND: what was read.
        predicted: the memory's prediction, beside `teachers`.
        guess: what the encoder predicts without slots; None: not trained.
        teachers: by name: `data`, the adopted data layer.
        num_positions: by loss, its leading positions; of self, those of real text.
        num_global: positions of each loss in the global batch.
        text_at: places of real text among the positions; None: all are.
        text_weight_N: weight of each position in self; None: all 1.
    """

    u_ND: Tensor
    y_ND: Tensor
    predicted: Predicted
    guess: Predicted | None
    teachers: Teachers
    num_positions: TermCounts
    num_global: TermCounts
    text_at: Tensor | None
    text_weight_N: Tensor | None
