"""The sample of its own reads that a memory keeps: what has to stay when something is written.

Kept are windows of tokens, some hundreds of kB, because addresses change for as long as the encoder
trains; encodings and reads are made from them with the encoder as it is. Only positions that were
trained on count. No corpus is needed.

Shapes: W windows, T tokens, M positions, O different contexts, E slots of a read, C tokens of a
context.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from actors.corpus.windows import Windows
from actors.layers.batch import rows_at, to_batch
from actors.layers.memory_layer import MemoryLayer
from actors.layers.places import KeptPlaces
from actors.machine.progress import Progress, unseen
from actors.operators.closed_form import SparseReads
from actors.operators.token_bags import TOKENS, last_tokens

PASS_TOKENS = 4096  # whose addresses are looked up at a time
# Of one forward pass: with threads that wait for each other, fewer and larger steps.
ENCODED_TOKENS = 16384
READS = "reading the text that is to stay"  # the stage that `progress` sees
MOST_SOLVED = 8192  # that take part where a change of the table is solved: seconds follow them
HEAVIEST = 64  # slots of an old read that count where something is written, the others weigh little
FIRST, FACTOR, BITS = 0xCBF29CE484222325, 0x100000001B3, 0xFFFFFFFFFFFFFFFF  # of FNV-1a


def number_of(tokens: Iterable[int]) -> int:
    """A number for these tokens, the same everywhere: FNV-1a, of 63 bits."""
    number = FIRST
    for token in tokens:
        number = ((number ^ token) * FACTOR) & BITS
    return number >> 1


@dataclass(frozen=True, eq=False)
class KeptReads:
    """Reads of old text.

    Attributes:
        memory: that reads; addresses are looked up when they are asked for.
        u_MD: encodings of M positions, or contexts.
        targets_M: the token that follows each.
        contexts_M: a number for the tokens of the document up to each, as `number_of` gives.
        said_MC: the last of these tokens, as `token_bags.last_tokens` gives them.
        most_solved: that take part where a change of the table is solved.
    """

    TENSORS: ClassVar = ("u_MD", "targets_M", "contexts_M", "said_MC")

    memory: MemoryLayer
    u_MD: Tensor
    targets_M: Tensor
    contexts_M: Tensor
    said_MC: Tensor
    most_solved: int = MOST_SOLVED

    def __len__(self) -> int:
        return len(self.targets_M)

    @cached_property
    def reads(self) -> SparseReads:
        """Slots and weights of each, on the CPU."""
        width = self.memory.reads_per_key
        slots = [torch.zeros(0, width, dtype=torch.int64)]
        weights = [torch.zeros(0, width)]
        device = self.memory.values.device
        with torch.no_grad():
            for u_PD in self.u_MD.split(PASS_TOKENS) if len(self) else ():
                _, slots_PHK, weights_PHK = self.memory.addresses(u_PD.to(device))
                slots.append(slots_PHK.flatten(1).cpu())
                weights.append(weights_PHK.flatten(1).float().cpu())
        return SparseReads(torch.cat(slots), torch.cat(weights))

    @cached_property
    def heaviest(self) -> SparseReads:
        """The reads with their heaviest slots alone; made once for all that is told."""
        return self.reads.heaviest(HEAVIEST)

    @cached_property
    def places(self) -> KeptPlaces:
        """Each context once."""
        numbers_O, at_M = self.contexts_M.unique(return_inverse=True)
        first_O = torch.full_like(numbers_O, len(self)).scatter_reduce_(
            0, at_M, torch.arange(len(self)), "amin"
        )
        bags, said_OC = self.memory.token_bags, self.said_MC[first_O]
        u_OD = F.normalize(self.u_MD[first_O], dim=1)
        return KeptPlaces(bags, u_OD, said_OC, bags(said_OC), numbers_O, self.targets_M[first_O])

    @cached_property
    def few(self) -> KeptReads:
        """As many of them, evenly spread, as a change of the table is solved with."""
        return self.thinned(self.most_solved)

    def thinned(self, most: int) -> KeptReads:
        """So many at most, evenly spread."""
        if len(self) <= most:
            return self
        return self.at(torch.from_numpy(np.linspace(0, len(self) - 1, most).astype(np.int64)))

    @classmethod
    def none(cls, memory: MemoryLayer) -> KeptReads:
        """Of no position."""
        nothing = torch.zeros(0, dtype=torch.int64)
        said = torch.zeros(0, TOKENS, dtype=torch.int32)
        return cls(memory, torch.zeros(0, memory.spec.dim), nothing, nothing, said)

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        memory: MemoryLayer,
        windows: Windows,
        most: int | None = None,
        progress: Progress = unseen,
    ) -> KeptReads:
        """What the memory reads at the positions of these windows that are trained on, on the CPU.

        Args:
            memory: whose encoder and keys.
            windows: as batches of training have them.
            most: positions at most, evenly spread over all; None: all.
            progress: sees how many windows are read.
        """
        device = memory.values.device
        encodings, targets = [], [torch.zeros(0, dtype=torch.int64)]
        contexts = [torch.zeros(0, dtype=torch.int64)]
        said = [torch.zeros(0, TOKENS, dtype=torch.int32)]
        size = max(1, ENCODED_TOKENS // max(1, windows.tokens_NT.shape[1]))
        for start in range(0, len(windows), size):
            progress(READS, start, len(windows))
            batch = to_batch(windows[start : start + size], device)
            u_BTD, _ = memory.encode(batch.tokens_BT, batch.segments_BT)
            encodings.append(rows_at(u_BTD, batch.valid_at_N).cpu())
            targets.append(batch.targets_N.cpu())
            said_BTC = last_tokens(batch.tokens_BT, batch.segments_BT)
            said.append(rows_at(said_BTC, batch.valid_at_N).cpu())
            numbers_BT = _contexts(windows[start : start + size])
            contexts.append(torch.from_numpy(numbers_BT[batch.host.valid_BT]))
        found = cls(
            memory,
            torch.cat(encodings) if encodings else torch.zeros(0, memory.spec.dim),
            torch.cat(targets),
            torch.cat(contexts),
            torch.cat(said),
        )
        return found if most is None else found.thinned(most)

    def at(self, where_M: Tensor) -> KeptReads:
        """Some of them."""
        u_MD, targets_M, contexts_M, said_MC = (getattr(self, n)[where_M] for n in self.TENSORS)
        return KeptReads(self.memory, u_MD, targets_M, contexts_M, said_MC, self.most_solved)


def _contexts(windows: Windows) -> npt.NDArray[np.int64]:
    """`number_of` each document's tokens up to each position, (W, T)."""
    out = np.zeros(windows.tokens_NT.shape, np.int64)
    for row, (tokens, segments) in enumerate(
        zip(windows.tokens_NT.tolist(), windows.segments_NT.tolist(), strict=True)
    ):
        number, before = FIRST, None
        for at, (token, segment) in enumerate(zip(tokens, segments, strict=True)):
            number = FIRST if segment != before else number
            number, before = ((number ^ token) * FACTOR) & BITS, segment
            out[row, at] = number >> 1
    return out
