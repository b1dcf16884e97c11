"""How a snapshot of a given size is divided into buckets, in trainers and driver alike."""

from __future__ import annotations

from itertools import pairwise

BUCKET_BYTES = 256 << 20
SHARE_BYTES = 4 << 20  # below, a share saves its rank less than one more bucket costs the others
ALIGN_BYTES = 64
# Parts of a checkpoint, over all ranks, if each then has at least 1 MiB: what comes and is written
# part by part need not lie in the object store as a whole.
STREAM_PARTS, PART_BYTES = 8, 1 << 20


def num_shares(total_bytes: int, num_ranks: int) -> int:
    """How many ranks publish, beginning with rank 0: all, if each then has at least 4 MiB.

    Every adopting rank receives every bucket, so with a bucket per rank the driver's work would
    grow with the square of their number.
    """
    return max(1, min(num_ranks, total_bytes // SHARE_BYTES))


def stream_parts(total_bytes: int) -> int:
    """Buckets of a checkpoint at least: `least` of the functions below."""
    return max(1, min(STREAM_PARTS, total_bytes // PART_BYTES))


def num_buckets(total_bytes: int, num_ranks: int, least: int = 1) -> int:
    """Buckets of each publishing rank: at least one, none above 256 MiB.

    Args:
        total_bytes, num_ranks: of the snapshot.
        least: buckets of all ranks together at least.
    """
    shares = num_shares(total_bytes, num_ranks)
    return max(1, -(-total_bytes // (BUCKET_BYTES * shares)), -(-least // shares))


def bucket_bounds(total_bytes: int, num_ranks: int, least: int = 1) -> list[tuple[int, int]]:
    """Byte ranges of all buckets in order; the r-th share of the list is rank r's."""
    num = num_buckets(total_bytes, num_ranks, least) * num_shares(total_bytes, num_ranks)
    cuts = [total_bytes * i // num // ALIGN_BYTES * ALIGN_BYTES for i in range(num)] + [total_bytes]
    return list(pairwise(cuts))


def rank_buckets(
    total_bytes: int, rank: int, num_ranks: int, least: int = 1
) -> list[tuple[int, int]]:
    """Byte ranges of the buckets that one rank publishes; empty for ranks that publish none."""
    each = num_buckets(total_bytes, num_ranks, least)
    return bucket_bounds(total_bytes, num_ranks, least)[rank * each : (rank + 1) * each]
