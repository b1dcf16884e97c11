"""Ranges of a stream's windows: joined, and as JSON. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from actors.wire import Range


def merge_ranges(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The same windows in as few ranges as they make when neighbours are joined."""
    merged: list[Range] = []
    for r in ranges:
        if merged and merged[-1].chunk == r.chunk and merged[-1].stop == r.start:
            merged[-1] = Range(r.chunk, merged[-1].start, r.stop)
        else:
            merged.append(r)
    return tuple(merged)


def to_lists(ranges: Sequence[Range]) -> list[list[int]]:
    """Ranges as JSON takes them."""
    return [[r.chunk, r.start, r.stop] for r in ranges]


def from_lists(lists: Sequence[Sequence[int]]) -> list[Range]:
    """What `to_lists` was given."""
    return [Range(*row) for row in lists]
