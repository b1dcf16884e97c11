"""SIGINT and SIGTERM as a question that the coordinator asks once a tick."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopFlag:
    """Set by the first SIGINT or SIGTERM, read by the coordinator once a tick.

    Args:
        then: the command that goes on from the newest checkpoint, where there is one.
    """

    def __init__(self, then: str = "") -> None:
        self._then = then
        self._reason: str | None = None

    def arm(self) -> None:
        """Installs the handlers again: Ray, when it starts, gives SIGTERM to a handler of its own,
        which would end the driver at once. In the main thread only; the others get no signals.
        """
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                signal.signal(signum, self.set)

    def reason(self) -> str | None:
        """Why the run should end, or None."""
        return self._reason

    def set(self, signum: int, _frame: Any) -> None:
        """Remembers the signal; a second one ends the process's wait at once."""
        if self._reason is not None:
            goes_on = f"; {self._then} goes on from the newest checkpoint" if self._then else ""
            raise KeyboardInterrupt(f"ended at once by a second signal{goes_on}")
        name = signal.Signals(signum).name
        self._reason = f"stopped by {name}"
        if self._then:
            self._reason += (
                f"; both groups were ended; {self._then} goes on from the newest checkpoint"
            )


@contextmanager
def stop_signals(then: str = "") -> Iterator[StopFlag]:
    """A flag that the signals set, while the block runs; `then` as of `StopFlag`."""
    flag = StopFlag(then)
    if threading.current_thread() is not threading.main_thread():
        yield flag  # a Tune trial: Tune ends it, signals go to the main thread
        return
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    flag.arm()
    try:
        yield flag
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
