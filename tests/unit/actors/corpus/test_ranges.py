"""Ranges of windows: joined, and as JSON."""

from __future__ import annotations

import json

from actors.corpus.ranges import from_lists, merge_ranges, to_lists
from actors.wire import Range


def test_neighbouring_ranges_are_joined() -> None:
    ranges = [Range(0, 0, 3), Range(0, 3, 5), Range(1, 0, 2), Range(1, 4, 6), Range(1, 6, 7)]
    assert merge_ranges(ranges) == (Range(0, 0, 5), Range(1, 0, 2), Range(1, 4, 7))


def test_ranges_out_of_order_are_not_joined() -> None:
    ranges = (Range(0, 3, 5), Range(0, 0, 3), Range(1, 3, 4))
    assert merge_ranges(ranges) == ranges


def test_ranges_come_back_from_json() -> None:
    ranges = [Range(0, 3, 5), Range(7, 0, 3)]
    assert from_lists(json.loads(json.dumps(to_lists(ranges)))) == ranges
