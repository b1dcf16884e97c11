"""One thread that does pieces of work in the order in which they are handed over, so that whoever
hands them over never waits for storage or for a network. Knows nothing of what the work is.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

Work = Callable[[], object]


class Background:
    """A daemon thread and its queue.

    Args:
        name: of the thread.
        failed: called on the thread with whatever a piece of work raises; the next piece follows.
        every: done every `every_s`, between other pieces.
        every_s: seconds; None: `every` is never done.
    """

    def __init__(
        self,
        name: str,
        failed: Callable[[Exception], None],
        every: Work = lambda: None,
        every_s: float | None = None,
    ) -> None:
        self._failed = failed
        self._every, self._every_s = every, every_s
        self._due_at = time.monotonic() + (every_s or 0.0)
        self._queue: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, work: Work) -> None:
        """Takes a piece of work and returns at once."""
        self._queue.put(work)

    @property
    def num_waiting(self) -> int:
        """Pieces that are not begun."""
        return self._queue.qsize()

    @property
    def is_alive(self) -> bool:
        """Whether the thread still works."""
        return self._thread.is_alive()

    def close(self, patience_s: float, progress: Callable[[], object] = lambda: None) -> bool:
        """Does what is left and ends the thread; False where that was given up.

        Args:
            patience_s: how long to wait, and again each time that there was progress.
            progress: a value that changes while the work gets on.
        """
        self._queue.put(None)
        while True:
            before = progress()
            self._thread.join(patience_s)
            if not self._thread.is_alive():
                return True
            if progress() == before:
                return False

    def _run(self) -> None:
        while (work := self._next()) is not None:
            try:
                work()
            except Exception as err:  # the thread's border: its owner says what a failure means
                self._failed(err)

    def _next(self) -> Work | None:
        """The next piece: `every` where it is due, also while others wait; None at the end."""
        if self._every_s is None:
            return self._queue.get()
        left_s = self._due_at - time.monotonic()
        if left_s > 0:
            try:
                return self._queue.get(timeout=left_s)
            except queue.Empty:
                pass
        self._due_at = time.monotonic() + self._every_s
        return self._every
