"""The store of a run in one process: copies that stay as they were given."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.in_process.host_store import HostStore


@pytest.mark.parametrize("kind", ["put", "put_on_disk"])
@pytest.mark.parametrize("size", [0, 1, 5000])
def test_what_is_kept_stays_as_it_was_given(kind: str, size: int) -> None:
    store = HostStore()
    live = np.arange(size).astype(np.uint8)
    given = live.copy()
    ref = getattr(store, kind)(live)
    live[:] = 7
    assert np.array_equal(store.get(ref), given)
    assert not store.get(ref).flags.writeable


def test_a_checkpoint_is_backed_by_a_file() -> None:
    assert isinstance(HostStore().put_on_disk(np.zeros(9, np.uint8)), np.memmap)
