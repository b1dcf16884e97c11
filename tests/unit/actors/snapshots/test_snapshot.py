"""Publishing and adopting: every byte arrives, and nothing does where anything is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from actors.snapshots import buckets as snapshot_layout
from actors.snapshots.flat_parameters import ByteArray, FlatParameters
from actors.snapshots.sections import section_of
from actors.snapshots.snapshot import adopt, publish
from actors.wire import Header, Range, SnapshotError
from tests.unit.actors.tiny import copied

Snapshot = tuple[list[Header], list[ByteArray]]
FIELDS = {
    "run": "r",
    "group": "data",
    "incarnation": 2,
    "version": 4,
    "step": 80,
    "peer_version": 3,
    "ranges": (Range(0, 1, 2),),
}


@pytest.fixture(autouse=True)
def _small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_layout, "BUCKET_BYTES", 128)
    monkeypatch.setattr(snapshot_layout, "SHARE_BYTES", 64)


def layer(seed: int, width: int = 9) -> FlatParameters:
    torch.manual_seed(seed)
    return FlatParameters(nn.Sequential(nn.Linear(7, width), nn.Linear(width, 5)), section_of)


def snapshot(flat: FlatParameters, num_ranks: int = 2, **fields: object) -> Snapshot:
    """What all ranks publish, as the receiver gets it."""
    parts = [
        copied(publish(flat, rank, num_ranks, **{**FIELDS, **fields})) for rank in range(num_ranks)
    ]
    return [header for header, _ in parts], [b for _, buckets in parts for b in buckets]


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_what_is_published_is_what_is_adopted(num_ranks: int) -> None:
    sender, receiver = layer(0), layer(1)
    adopt(receiver, *snapshot(sender, num_ranks))
    assert receiver.digest() == sender.digest()


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_a_snapshot_has_several_buckets_here(num_ranks: int) -> None:
    headers, buckets = snapshot(layer(0), num_ranks)
    assert len(buckets) == sum(len(h.sizes) for h in headers) > num_ranks


def test_the_header_says_where_the_buckets_lie() -> None:
    flat = layer(0)
    headers, buckets = snapshot(flat)
    raw = flat.to_bytes()
    where = [(o, s) for h in headers for o, s in zip(h.offsets, h.sizes, strict=True)]
    assert [raw[o : o + s].tolist() for o, s in where] == [b.tolist() for b in buckets]


def test_the_header_carries_what_it_was_given() -> None:
    header = snapshot(layer(0))[0][1]
    assert {name: getattr(header, name) for name in FIELDS} == FIELDS
    assert (header.rank, header.num_ranks) == (1, 2)


def test_adopting_does_not_keep_the_buckets() -> None:
    sender, receiver = layer(0), layer(1)
    headers, buckets = snapshot(sender)
    adopt(receiver, headers, buckets)
    for bucket in buckets:
        bucket.setflags(write=True)
        bucket[:] = 0
    assert receiver.digest() == sender.digest()


def altered_byte(headers: list[Header], buckets: list[ByteArray]) -> Snapshot:
    buckets[-1] = buckets[-1].copy()
    buckets[-1][0] ^= 1
    return headers, buckets


def missing_bucket(headers: list[Header], buckets: list[ByteArray]) -> Snapshot:
    return headers, buckets[:-1]


def missing_rank(headers: list[Header], buckets: list[ByteArray]) -> Snapshot:
    return headers[:1], buckets[: len(headers[0].sizes)]


def short_bucket(headers: list[Header], buckets: list[ByteArray]) -> Snapshot:
    return headers, [*buckets[:-1], buckets[-1][:-1]]


def swapped_buckets(headers: list[Header], buckets: list[ByteArray]) -> Snapshot:
    return headers, [buckets[1], buckets[0], *buckets[2:]]


def swapped_ranks(headers: list[Header], buckets: list[ByteArray]) -> Snapshot:
    return headers[::-1], buckets


def mixed_versions(headers: list[Header], buckets: list[ByteArray]) -> Snapshot:
    return [headers[0], replace(headers[1], version=5)], buckets


def mixed_groups(headers: list[Header], buckets: list[ByteArray]) -> Snapshot:
    return [headers[0], replace(headers[1], group="memory")], buckets


def mixed_runs(headers: list[Header], buckets: list[ByteArray]) -> Snapshot:
    return [headers[0], replace(headers[1], run="other")], buckets


def wrong_layout(_headers: list[Header], _buckets: list[ByteArray]) -> Snapshot:
    return snapshot(layer(0, width=8))


FAULTS = [
    (altered_byte, "altered"),
    (missing_bucket, "expected"),
    (missing_rank, "expected"),
    (short_bucket, "bytes, expected"),
    (swapped_buckets, "altered|expected"),
    (swapped_ranks, "expected"),
    (mixed_versions, "different snapshots"),
    (mixed_groups, "different snapshots"),
    (mixed_runs, "different snapshots"),
    (wrong_layout, "layout"),
]


@pytest.mark.parametrize(("fault", "message"), FAULTS)
def test_a_snapshot_with_a_fault_is_refused(
    fault: Callable[[list[Header], list[ByteArray]], Snapshot], message: str
) -> None:
    with pytest.raises(SnapshotError, match=message):
        adopt(layer(1), *fault(*snapshot(layer(0))))


@pytest.mark.parametrize("fault", [fault for fault, _ in FAULTS])
def test_of_a_snapshot_with_a_fault_nothing_is_copied(
    fault: Callable[[list[Header], list[ByteArray]], Snapshot],
) -> None:
    receiver = layer(1)
    before = receiver.to_bytes().copy()
    with pytest.raises(SnapshotError):
        adopt(receiver, *fault(*snapshot(layer(0))))
    assert np.array_equal(receiver.to_bytes(), before)


def test_an_altered_bucket_is_named_with_its_snapshot() -> None:
    with pytest.raises(SnapshotError, match=r"snapshot data v4: bucket \d+ checksum"):
        adopt(layer(1), *altered_byte(*snapshot(layer(0))))


def test_a_snapshot_beside_another_base_is_refused_and_both_are_named() -> None:
    sender, receiver = layer(0), layer(1)
    sender.base, receiver.base = "b" * 16, "c" * 16
    before = receiver.digest()
    with pytest.raises(SnapshotError, match=f"digest {'b' * 16}.* digest {'c' * 16}"):
        adopt(receiver, *snapshot(sender))
    assert receiver.digest() == before


def test_the_digest_depends_on_the_base() -> None:
    one, other = layer(0), layer(0)
    other.base = "b" * 16
    assert one.digest() != other.digest()
