"""What the losses of one pass are computed from: sequences, predictions of both layers, counts.

A step of a rank is one pass, or several where gradients are accumulated. Filled by the trainers,
whose `terms` turn it into losses.

Shapes: B sequences, T tokens, D memory width, N valid positions, V token ids.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from actors.layers.batch import Batch
from actors.layers.data_layer import DataOutput
from actors.layers.losses import Teacher
from actors.layers.memory_layer import Read
from actors.layers.mixture import Mixture, Predictions


@dataclass(frozen=True)
class DataPass:
    """What the losses of one pass are computed from.

    Attributes:
        alone, reading: the sequences without and with reads; those that read come first.
        num_own, num_help: positions of each kind in the global batch.
        out: the data layer's output, of the sequences that read first.
        both: what each layer predicts at the valid positions of `reading`.
        mixture: both together there.
    """

    alone: Batch
    reading: Batch
    num_own: int
    num_help: int
    out: DataOutput
    both: Predictions
    mixture: Mixture


@dataclass(frozen=True)
class TermCounts:
    """How many sequences, or positions, each loss of the memory is computed at; 0 where its weight
    is 0.
    """

    self_: int = 0
    given: int = 0
    recall: int = 0
    sync: int = 0
    assist: int = 0


@dataclass(frozen=True)
class MemoryPass:
    """What the losses of one pass are computed from.

    Attributes:
        part: its sequences.
        u_BTD: their encodings.
        u_ND: encodings of the valid positions.
        read: what was read there.
        logits_NV: the memory's prediction there.
        num_sequences: by loss, its leading sequences at which a loss with a teacher, or that
            of given tokens, is computed.
        num_positions: the valid positions of these; of self, those of real text; of given tokens,
            the positions before them.
        num_global: positions of each loss in the global batch.
        text_at: places of real text among the valid positions; None: all are.
        recall_teacher, sync_teacher: what the adopted data layer predicts at their positions.
        text_weight_N: weight of each position in self; None: all 1.
        given_BT: where a given token of real text comes next and is learned too; in host memory.
    """

    part: Batch
    u_BTD: Tensor
    u_ND: Tensor
    read: Read
    logits_NV: Tensor
    num_sequences: TermCounts
    num_positions: TermCounts
    num_global: TermCounts
    text_at: Tensor | None
    recall_teacher: Teacher
    sync_teacher: Teacher
    text_weight_N: Tensor | None
    given_BT: npt.NDArray[np.bool_]
