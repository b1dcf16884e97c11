"""Bulk copies and checksums: every byte, whatever the number of chunks and threads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xxhash

from actors.machine import host_memory

CHUNK = 64


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory, "CHUNK_BYTES", CHUNK)


def data(num_bytes: int, seed: int = 0) -> host_memory.ByteArray:
    return np.random.default_rng(seed).integers(0, 256, num_bytes, dtype=np.uint8)


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 10 * CHUNK + 7])
def test_every_byte_is_copied(size: int) -> None:
    target, source = data(size, 1), data(size, 2)
    source.setflags(write=False)
    host_memory.copy(target, source)
    assert target.tolist() == source.tolist()


@pytest.mark.parametrize("threads", [1, 3])
def test_the_checksum_is_the_xxh3_of_the_chunks_xxh3_at_any_number_of_threads(
    threads: int,
) -> None:
    bucket = data(5 * CHUNK + 3)
    parts = [bucket[i : i + CHUNK].tobytes() for i in range(0, bucket.size, CHUNK)]
    want = xxhash.xxh3_64_intdigest(b"".join(xxhash.xxh3_64_digest(part) for part in parts))
    assert host_memory.checksum(bucket, threads) == want


def test_the_checksum_changes_when_two_chunks_change_places() -> None:
    bucket = data(4 * CHUNK)
    swapped = np.concatenate([bucket[CHUNK : 2 * CHUNK], bucket[:CHUNK], bucket[2 * CHUNK :]])
    assert host_memory.checksum(bucket) != host_memory.checksum(swapped)


def test_several_threads_share_the_chunks() -> None:
    import threading

    barrier = threading.Barrier(3, timeout=10)  # passes only when three chunks run at once
    names = host_memory._in_chunks(
        lambda _chunk: barrier.wait() is not None and threading.current_thread().name, 3 * CHUNK, 3
    )
    assert len(set(names)) == 3


@pytest.mark.parametrize("size", [0, 64, host_memory.HUGE_PAGE_BYTES + 192])
def test_a_buffer_is_zeroed_writable_and_of_its_size(size: int) -> None:
    buffer = torch.from_numpy(host_memory.zeros(size))
    assert (buffer.dtype, buffer.numel(), int(buffer.sum())) == (torch.uint8, size, 0)
    buffer.fill_(1)
    assert int(buffer.sum()) == size


def test_a_large_buffer_outlives_the_name_it_was_made_under() -> None:
    views = [
        torch.from_numpy(host_memory.zeros(host_memory.HUGE_PAGE_BYTES))[:64] for _ in range(3)
    ]
    for number, view in enumerate(views):
        view.fill_(number)
    assert [int(view[0]) for view in views] == [0, 1, 2]


@pytest.mark.parametrize("at", [0, 100, -1])
def test_the_checksum_changes_with_any_byte(at: int) -> None:
    bucket = data(200)
    before = host_memory.checksum(bucket)
    bucket[at] ^= 1
    assert host_memory.checksum(bucket) != before
