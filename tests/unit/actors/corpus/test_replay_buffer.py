"""The replay buffer keeps the newest windows."""

from __future__ import annotations

import numpy as np
import pytest

from actors.corpus.replay_buffer import ReplayBuffer
from actors.corpus.windows import Windows
from actors.wire import Range


def windows(*numbers: int) -> Windows:
    tokens = np.array(numbers, np.int32)[:, None].repeat(3, axis=1)
    return Windows(tokens, np.zeros_like(tokens), np.ones(tokens.shape, np.bool_))


def add(buffer: ReplayBuffer, *numbers: int) -> None:
    """Adds windows whose number is also their place in chunk 0."""
    buffer.add(windows(*numbers), [Range(0, numbers[0], numbers[-1] + 1)])


def kept(buffer: ReplayBuffer) -> list[int]:
    return [int(row[0]) for row in buffer.windows.tokens_NT]


def test_a_new_buffer_is_empty_and_of_the_right_width() -> None:
    assert ReplayBuffer(4, 3).windows.tokens_NT.shape == (0, 3)


def test_windows_are_kept_in_the_order_they_came() -> None:
    buffer = ReplayBuffer(5, 3)
    add(buffer, 1, 2)
    add(buffer, 3)
    assert kept(buffer) == [1, 2, 3]


def test_the_oldest_windows_leave_a_full_buffer() -> None:
    buffer = ReplayBuffer(3, 3)
    add(buffer, 1, 2)
    add(buffer, 3, 4)
    assert kept(buffer) == [2, 3, 4]


def test_of_more_windows_than_it_holds_the_newest_are_kept() -> None:
    buffer = ReplayBuffer(2, 3)
    add(buffer, 1, 2, 3, 4, 5)
    assert kept(buffer) == [4, 5]


def test_a_buffer_of_no_capacity_keeps_nothing() -> None:
    buffer = ReplayBuffer(0, 3)
    add(buffer, 1, 2)
    assert kept(buffer) == []


def test_adding_nothing_changes_nothing() -> None:
    buffer = ReplayBuffer(2, 3)
    add(buffer, 1, 2)
    buffer.add(Windows.empty(3), [])
    assert kept(buffer) == [1, 2]


@pytest.mark.parametrize("capacity", [0, 1, 2, 3, 4, 7])
def test_the_ranges_are_those_of_the_windows_kept(capacity: int) -> None:
    buffer = ReplayBuffer(capacity, 3)
    for numbers in ((1, 2), (5,), (7, 8, 9), (12,)):
        add(buffer, *numbers)
    assert [n for r in buffer.ranges for n in range(r.start, r.stop)] == kept(buffer)
    assert len(kept(buffer)) == min(capacity, 7)
