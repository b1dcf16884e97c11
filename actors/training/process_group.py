"""The ranks of one group among themselves: sums and gathers in rank order, bit-equal everywhere.

Built from torch's process groups as objects, never through its global one, so that a process may
hold several and a test may run ranks as threads. Gradients go over one flat buffer: DDP regroups
its buckets after the first step, so from three ranks on a replay would not be bit-identical. Called
by the trainers; `orchestrator.processes.ray_actors` makes the rendezvous.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from actors.wire import ConfigError

GLOO, NCCL = "gloo", "nccl"
RENDEZVOUS_S = 120.0


class Rendezvous:
    """Where the ranks of one group find each other: a store in rank 0's process, on a free port."""

    def __init__(self, host: str) -> None:
        self.store = TCPStore(
            host, 0, is_master=True, wait_for_workers=False, timeout=_span(RENDEZVOUS_S)
        )
        self.host, self.port = host, int(self.store.port)

    @staticmethod
    def connect(host: str, port: int) -> TCPStore:
        """Another rank's way into the store that rank 0 opened."""
        return TCPStore(
            host, port, is_master=False, wait_for_workers=False, timeout=_span(RENDEZVOUS_S)
        )


class ProcessGroup:
    """One rank's end of its group. A group of one needs no network and changes nothing.

    Args:
        rank, num_ranks: who this is among how many.
        store: what `Rendezvous` opened; None only for a group of one.
        host: this rank's address, which decides the network interface.
        backend: `nccl` sums device tensors on the cards; all else goes over gloo.
        timeout_s: longest wait for a partner. A partner that was killed raises at once, one that
            was stopped only after this.
        purpose: groups of the same ranks for different purposes don't get in each other's way.
    """

    def __init__(
        self,
        rank: int = 0,
        num_ranks: int = 1,
        store: Store | None = None,
        host: str = "127.0.0.1",
        backend: str = GLOO,
        timeout_s: float = 600.0,
        purpose: str = "ranks",
    ) -> None:
        self.rank, self.num_ranks = rank, num_ranks
        self._arguments = (store, host, timeout_s)
        self._gloo: Any = None
        self._nccl: Any = None
        if num_ranks == 1:
            return
        assert store is not None, f"rank {rank} of {num_ranks} has no store to meet the others in"
        gloo: Any = dist.ProcessGroupGloo
        options = gloo._Options()
        options._timeout = _span(timeout_s)
        options._devices = [gloo.create_device(hostname=host)]
        self._gloo = dist.ProcessGroupGloo(
            PrefixStore(f"{purpose}/{GLOO}", store), rank, num_ranks, options
        )
        if backend == NCCL:
            nccl_options = dist.ProcessGroupNCCL.Options()
            nccl_options._timeout = _span(timeout_s)
            self._nccl = dist.ProcessGroupNCCL(
                PrefixStore(f"{purpose}/{NCCL}", store), rank, num_ranks, nccl_options
            )

    def sibling(self, purpose: str) -> ProcessGroup:
        """Another group of the same ranks over gloo, for another thread; all ranks must make it."""
        store, host, timeout_s = self._arguments
        return ProcessGroup(
            self.rank, self.num_ranks, store, host, timeout_s=timeout_s, purpose=purpose
        )

    def add(self, tensor: Tensor) -> Tensor:
        """The sum of every rank's `tensor`, in place; of one shape and dtype on all ranks."""
        if self._nccl is not None and tensor.is_cuda:
            self._nccl.allreduce([tensor]).wait()
        elif self._gloo is not None:
            host = tensor.cpu()
            self._gloo.allreduce([host]).wait()
            if host is not tensor:
                tensor.copy_(host)
        return tensor

    def gather(self, payload: bytes) -> list[bytes]:
        """Every rank's bytes, in rank order."""
        if self._gloo is None:
            return [payload]
        mine = torch.frombuffer(bytearray(payload or b"\0"), dtype=torch.uint8)[: len(payload)]
        return [rows.numpy().tobytes() for rows in self.gather_rows(mine)]

    def gather_rows(self, rows: Tensor) -> list[Tensor]:
        """Every rank's rows, in rank order; their numbers may differ, their width and dtype not."""
        if self._gloo is None:
            return [rows]
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.num_ranks)]
        self._gloo.allgather([sizes], [torch.tensor([len(rows)])]).wait()
        longest = max(1, *(int(size) for size in sizes))
        padded = torch.zeros(longest, *rows.shape[1:], dtype=rows.dtype)
        padded[: len(rows)] = rows.cpu()
        gathered = [torch.empty_like(padded) for _ in range(self.num_ranks)]
        self._gloo.allgather([gathered], [padded]).wait()
        return [
            part[: int(size)].to(rows.device) for part, size in zip(gathered, sizes, strict=True)
        ]


def refuse_other_weights(ranks: ProcessGroup, group: str, digest: str) -> None:
    """Raises: ConfigError where a rank of `group` has weights of another digest than rank 0."""
    digests = ranks.gather(digest.encode())
    odd = next((rank for rank, other in enumerate(digests) if other != digests[0]), None)
    if odd is not None:
        raise ConfigError(
            f"{group} rank {odd} starts with other weights than rank 0; give all nodes the same "
            "torch, transformers and model files"
        )


def _span(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)
