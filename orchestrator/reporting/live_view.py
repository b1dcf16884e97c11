"""A view that is redrawn in place on a terminal that can, and prints lines elsewhere."""

from __future__ import annotations

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
    """

    def __init__(self, console: Console, refreshes: float) -> None:
        self._console, self._refreshes = console, refreshes
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_interactive:
            self._live = Live(
                console=self._console,
                get_renderable=self._render,
                refresh_per_second=self._refreshes,
            )
            self._live.__enter__()
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
