"""How a long computation says how far it is. Who shows it, and where, is decided above."""

from __future__ import annotations

import io
from typing import Any, Protocol


class Progress(Protocol):
    """Is told what is being done now, and how far it is."""

    def __call__(self, what: str, done: int = 0, total: int | None = None) -> None:
        """Args:
        what: the stage; another text begins another stage.
        done, total: of it, in whatever it counts; None: not known.
        """


def unseen(what: str, done: int = 0, total: int | None = None) -> None:
    """Shows nothing."""


def bars_as(progress: Progress, of: str) -> type[Any]:
    """A kind of tqdm's bar that draws nothing: `progress` sees what a library counts with it.

    Args:
        progress: what sees it.
        of: what the library is doing; the bar's own text follows it.
    """
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[misc]  # tqdm is untyped here
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "file": io.StringIO()})

        def display(self, *_: Any, **__: Any) -> None:
            if self.desc:  # the others are too small to say what they count
                progress(f"{of}: {self.desc.strip(': ').lower()}", self.n, self.total)

    return Bar
