"""What the data layer said of its own batch while it trained: at each position that learned without
reading, its likeliest tokens. So the memory that recalls it needs no copy of it there.

    data rank      SaidInterval: one row of numbers by position, written as its passes go by
    the exchange   the same bytes, as one more bucket of the version that the interval publishes
    memory rank    Said: the sequences as a batch, and what was said of them as a teacher

A row says which token was read (with its noise), which came next, the document, the entropy of the
prediction, the K likeliest ids and their probabilities. Every rank of the data group writes the
rows of its own sequences, and the sum over the ranks is the whole. The numbers of an interval are
of one size, so that they are part of checkpoints, and a replay gives the same bytes.

Shapes: S sequences that an interval learned without reading, T tokens, C numbers by position,
M positions of a pass, K likeliest ids, V token ids.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from actors.layers.batch import Batch, HostCopy
from actors.layers.predicted import FewLikeliest
from actors.machine.device import to_device
from actors.machine.host_memory import ByteArray
from actors.operators.fused import few_largest
from actors.operators.precision import widen
from actors.settings.run import RunSpec

MOST_LIKELIEST = 32
TOKEN, TARGET, PLACE, ENTROPY, IDS = range(5)  # columns; the ids, then their probabilities


@dataclass(frozen=True)
class SaidShape:
    """How much is said in an interval.

    Attributes:
        num_steps: of the data group.
        num_alone: sequences of a step that don't read.
        window: tokens of one.
        num_ids: that are named at each position; even.
    """

    num_steps: int
    num_alone: int
    window: int
    num_ids: int

    @classmethod
    def of(cls, spec: RunSpec, num_tokens: int) -> SaidShape:
        """Of a run whose tokenizer has so many ids."""
        steps, num_ids = spec.data.steps_per_interval, min(MOST_LIKELIEST, num_tokens // 2 * 2)
        return cls(steps, spec.num_alone, spec.corpus.window, num_ids)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Of the tensor of all numbers, (S, T, C): probabilities are half as wide."""
        columns = IDS + self.num_ids + self.num_ids // 2
        return self.num_steps * self.num_alone, self.window, columns

    @property
    def num_bytes(self) -> int:
        """Of an interval."""
        return 4 * int(np.prod(self.sizes))


class SaidInterval:
    """What a data rank says in one interval.

    Args:
        shape: how much.
        device: of the layer.
    """

    def __init__(self, shape: SaidShape, device: torch.device) -> None:
        self._shape = shape
        self.rows_STC = torch.zeros(shape.sizes, dtype=torch.int32, device=device)

    def forget(self) -> None:
        """What was said in the interval before."""
        self.rows_STC.zero_()

    def of_pass(self, part: Batch, rows: slice, step: int, num_reading: int) -> SaidPass:
        """Where a pass' positions say something.

        Args:
            part: its sequences, those that read first.
            rows: which of the global batch they are.
            step: of the interval, from 0 on.
            num_reading: sequences at the front of the global batch that read.
        """
        numbers = np.arange(len(self.rows_STC) + num_reading)[rows][: len(part.tokens_BT)]
        alone = numbers >= num_reading
        at_S = numbers[alone] - num_reading + step * self._shape.num_alone
        first = int((~alone).sum())
        mine = part.rows(slice(first, None))
        host = mine.host
        place = 2 * host.segments_BT + host.valid_BT
        written_STC = torch.stack(
            [mine.tokens_BT, mine.targets_BT, to_device(torch.from_numpy(place), self._device)], -1
        )
        where_S = to_device(torch.from_numpy(at_S), self._device)
        self.rows_STC[..., :ENTROPY].index_copy_(0, where_S, written_STC.int())
        places_BT = at_S[:, None] * self._shape.window + np.arange(self._shape.window)
        places_M = torch.from_numpy(places_BT[host.valid_BT])
        return SaidPass(
            self.rows_STC.flatten(0, 1), to_device(places_M, self._device), self._shape.num_ids
        )

    @property
    def _device(self) -> torch.device:
        return self.rows_STC.device

    def bucket(self) -> ByteArray:
        """The numbers as bytes."""
        found: ByteArray = self.rows_STC.cpu().contiguous().view(-1).numpy().view(np.uint8)
        return found


@dataclass
class SaidPass:
    """What is said at the positions of one pass that don't read, in their order.

    Attributes:
        rows_XC: of all positions of the interval.
        places_M: which of them the pass has.
        num_ids: named at each.
        num_said: positions that have said it.
    """

    rows_XC: Tensor
    places_M: Tensor
    num_ids: int
    num_said: int = 0

    @torch.no_grad()
    def say(self, logits_MV: Tensor, logsumexp_M: Tensor, entropy_M: Tensor) -> None:
        """What is predicted at the next positions.

        Args:
            logits_MV: of any precision.
            logsumexp_M: of them.
            entropy_M: of the prediction, nats.
        """
        if not (num := len(logits_MV)):
            return
        at_M = self.places_M[self.num_said : self.num_said + num]
        self.num_said += num
        z_MV = widen(logits_MV.detach())
        ids_MK = few_largest(z_MV, self.num_ids)
        p_MK = (z_MV.gather(1, ids_MK) - logsumexp_M[:, None]).exp()
        said_MC = torch.cat(
            [
                entropy_M.float().view(torch.int32)[:, None],
                ids_MK.int(),
                p_MK.half().view(torch.int32),
            ],
            dim=1,
        )
        self.rows_XC[:, ENTROPY:].index_copy_(0, at_M, said_MC)


class Said:
    """What a memory rank got of an interval of the data group.

    Args:
        shape: how much that is.
        bucket: the numbers as bytes; None: nothing was said yet.
    """

    def __init__(self, shape: SaidShape, bucket: ByteArray | None = None) -> None:
        if bucket is None:
            rows_STC = np.zeros(shape.sizes, np.int32)
        else:
            rows_STC = bucket.view(np.int32).reshape(shape.sizes)
        self._shape = shape
        valid_ST = rows_STC[..., PLACE] % 2 == 1
        self._rows_STC = rows_STC[valid_ST.any(1)].copy()

    def __len__(self) -> int:
        """Sequences in which something was said."""
        return len(self._rows_STC)

    def batch(self, chosen: npt.NDArray[np.int64]) -> Batch:
        """Some of the sequences in host memory, as the data layer read them."""
        rows_BTC = self._rows_STC[chosen].astype(np.int64)
        segments_BT, valid_BT = rows_BTC[..., PLACE] // 2, rows_BTC[..., PLACE] % 2 == 1
        return Batch(
            torch.from_numpy(rows_BTC[..., TOKEN]).contiguous(),
            torch.from_numpy(segments_BT),
            torch.from_numpy(valid_BT),
            torch.from_numpy(rows_BTC[..., TARGET]).contiguous(),
            HostCopy(segments_BT, valid_BT),
        )

    def teacher(self, chosen: npt.NDArray[np.int64], device: torch.device) -> FewLikeliest:
        """What was said at the positions of some of the sequences that predict something."""
        rows_BTC = self._rows_STC[chosen]
        rows_MC = rows_BTC[rows_BTC[..., PLACE] % 2 == 1]
        end = IDS + self._shape.num_ids
        halves_MK = np.ascontiguousarray(rows_MC[:, end:]).view(np.float16)
        entropy_M = np.ascontiguousarray(rows_MC[:, ENTROPY]).view(np.float32)
        found = (
            rows_MC[:, IDS:end].astype(np.int64),
            halves_MK.astype(np.float32).reshape(-1, self._shape.num_ids),
            entropy_M,
        )
        return FewLikeliest(*(to_device(torch.from_numpy(x), device) for x in found))
