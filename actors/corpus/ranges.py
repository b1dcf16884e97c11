"""Ranges of a stream's windows: merged where they adjoin, and as lists for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from actors.wire import Range


def merge_ranges(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The same windows, with adjoining ranges merged."""
    merged: list[Range] = []
    for r in ranges:
        if merged and merged[-1].chunk == r.chunk and merged[-1].stop == r.start:
            merged[-1] = Range(r.chunk, merged[-1].start, r.stop)
        else:
            merged.append(r)
    return tuple(merged)


def to_lists(ranges: Sequence[Range]) -> list[list[int]]:
    """Ranges as lists for JSON."""
    return [[r.chunk, r.start, r.stop] for r in ranges]


def from_lists(lists: Sequence[Sequence[int]]) -> list[Range]:
    """The inverse of `to_lists`."""
    return [Range(*row) for row in lists]
