"""Counts what a host would wait for if the work were a GPU's: on a CPU the same calls are made."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Operators whose result, or the size of it, the host has to learn before it can go on.
WAITING = {
    "aten::_local_scalar_dense",  # item(), and with it int(), float(), bool() of a tensor
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::equal",
    "aten::bincount",
}
INDEXING = {  # with a mask among the indices: the places where it is true are looked up first
    "aten::index",
    "aten::index_put",
    "aten::index_put_",
    "aten::_index_put_impl_",
    "aten::_unsafe_index",
    "aten::_unsafe_index_put",
}
# Calls that copy between host and GPU and wait; on a CPU no operator is behind them. `numpy()` is
# not among them: a GPU's tensor refuses it.
COPYING = {"cpu", "tolist", "new_tensor"}


@dataclass
class Waits:
    """Waits by operator and line of ours, and all operators that were dispatched."""

    found: Counter[str] = field(default_factory=Counter)
    num_operators: int = 0

    def add(self, name: str) -> None:
        """Counts one wait, at the line that asked for it."""
        ours = [f for f in traceback.extract_stack() if "/actors/" in f.filename]
        lines = [f"{Path(f.filename).name}:{f.lineno}" for f in ours if "/tests/" not in f.filename]
        self.found[f"{name} {lines[-1] if lines else ''}".strip()] += 1

    def __len__(self) -> int:
        return sum(self.found.values())


class _Operators(TorchDispatchMode):
    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        self.waits.num_operators += 1
        masked = name in INDEXING and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        unsized = name == "aten::repeat_interleave" and (kwargs or {}).get("output_size") is None
        if name in WAITING or masked or unsized:
            self.waits.add(name)
        return func(*args, **(kwargs or {}))


class _Calls(TorchFunctionMode):
    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        placed = func is torch.tensor and "device" in (kwargs or {}) and args[0] != []
        if placed or (name in COPYING and getattr(Tensor, name, None) is func):
            self.waits.add(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def counted_waits() -> Iterator[Waits]:
    """What the block would make the host wait for, backward passes included."""
    waits = Waits()
    with _Calls(waits), _Operators(waits):
        yield waits
