"""Publishing and adopting: a flat buffer as a few uint8 buckets with a header, and back.

`publish` returns views of the live buffer where it can; the caller passes them to what copies them
(Ray's object store) before the next step. `adopt` checks everything before it copies a byte, so a
layer is never half adopted. Knows no Ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from actors.machine import host_memory
from actors.machine.host_memory import ByteArray
from actors.snapshots.buckets import bucket_bounds, rank_buckets
from actors.snapshots.flat_parameters import FlatParameters
from actors.wire import Header, SnapshotError

STORED, BFLOAT16 = "stored", "bfloat16"


def checksum(bucket: ByteArray) -> int:
    """64-bit checksum of a bucket, with as many threads as torch uses."""
    return host_memory.checksum(bucket, torch.get_num_threads())


def wire_bytes(flat: FlatParameters, dtype: str) -> int:
    """Bytes of a snapshot in `dtype`, `stored` or `bfloat16`."""
    return flat.total_bytes if dtype == STORED else flat.total_bytes // 2


def publish(
    flat: FlatParameters, rank: int, num_ranks: int, dtype: str = STORED, **fields: Any
) -> tuple[Header, list[ByteArray]]:
    """This rank's header and buckets.

    Args:
        flat: the layer.
        rank, num_ranks: whose share.
        dtype: `stored`, or `bfloat16`, which halves the bytes of a float32 layer and rounds it.
        fields: the header's remaining ones (run, group, version, ...).
    """
    total_bytes = wire_bytes(flat, dtype)
    bounds = rank_buckets(total_bytes, rank, num_ranks)
    if dtype == STORED:
        raw = flat.to_bytes()
        buckets = [raw[start:stop] for start, stop in bounds]
    else:
        buckets = [flat.rounded(start, stop) for start, stop in bounds]
    header = Header(
        rank=rank,
        num_ranks=num_ranks,
        layout_hash=flat.layout_hash,
        base=flat.base,
        dtype=dtype,
        total_bytes=total_bytes,
        offsets=tuple(start for start, _ in bounds),
        sizes=tuple(stop - start for start, stop in bounds),
        checksums=tuple(checksum(b) for b in buckets),
        **fields,
    )
    return header, buckets


def verify_said(headers: Sequence[Header], buckets: Sequence[ByteArray], num_bytes: int) -> None:
    """Checks that a version's bucket with what the data layer said is there and unaltered.

    Args:
        headers, buckets: of the version; no bucket but that one.
        num_bytes: that it has.

    Raises:
        SnapshotError: naming the version, what was expected and what was got.
    """
    name = f"what {headers[0].group} v{headers[0].version} said"
    sizes = [bucket.size for bucket in buckets]
    if sizes != [num_bytes]:
        raise SnapshotError(
            f"{name}: got buckets of {sizes} bytes, expected one of {num_bytes:,}; both groups "
            "must be built from the same config"
        )
    have, want = (checksum(buckets[0]),), headers[0].said_checksums
    if have != want:
        got, expected = (", ".join(f"{c:016x}" for c in sums) or "none" for sums in (have, want))
        raise SnapshotError(f"{name}: checksum {got} != {expected}; its bytes were altered")


def other_base(made_with: str, here: str) -> str:
    """What is wrong where weights belong to another frozen model than this process has."""
    return (
        f"it belongs to a model with digest {made_with or 'none'}, of which nothing was trained or "
        f"stored; the weights of data.layer.pretrained here have digest {here or 'none'}; give the "
        "files that the run began with, on every node"
    )


def verify(flat: FlatParameters, headers: Sequence[Header], buckets: Sequence[ByteArray]) -> None:
    """Checks that headers and buckets are one whole, unaltered snapshot for this layout.

    Raises:
        SnapshotError: naming group, version, rank and bucket, what was expected and what was got.
    """
    first = headers[0]
    name = f"snapshot {first.group} v{first.version}"
    if len({(h.group, h.version, h.run) for h in headers}) > 1:
        raise SnapshotError(
            f"{name}: headers of different snapshots: "
            f"{[(h.run, h.group, h.version) for h in headers]}"
        )
    if first.base != flat.base:
        raise SnapshotError(f"{name}: {other_base(first.base, flat.base)}")
    expected_bytes = wire_bytes(flat, first.dtype)
    if first.layout_hash != flat.layout_hash or first.total_bytes != expected_bytes:
        raise SnapshotError(
            f"{name}: layout {first.layout_hash} of {first.total_bytes:,} bytes, expected "
            f"{flat.layout_hash} of "
            f"{expected_bytes:,}; both groups must be built from the same config"
        )
    expected = bucket_bounds(expected_bytes, first.num_ranks)
    got = [(o, o + s) for h in headers for o, s in zip(h.offsets, h.sizes, strict=True)]
    if got != expected or len(buckets) != len(expected):
        raise SnapshotError(f"{name}: buckets {got} ({len(buckets)} arrays), expected {expected}")
    sums = [c for h in headers for c in h.checksums]
    for index, (bucket, want) in enumerate(zip(buckets, sums, strict=True)):
        if bucket.size != expected[index][1] - expected[index][0]:
            raise SnapshotError(
                f"{name}: bucket {index} has {bucket.size} bytes, expected {expected[index]}"
            )
        if (have := checksum(bucket)) != want:
            raise SnapshotError(
                f"{name}: bucket {index} checksum {have:016x} != {want:016x}; its bytes were "
                "altered"
            )


def adopt(flat: FlatParameters, headers: Sequence[Header], buckets: Sequence[ByteArray]) -> None:
    """Verifies a snapshot and copies it into `flat`'s parameters, all or nothing.

    Raises:
        SnapshotError: as `verify`.
    """
    verify(flat, headers, buckets)
    copy_into(flat, headers, buckets)


def copy_into(
    flat: FlatParameters, headers: Sequence[Header], buckets: Sequence[ByteArray]
) -> None:
    """Copies a snapshot that has passed `verify` into `flat`'s parameters."""
    copy = flat.copy_from if headers[0].dtype == STORED else flat.copy_rounded
    bounds = bucket_bounds(headers[0].total_bytes, headers[0].num_ranks)
    for (start, _), bucket in zip(bounds, buckets, strict=True):
        copy(start, bucket)
