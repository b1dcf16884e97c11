"""The loss of tokens that a document gives: the memory learns them too, so that it can write.

Where only answers are learned, nothing else would teach the memory how a document begins. Called
by `MemoryTrainer`.

Shapes: B sequences, T tokens, D memory width, G given positions.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import numpy.typing as npt
from torch import Tensor

from actors.layers import losses
from actors.layers.batch import Batch, rows_at
from actors.layers.memory_layer import MemoryLayer
from actors.settings.run import LossWeights
from actors.training.terms import Term

Bools = npt.NDArray[np.bool_]


def given_positions(part: Batch, is_text_B: Bools, num_sequences: int) -> Bools:
    """Where a given token of real text comes next, (B, T), in the first `num_sequences`."""
    given_BT = part.given_BT & is_text_B[:, None]
    given_BT[num_sequences:] = False
    return given_BT


def given_terms(
    memory: MemoryLayer,
    part: Batch,
    u_BTD: Tensor,
    given_BT: Bools,
    num_global: int,
    weights: LossWeights,
    autocast: Callable[[], AbstractContextManager[object]],
) -> dict[str, Term]:
    """The terms of `MemoryTerms` by name: `given` and `given_encoder`; none without positions.

    Args:
        memory: what learns.
        part: the sequences of a pass.
        u_BTD: their encodings.
        given_BT: where, by `given_positions`.
        num_global: such positions in the global batch.
        weights: of the losses.
        autocast: precision of forward passes.
    """
    if weights.given == 0 or not (num := int(given_BT.sum())):
        return {}
    at_G, share = part.places(given_BT), num / num_global
    targets_G = rows_at(part.targets_BT, at_G)
    with autocast():
        u_GD = rows_at(u_BTD, at_G)
        logits_GV = memory.predict(memory.read_at(u_GD).y)
    terms = {"given": Term(losses.self_(logits_GV, targets_G) * share, weights.given)}
    if weights.encoder > 0 and u_GD.requires_grad:
        with autocast():
            guess_GV = memory.guess(u_GD)
        terms["given_encoder"] = Term(
            losses.self_(guess_GV, targets_G) * share, weights.given * weights.encoder
        )
    return terms
