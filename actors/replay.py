"""Windows of earlier intervals, kept for the memory to see again."""

from __future__ import annotations

from actors.corpus import Windows


class ReplayBuffer:
    """The newest `capacity` windows that were added.

    Args:
        capacity: windows kept; 0 keeps none.
        window: tokens of a window.
    """

    def __init__(self, capacity: int, window: int) -> None:
        self._capacity = capacity
        self.windows = Windows.empty(window)

    def add(self, windows: Windows) -> None:
        """Adds windows; the oldest leave."""
        joined = Windows.concat([self.windows, windows])
        self.windows = (
            joined[max(0, len(joined) - self._capacity) :] if self._capacity else joined[:0]
        )
