"""How a snapshot of so many bytes is cut into buckets.

Known to trainers and driver alike. No torch.
"""

from __future__ import annotations

from itertools import pairwise

BUCKET_BYTES = 256 << 20
ALIGN_BYTES = 64


def num_buckets(total_bytes: int, num_ranks: int) -> int:
    """Buckets that each rank publishes: at least one, none above 256 MiB."""
    return max(1, -(-total_bytes // (BUCKET_BYTES * num_ranks)))


def bucket_bounds(total_bytes: int, num_ranks: int) -> list[tuple[int, int]]:
    """Byte ranges of all buckets in order; rank r publishes the r-th equal share of the list."""
    num = num_buckets(total_bytes, num_ranks) * num_ranks
    cuts = [total_bytes * i // num // ALIGN_BYTES * ALIGN_BYTES for i in range(num)] + [total_bytes]
    return list(pairwise(cuts))


def rank_buckets(total_bytes: int, rank: int, num_ranks: int) -> list[tuple[int, int]]:
    """Byte ranges of the buckets that one rank publishes."""
    each = num_buckets(total_bytes, num_ranks)
    return bucket_bounds(total_bytes, num_ranks)[rank * each : (rank + 1) * each]
