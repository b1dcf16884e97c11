"""A module's parameters in one flat buffer of fixed layout, for publishing, adopting, reducing and
checkpointing.

The module's parameters become views of the buffer; so do the gradients of the dense ones. So a
snapshot is one memory copy, a reduction one collective, and an optimizer step one fused kernel per
section. The layout is a pure function of names, shapes, dtypes and the section rule, the same in
trainer and mirror.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor, nn

from actors.machine import host_memory
from actors.machine.host_memory import ByteArray as ByteArray
from actors.snapshots.buckets import ALIGN_BYTES

SectionRule = Callable[[str, Tensor], str]

FROZEN = "frozen"  # section of parameters that every process loads itself; not in the buffer


@dataclass(frozen=True)
class ParameterEntry:
    """Position of one parameter in the buffer."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    section: str
    offset: int  # bytes

    @property
    def num_bytes(self) -> int:
        """Bytes of the parameter, without padding."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    @property
    def signature(self) -> str:
        """Name, dtype and shape in one line."""
        return f"{self.name} {self.dtype} {list(self.shape)}"


@dataclass(frozen=True)
class Part:
    """Parameters of one section that lie side by side in the buffer.

    Attributes:
        section: its name.
        is_apart: whether they are those that a caller asked for by name.
        flat: the part of the buffer, of the section's dtype, with alignment gaps (always zero).
        entries: the parameters.
    """

    section: str
    is_apart: bool
    flat: Tensor
    entries: tuple[ParameterEntry, ...]


class FlatParameters:
    """Relocates a module's parameters into one buffer, section after section.

    Args:
        module: its parameters become views of the buffer; tied ones share one, those of section
            `FROZEN` stay.
        section_of: (parameter name, tensor) -> section name; sections are in alphabetical order.
        base: identity of the weights that parameters of section `FROZEN` belong to; empty: none.
    """

    def __init__(self, module: nn.Module, section_of: SectionRule, base: str = "") -> None:
        self.base = base
        named = [item for item in module.named_parameters() if section_of(*item) != FROZEN]
        named.sort(
            key=lambda item: (section_of(*item), str(item[1].dtype))
        )  # stable: module order within a section
        self.entries: list[ParameterEntry] = []
        offset = 0
        for name, parameter in named:
            offset = -(-offset // ALIGN_BYTES) * ALIGN_BYTES
            section = f"{section_of(name, parameter)}:{parameter.dtype}"
            self.entries.append(
                ParameterEntry(name, tuple(parameter.shape), parameter.dtype, section, offset)
            )
            offset += self.entries[-1].num_bytes
        self.total_bytes = -(-offset // ALIGN_BYTES) * ALIGN_BYTES
        device = named[0][1].device
        self.buffer = (
            torch.from_numpy(host_memory.zeros(self.total_bytes))
            if device.type == "cpu"
            else torch.zeros(self.total_bytes, dtype=torch.uint8, device=device)
        )
        self._parameters = dict(named)
        for entry in self.entries:
            view = self._view(entry)
            view.copy_(self._parameters[entry.name].data)
            self._parameters[entry.name].data = view

    def _view(self, entry: ParameterEntry) -> Tensor:
        return (
            self.buffer[entry.offset : entry.offset + entry.num_bytes]
            .view(entry.dtype)
            .view(entry.shape)
        )

    @property
    def layout_hash(self) -> str:
        """Digest of names, shapes, dtypes and offsets.

        Both ends of an exchange must agree on it.
        """
        lines = "\n".join(f"{e.signature} {e.offset}" for e in self.entries)
        return hashlib.sha256(f"{lines}\n{self.total_bytes}".encode()).hexdigest()[:16]

    def digest(self) -> str:
        """sha256 over parameter names, shapes, dtypes and bytes, in alphabetical order of the
        names, after the identity of the frozen weights if there are any.
        """
        return digest_of(self.entries, self.to_bytes(), self.base)

    def to_bytes(self) -> ByteArray:
        """The buffer's bytes: a view if it is in host memory, else a copy."""
        return self.buffer.cpu().numpy()

    def copy_from(self, offset: int, chunk: ByteArray) -> None:
        """Copies `chunk` into the buffer at `offset`.

        `chunk` may be a read-only view of the object store.
        """
        if self.buffer.device.type == "cpu":
            target = self.buffer.numpy()[offset : offset + chunk.size]
            host_memory.copy(target, chunk, torch.get_num_threads())
        else:
            self.buffer[offset : offset + chunk.size].copy_(torch.from_numpy(chunk.copy()))

    def rounded(self, start: int, stop: int) -> ByteArray:
        """Bytes [start, stop) of the buffer as bfloat16, half as long; float32 layers only."""
        part = self.buffer.view(torch.float32)[start // 2 : stop // 2]
        return part.to(torch.bfloat16).view(torch.uint8).cpu().numpy()

    def copy_rounded(self, offset: int, chunk: ByteArray) -> None:
        """Copies a chunk from `rounded` into the buffer."""
        rounded = torch.from_numpy(chunk.copy()).view(torch.bfloat16)
        self.buffer.view(torch.float32)[offset // 2 : offset // 2 + len(rounded)].copy_(rounded)

    def sections(self) -> list[str]:
        """Section names, `RULE:DTYPE`, in buffer order."""
        return list(dict.fromkeys(e.section for e in self.entries))

    def section(self, name: str) -> Tensor:
        """One section of the buffer as a flat tensor of its dtype, with alignment gaps (always
        zero).
        """
        entries = [e for e in self.entries if e.section == name]
        start, stop = entries[0].offset, entries[-1].offset + entries[-1].num_bytes
        return self.buffer[start:stop].view(entries[0].dtype)

    def parts(self, apart: Callable[[str], bool]) -> list[Part]:
        """The sections, cut where parameters that `apart` names begin and end."""
        found: list[Part] = []
        for (section, is_apart), group in groupby(
            self.entries, lambda e: (e.section, apart(e.name))
        ):
            entries = tuple(group)
            start, stop = entries[0].offset, entries[-1].offset + entries[-1].num_bytes
            flat = self.buffer[start:stop].view(entries[0].dtype)
            found.append(Part(section, is_apart, flat, entries))
        return found

    def attach_gradients(self, part: Part, flat: Tensor) -> None:
        """Makes the gradients of the part's parameters views of `flat`, which has its length."""
        for entry in part.entries:
            at = (entry.offset - part.entries[0].offset) // entry.dtype.itemsize
            size = entry.num_bytes // entry.dtype.itemsize
            self._parameters[entry.name].grad = flat[at : at + size].view(entry.shape)


def digest_of(entries: list[ParameterEntry], buffer: ByteArray, base: str = "") -> str:
    """sha256 over names, shapes, dtypes and bytes of the parameters in `buffer`, after `base`."""
    digest = hashlib.sha256(base.encode())
    for entry in sorted(entries, key=lambda e: e.name):
        digest.update(entry.signature.encode())
        digest.update(buffer[entry.offset : entry.offset + entry.num_bytes].data)
    return digest.hexdigest()
