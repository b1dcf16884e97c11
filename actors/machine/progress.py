"""How a long computation says how far it is. Who shows it, and where, is decided above."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Is told what is being done now, and how far it is."""

    def __call__(self, what: str, done: int = 0, total: int | None = None) -> None:
        """Args:
        what: the stage; another text begins another stage.
        done, total: of it, in whatever it counts; None: not known.
        """


def unseen(what: str, done: int = 0, total: int | None = None) -> None:
    """Shows nothing."""
