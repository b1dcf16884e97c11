"""A group's whole state in equal shares, one per rank, for recovery and resume.

The state is a list of named tensors of fixed sizes, treated as one sequence of bytes. Each rank
returns its share with checksums; any number of ranks can be restored from all shares. Small values
(positions in the corpus, counts) travel as JSON. Knows no Ray and no files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actors.snapshots.buckets import rank_buckets, stream_parts
from actors.snapshots.flat_parameters import ByteArray
from actors.snapshots.snapshot import checksum, other_base
from actors.wire import CheckpointError, CheckpointHeader


def state_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of all tensors."""
    return sum(t.numel() * t.element_size() for t in tensors.values())


def save_share(
    tensors: Mapping[str, Tensor],
    scalars: Mapping[str, Any],
    rank: int,
    num_ranks: int,
    **fields: Any,
) -> tuple[CheckpointHeader, list[ByteArray]]:
    """This rank's header and a copy of its share of the bytes.

    Args:
        tensors, scalars: the state.
        rank, num_ranks: whose share.
        fields: the header's remaining ones (run, group, interval, step, peer_version, base).
    """
    flats = [_flat(t) for t in tensors.values()]
    total = sum(len(f) for f in flats)
    bounds = rank_buckets(total, rank, num_ranks, stream_parts(total))
    buckets = [_cut(flats, start, stop) for start, stop in bounds]
    header = CheckpointHeader(
        rank=rank,
        num_ranks=num_ranks,
        layout=_layout(tensors),
        scalars=json.dumps(scalars),
        offsets=tuple(start for start, _ in bounds),
        sizes=tuple(stop - start for start, stop in bounds),
        checksums=tuple(checksum(b) for b in buckets),
        **fields,
    )
    return header, buckets


def restore_state(
    tensors: Mapping[str, Tensor],
    headers: Sequence[CheckpointHeader],
    buckets: Sequence[ByteArray],
    base: str = "",
) -> dict[str, Any]:
    """Copies a whole checkpoint into `tensors`, all or nothing, and returns its scalars.

    Args:
        tensors: the state.
        headers, buckets: the checkpoint's.
        base: identity of the frozen weights here; empty: none.

    Raises:
        CheckpointError: the shares are not whole, or of another layout; names group, interval and
            part, what was expected and what was got.
    """
    first = headers[0]
    name = f"checkpoint of {first.group} interval {first.interval}"
    if first.base != base:
        raise CheckpointError(f"{name}: {other_base(first.base, base)}")
    if first.layout != (own := _layout(tensors)):
        differing = set(first.layout) ^ set(own)
        raise CheckpointError(
            f"{name}: its tensors are not this run's; differing: {sorted(differing)[:4]}; resume "
            "with the config that made it"
        )
    bounds = [(o, o + s) for h in headers for o, s in zip(h.offsets, h.sizes, strict=True)]
    starts, stops = [0, *(stop for _, stop in bounds)], [*(o for o, _ in bounds), first.total_bytes]
    if starts != stops or len(buckets) != len(bounds):
        raise CheckpointError(
            f"{name}: parts {bounds} ({len(buckets)} arrays), expected all of "
            f"{first.total_bytes:,} bytes in order"
        )
    sums = [c for h in headers for c in h.checksums]
    for index, (bucket, want) in enumerate(zip(buckets, sums, strict=True)):
        if (have := checksum(bucket)) != want:
            raise CheckpointError(f"{name}: part {index} checksum {have:016x} != {want:016x}")
    flats = [_flat(t) for t in tensors.values()]
    for (start, _), bucket in zip(bounds, buckets, strict=True):
        _paste(flats, start, bucket)
    scalars: dict[str, Any] = json.loads(first.scalars)
    return scalars


def _layout(tensors: Mapping[str, Tensor]) -> tuple[tuple[str, str, int], ...]:
    return tuple((name, str(t.dtype), t.numel() * t.element_size()) for name, t in tensors.items())


def _flat(tensor: Tensor) -> Tensor:
    return tensor.detach().view(-1).view(torch.uint8)


def _cut(flats: Sequence[Tensor], start: int, stop: int) -> ByteArray:
    """Bytes [start, stop) of the concatenated tensors, as a new array."""
    out = np.empty(stop - start, np.uint8)
    for part, at in _overlaps(flats, start, stop):
        np.copyto(out[at : at + len(part)], part.cpu().numpy())
    return out


def _paste(flats: Sequence[Tensor], start: int, bucket: ByteArray) -> None:
    """Copies a bucket from `_cut` back into the tensors."""
    for part, at in _overlaps(flats, start, start + bucket.size):
        part.copy_(torch.from_numpy(bucket[at : at + len(part)].copy()))


def _overlaps(flats: Sequence[Tensor], start: int, stop: int) -> list[tuple[Tensor, int]]:
    """The part of each tensor within bytes [start, stop), and its offset there."""
    found, offset = [], 0
    for flat in flats:
        begin, end = max(start, offset), min(stop, offset + len(flat))
        if begin < end:
            found.append((flat[begin - offset : end - offset], begin - start))
        offset += len(flat)
    return found
