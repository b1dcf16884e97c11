"""Windows of earlier intervals, kept for the memory group to train on again."""

from __future__ import annotations

from collections.abc import Sequence

from actors.corpus.windows import Windows
from actors.wire import Range


class ReplayBuffer:
    """The newest `capacity` windows that were added, and their ranges in the stream.

    Args:
        capacity: windows kept; 0 keeps none.
        window: tokens of a window.
    """

    def __init__(self, capacity: int, window: int) -> None:
        self._capacity = capacity
        self.windows = Windows.empty(window)
        self.ranges: list[Range] = []

    def add(self, windows: Windows, ranges: Sequence[Range]) -> None:
        """Adds the windows of `ranges`; drops the oldest beyond the capacity."""
        joined = Windows.concat([self.windows, windows])
        excess = max(0, len(joined) - self._capacity)
        self.windows = joined[excess:]
        self.ranges.extend(ranges)
        while excess:
            first = self.ranges[0]
            left = first.stop - first.start - excess
            excess = max(0, -left)
            self.ranges[:1] = (
                [Range(first.chunk, first.stop - left, first.stop)] if left > 0 else []
            )
