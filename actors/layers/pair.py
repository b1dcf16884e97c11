"""A data layer and the memory layer that goes with it."""

from __future__ import annotations

from dataclasses import dataclass

from actors.layers.data_layer import DataLayer
from actors.layers.memory_layer import MemoryLayer


@dataclass(frozen=True)
class Pair:
    """A data layer and the memory layer that goes with it, at one version each."""

    data: DataLayer
    memory: MemoryLayer
