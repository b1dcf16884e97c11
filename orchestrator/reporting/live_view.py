"""A view that is redrawn in place on a terminal that can, and prints lines elsewhere.

Where nothing is redrawn, a view may say at intervals, on a thread of its own, that it is there.
"""

from __future__ import annotations

from threading import Event, Thread
from types import TracebackType
from typing import Self

from rich.console import RenderableType
from rich.live import Live

from orchestrator.console import Console


class LiveView:
    """Redraws what `_render` returns where the console can redraw, from `with` on.

    Args:
        console: where; its `is_interactive` decides.
        refreshes: redrawings a second.
        beats_every_s: seconds between two calls of `_beat` where nothing is redrawn; None: none.
        transient: whether the view is gone at the end.
    """

    def __init__(
        self,
        console: Console,
        refreshes: float,
        beats_every_s: float | None = None,
        transient: bool = False,
    ) -> None:
        self._console, self._refreshes, self._transient = console, refreshes, transient
        self._live: Live | None = None
        self._beats_every_s = beats_every_s
        self._ended = Event()
        self._beating: Thread | None = None

    def __enter__(self) -> Self:
        if self._console.is_interactive:
            self._live = Live(
                console=self._console,
                get_renderable=self._render,
                refresh_per_second=self._refreshes,
                transient=self._transient,
            )
            self._live.__enter__()
        elif self._beats_every_s is not None:
            self._ended.clear()
            self._beating = Thread(target=self._keep_beating, name="tandem-progress", daemon=True)
            self._beating.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, traceback)
            self._live = None
        if self._beating is not None:
            self._ended.set()
            self._beating.join()
            self._beating = None

    def _keep_beating(self) -> None:
        while not self._ended.wait(self._beats_every_s):
            self._beat()

    def _beat(self) -> None:
        """Says that it is still there, and how far."""

    @property
    def _is_live(self) -> bool:
        return self._live is not None

    def _render(self) -> RenderableType:
        raise NotImplementedError

    def _print(self, text: str, style: str | None = None) -> None:
        """A line that stays; above the live view where there is one."""
        # Not `say`: a notebook may have given rich's own console.
        self._console.print(
            text, style=style, markup=False, emoji=False, highlight=False, soft_wrap=True
        )
