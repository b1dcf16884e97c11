"""Windows of the corpus as tensors on a device, and the positions of them that count.

Which positions have something to predict is known in host memory, so that no GPU is waited for to
pick them.

Shapes: B sequences, T tokens, N valid positions, M positions that hold a token, D and V widths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from actors.corpus.windows import PADDING, Windows
from actors.layers.data_layer import DataLayer
from actors.layers.memory_layer import MemoryLayer
from actors.machine.device import to_device
from actors.operators.packed_attention import Documents

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MOST_BYTES = 64 << 20  # of states that are kept


@dataclass(frozen=True)
class HostCopy:
    """A batch's segments and valid positions in host memory: no GPU has to be waited for."""

    segments_BT: npt.NDArray[np.int64]
    valid_BT: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Batch:
    """Windows as tensors, and the positions that have something to predict next, in the same
    document.
    """

    tokens_BT: Tensor
    segments_BT: Tensor
    valid_BT: Tensor  # bool; the last position is never valid
    targets_BT: Tensor  # next token; meaningless where not valid
    host_copy: HostCopy | None = None  # None: `host` fetches it

    @cached_property
    def host(self) -> HostCopy:
        """Segments and valid positions in host memory."""
        if self.host_copy is not None:
            return self.host_copy
        return HostCopy(self.segments_BT.cpu().numpy(), self.valid_BT.cpu().numpy())

    @property
    def num_tokens(self) -> int:
        """Positions that hold a token."""
        return int((self.host.segments_BT != PADDING).sum())

    @property
    def num_valid(self) -> int:
        """Positions that have something to predict."""
        return self.num_valid_in(slice(None))

    def num_valid_in(self, rows: slice) -> int:
        """Those in these sequences."""
        return int(self.host.valid_BT[rows].sum())

    @cached_property
    def documents(self) -> Documents:
        """Where the windows' documents are."""
        return Documents(self.host.segments_BT)

    @property
    def one_document(self) -> bool:
        """Whether every window is one document, without padding."""
        return self.documents.one

    @cached_property
    def valid_at_N(self) -> Tensor:
        """Places of the valid positions in the flattened batch, ascending."""
        return self.places(self.host.valid_BT)

    @property
    def given_BT(self) -> npt.NDArray[np.bool_]:
        """Where the next token of the document is given, not to be predicted; in host memory."""
        segments_BT, valid_BT = self.host.segments_BT, self.host.valid_BT
        given_BT = np.zeros_like(valid_BT)
        given_BT[:, :-1] = next_in_document(segments_BT) & ~valid_BT[:, :-1]
        return given_BT

    @cached_property
    def text_at_M(self) -> Tensor:
        """Places of the positions that hold a token in the flattened batch, ascending."""
        return self.places(self.host.segments_BT != PADDING)

    def places(self, where: npt.NDArray[np.bool_]) -> Tensor:
        """Where a mask in host memory is true, as places in the flattened mask, on the batch's
        device.
        """
        return to_device(torch.from_numpy(np.flatnonzero(where)), self.tokens_BT.device)

    def to(self, device: torch.device) -> Batch:
        """The batch on that device."""
        return Batch(
            to_device(self.tokens_BT, device),
            to_device(self.segments_BT, device),
            to_device(self.valid_BT, device),
            to_device(self.targets_BT, device),
            self.host,
        )

    def rows(self, rows: slice | Tensor) -> Batch:
        """The batch of these sequences alone."""
        if isinstance(rows, slice) and rows.indices(num := len(self.tokens_BT)) == (0, num, 1):
            return self
        at = rows if isinstance(rows, slice) else rows.cpu().numpy()
        return Batch(
            self.tokens_BT[rows],
            self.segments_BT[rows],
            self.valid_BT[rows],
            self.targets_BT[rows],
            HostCopy(self.host.segments_BT[at], self.host.valid_BT[at]),
        )

    @cached_property
    def targets_N(self) -> Tensor:
        """Targets of the valid positions."""
        return rows_at(self.targets_BT, self.valid_at_N)


def rows_at(x_BTD: Tensor, where: Tensor) -> Tensor:
    """What a tensor (B, T, ...) holds at some positions, (N, ...), in order.

    Args:
        x_BTD: any number of further dims.
        where: a mask (B, T), for which a GPU is waited for, or places in the flattened batch (N,).
    """
    if where.dtype == torch.bool:
        return x_BTD[where]
    return x_BTD.flatten(0, 1).index_select(0, where)


def rows_to(x_MD: Tensor, where_M: Tensor, shape_BT: torch.Size) -> Tensor:
    """A tensor (B, T, D) with these rows at their places in the flattened batch, 0 elsewhere."""
    nothing = x_MD.new_zeros(shape_BT.numel(), x_MD.shape[-1])
    return nothing.index_copy(0, where_M, x_MD).view(*shape_BT, x_MD.shape[-1])


def joined(batches: Sequence[Batch]) -> Batch:
    """Batches of one width as one, in order."""
    hosts = [batch.host for batch in batches]
    return Batch(
        torch.cat([batch.tokens_BT for batch in batches]),
        torch.cat([batch.segments_BT for batch in batches]),
        torch.cat([batch.valid_BT for batch in batches]),
        torch.cat([batch.targets_BT for batch in batches]),
        HostCopy(
            np.concatenate([host.segments_BT for host in hosts]),
            np.concatenate([host.valid_BT for host in hosts]),
        ),
    )


def next_in_document(segments_BT: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether the next token is of the same document, (B, T - 1)."""
    later_BT = segments_BT[:, 1:]
    return np.asarray((later_BT == segments_BT[:, :-1]) & (later_BT != PADDING))


def to_batch(windows: Windows, device: torch.device) -> Batch:
    """Windows on `device`, with targets."""
    tokens = torch.from_numpy(windows.tokens_NT.astype(np.int64))
    segments = windows.segments_NT.astype(np.int64)
    valid = np.zeros(segments.shape, np.bool_)
    valid[:, :-1] = next_in_document(segments) & windows.learn_NT[:, 1:]
    return Batch(
        tokens,
        torch.from_numpy(segments),
        torch.from_numpy(valid),
        tokens.roll(-1, dims=1),
        HostCopy(segments, valid),
    ).to(device)


def add_noise(
    batch: Batch,
    noise_frac: float,
    num_tokens: int,
    marks: Sequence[int],
    choices: torch.Generator,
) -> Batch:
    """The batch with a share of its input tokens replaced by random ones; targets and document
    marks stay.
    """
    if noise_frac == 0:
        return batch
    shape = batch.tokens_BT.shape
    is_mark = torch.isin(batch.tokens_BT, torch.tensor(marks, dtype=torch.long))
    noised = (torch.rand(shape, generator=choices) < noise_frac) & ~is_mark
    random = torch.randint(num_tokens, shape, generator=choices)
    tokens = torch.where(noised, random, batch.tokens_BT)
    return replace(batch, tokens_BT=tokens)


def read_at_valid(memory: MemoryLayer, batch: Batch) -> Tensor:
    """What the memory reads at the valid positions, (N, D)."""
    u_BTD, _ = memory.encode(batch.tokens_BT, batch.segments_BT, one_document=batch.one_document)
    return memory.read_at(rows_at(u_BTD, batch.valid_at_N)).y


def hidden_at(
    data: DataLayer, batch: Batch, y_BTD: Tensor | None = None, front_BTH: Tensor | None = None
) -> Tensor:
    """The data layer's hidden states (N, H) at the valid positions, which read `y_BTD`;
    `front_BTH`: as of `DataLayer.hidden`.
    """
    hidden_BTH = data.hidden(batch.tokens_BT, batch.segments_BT, y_BTD, batch.documents, front_BTH)
    return rows_at(hidden_BTH, batch.valid_at_N)


def hidden_and_front_at(
    data: DataLayer, batch: Batch, y_BTD: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """`hidden_at`, and what another pass over the batch can go on from, as
    `DataLayer.hidden_and_front` gives it.
    """
    hidden_BTH, front_BTH = data.hidden_and_front(
        batch.tokens_BT, batch.segments_BT, y_BTD, batch.documents
    )
    return rows_at(hidden_BTH, batch.valid_at_N), front_BTH


@dataclass(frozen=True)
class Alone:
    """A pass of the data layer with reads off.

    Attributes:
        hidden_NH: last hidden states at the valid positions.
        front_BTH: as `DataLayer.hidden_and_front` gives it.
    """

    hidden_NH: Tensor
    front_BTH: Tensor | None

    @property
    def num_bytes(self) -> int:
        """Of both."""
        return self.hidden_NH.nbytes + (0 if self.front_BTH is None else self.front_BTH.nbytes)


class StatesAlone:
    """States, reads off, of a data layer whose model keeps its bits: of each sequence they are
    computed once, and by itself, so that they are the same bits whether kept or not.

    Args:
        most_bytes: of the states that are kept; beyond it they are computed anew.
        without: turns off a part of the model while they are computed. A pass that has that part
            can't go on from their fronts, so there are none. None: the model is as it is.
    """

    def __init__(
        self,
        most_bytes: int = MOST_BYTES,
        without: Callable[[PreTrainedModel], AbstractContextManager[None]] | None = None,
    ) -> None:
        self._left, self._without = most_bytes, without
        self._kept: dict[bytes, Alone] = {}

    @torch.no_grad()
    def __call__(self, data: DataLayer, batch: Batch) -> Alone:
        """Those of a batch in host memory."""
        found, device = [], data.port.mix.weight.device
        for row in range(len(batch.tokens_BT)):
            one = batch.rows(slice(row, row + 1))
            key = one.tokens_BT.numpy().tobytes() + one.host.segments_BT.tobytes()
            if (alone := self._kept.get(key)) is None:
                if self._without is None:
                    alone = Alone(*hidden_and_front_at(data, one.to(device)))
                else:
                    with self._without(data.model):
                        alone = Alone(hidden_at(data, one.to(device)), None)
                if (size := alone.num_bytes) <= self._left:
                    self._left -= size
                    self._kept[key] = alone
            found.append(alone)
        fronts = [alone.front_BTH for alone in found if alone.front_BTH is not None]
        front_BTH = torch.cat(fronts) if len(fronts) == len(found) else None
        return Alone(torch.cat([alone.hidden_NH for alone in found]), front_BTH)


def memory_logits_at(memory: MemoryLayer, batch: Batch) -> Tensor:
    """The memory's own logits (N, V) at the valid positions, reading nowhere else."""
    return memory.predict(read_at_valid(memory, batch))


def data_logits_at(data: DataLayer, batch: Batch) -> Tensor:
    """The data layer's own logits (N, V) at the valid positions, reads off."""
    out = data(batch.tokens_BT, batch.segments_BT, documents=batch.documents)
    return rows_at(out.logits_BTV, batch.valid_at_N)
