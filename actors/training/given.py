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
from actors.layers.predicted import Fused, in_parts
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
    at_once: int | None = None,
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
        at_once: positions whose logits are made at a time; None: all.
    """
    if weights.given == 0 or not (num := int(given_BT.sum())):
        return {}
    at_G, share = part.places(given_BT), num / num_global
    targets_G = rows_at(part.targets_BT, at_G)
    with autocast():
        u_GD = rows_at(u_BTD, at_G)
        y_GD = memory.read_at(u_GD).y

    def term(logits: Callable[[Tensor, bool], Tensor], x_GD: Tensor, weight: float) -> Term:
        if at_once is None:
            with autocast():
                logits_GV = logits(x_GD, False)
            return Term(losses.self_(logits_GV, targets_G) * share, weight)

        def part_of(some: slice, x_GD: Tensor) -> Tensor:
            with autocast():
                logits_GV = logits(x_GD[some], True)
            nll_G = Fused(logits_GV, targets_G[some]).nll_N
            return nll_G.sum() * (weight * share / num)  # the weight too: its factor is then 1

        return Term(in_parts(num, at_once, part_of, x_GD) / weight, weight)

    terms = {"given": term(memory.predict, y_GD, weights.given)}
    if weights.encoder > 0 and u_GD.requires_grad:
        terms["given_encoder"] = term(memory.guess, u_GD, weights.given * weights.encoder)
    return terms
