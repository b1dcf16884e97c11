"""The section of the flat buffer that a parameter belongs to, chosen by its name."""

from __future__ import annotations

from torch import Tensor

from actors.settings.layers import DataLayerSpec
from actors.snapshots.flat_parameters import FROZEN, SectionRule

DECAY, NO_DECAY, ROWS = "decay", "no_decay", "rows"
ROW_TABLE = "values"
COPIED = "encoder.copy."  # the memory's frozen copy of a data layer's first layers


def section_of(name: str, parameter: Tensor) -> str:
    """Section of a parameter: ROWS for the value table, DECAY for matrices, NO_DECAY for vectors
    and keys, FROZEN for a frozen copy.

    Embeddings decay too: rows of tokens that never occur in training shrink towards zero.
    """
    if name.startswith(COPIED):
        return FROZEN
    if name == ROW_TABLE:
        return ROWS
    return DECAY if parameter.dim() >= 2 and name != "keys" else NO_DECAY


def data_sections(layer: DataLayerSpec) -> SectionRule:
    """The rule of a data layer: as `section_of`, and FROZEN for what does not train."""

    def rule(name: str, parameter: Tensor) -> str:
        return section_of(name, parameter) if layer.trains(name) else FROZEN

    return rule
