from __future__ import annotations

import mmap
import tempfile

import psutil

from benchmarks.footprint import MIB, growth, private_mib

SIZE_MIB = 64


def test_growth_is_from_the_tenth_after_the_first_fifth_to_the_last_one() -> None:
    assert growth([0.0] * 20 + [5.0] * 10 + [9.0] * 60 + [7.0] * 10) == 2.0


def test_what_a_process_took_is_private() -> None:
    me = psutil.Process()
    before = private_mib(me)
    taken = mmap.mmap(-1, SIZE_MIB * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    taken.write(b"\1" * len(taken))
    assert private_mib(me) - before > 0.75 * SIZE_MIB
    taken.close()


def test_shared_pages_that_nobody_else_has_mapped_any_more_are_not_private() -> None:
    # As of the object store, where the rank that wrote them was killed. USS counts them.
    me = psutil.Process()
    with tempfile.TemporaryFile() as store:
        store.truncate(SIZE_MIB * MIB)
        before, uss = private_mib(me), me.memory_full_info().uss / MIB
        shared = mmap.mmap(store.fileno(), SIZE_MIB * MIB)
        for at in range(0, len(shared), mmap.PAGESIZE):
            shared[at] = 1
        assert me.memory_full_info().uss / MIB - uss > 0.75 * SIZE_MIB
        assert private_mib(me) - before < 0.25 * SIZE_MIB
        shared.close()
