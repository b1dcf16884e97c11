"""How a snapshot is cut into buckets, over many sizes and ranks."""

from __future__ import annotations

import pytest

from actors.snapshots import buckets as snapshot_layout
from actors.snapshots.buckets import (
    ALIGN_BYTES,
    bucket_bounds,
    num_buckets,
    num_shares,
    rank_buckets,
    stream_parts,
)

SIZES = [64, 128, 64 * 7, 64 * 100, 64 * 1001]
EACH_CUT = pytest.mark.parametrize(
    ("total_bytes", "num_ranks"), [(size, ranks) for size in SIZES for ranks in (1, 2, 3, 8)]
)


@pytest.fixture(autouse=True)
def _small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_layout, "BUCKET_BYTES", 1024)
    monkeypatch.setattr(snapshot_layout, "SHARE_BYTES", 128)


@EACH_CUT
def test_buckets_follow_each_other_and_cover_everything(total_bytes: int, num_ranks: int) -> None:
    at = 0
    for start, stop in bucket_bounds(total_bytes, num_ranks):
        assert start == at
        assert stop >= start
        at = stop
    assert at == total_bytes


@EACH_CUT
def test_no_bucket_is_above_the_limit(total_bytes: int, num_ranks: int) -> None:
    assert max(stop - start for start, stop in bucket_bounds(total_bytes, num_ranks)) <= 1024


@EACH_CUT
def test_buckets_begin_aligned(total_bytes: int, num_ranks: int) -> None:
    assert {start % ALIGN_BYTES for start, _ in bucket_bounds(total_bytes, num_ranks)} == {0}


@EACH_CUT
def test_the_ranks_share_the_buckets_in_order(total_bytes: int, num_ranks: int) -> None:
    shares = [rank_buckets(total_bytes, rank, num_ranks) for rank in range(num_ranks)]
    assert [b for share in shares for b in share] == bucket_bounds(total_bytes, num_ranks)


@EACH_CUT
def test_the_first_ranks_publish_the_same_number_of_buckets_and_the_others_none(
    total_bytes: int, num_ranks: int
) -> None:
    shares = [len(rank_buckets(total_bytes, rank, num_ranks)) for rank in range(num_ranks)]
    publishing = num_shares(total_bytes, num_ranks)
    each = num_buckets(total_bytes, num_ranks)
    assert shares == [each] * publishing + [0] * (num_ranks - publishing)


@EACH_CUT
def test_no_rank_of_several_publishes_less_than_the_smallest_share(
    total_bytes: int, num_ranks: int
) -> None:
    publishing = num_shares(total_bytes, num_ranks)
    sizes = [
        sum(stop - start for start, stop in rank_buckets(total_bytes, rank, num_ranks))
        for rank in range(publishing)
    ]
    assert publishing == 1 or min(sizes) > 128 - ALIGN_BYTES


def test_the_buckets_of_a_small_snapshot_do_not_grow_with_the_ranks() -> None:
    assert {len(bucket_bounds(64 * 7, ranks)) for ranks in (4, 256, 500)} == {3}


def test_what_fits_is_one_bucket_per_rank() -> None:
    assert [num_buckets(size, 2) for size in (64, 2048, 2112)] == [1, 1, 2]


def test_the_shares_of_the_ranks_are_about_equal() -> None:
    sizes = [
        sum(stop - start for start, stop in rank_buckets(64 * 1000, rank, 3)) for rank in range(3)
    ]
    assert max(sizes) - min(sizes) <= ALIGN_BYTES


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8])
def test_a_checkpoint_is_cut_finer_than_a_snapshot(
    num_ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_layout, "BUCKET_BYTES", 1 << 28)
    total = 64 << 20
    least = stream_parts(total)
    parts = [p for rank in range(num_ranks) for p in rank_buckets(total, rank, num_ranks, least)]
    assert len(parts) >= least == 8
    assert [start for start, _ in parts[1:]] == [stop for _, stop in parts[:-1]]
    assert (parts[0][0], parts[-1][1]) == (0, total)
    assert stream_parts(3 << 20) == 3
    assert stream_parts(64) == 1
