"""Which section of a flat buffer a parameter belongs to, chosen by its name. Pure."""

from __future__ import annotations

from torch import Tensor

from actors.snapshots.flat_parameters import FROZEN

DECAY, NO_DECAY, ROWS = "decay", "no_decay", "rows"


ROW_TABLE = "values"


COPIED = "encoder.copy."  # the memory's frozen copy of a data layer's first layers


def section_of(name: str, parameter: Tensor) -> str:
    """Section of a parameter: the value table by its rows, matrices with weight decay, vectors and
    keys without, a frozen copy nowhere.

    Embeddings decay too: the row of a token that training never shows shrinks towards saying
    nothing.
    """
    if name.startswith(COPIED):
        return FROZEN
    if name == ROW_TABLE:
        return ROWS
    return DECAY if parameter.dim() >= 2 and name != "keys" else NO_DECAY
