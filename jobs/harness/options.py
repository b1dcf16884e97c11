"""Which tasks of the harness are run, and how. Imports nothing of it."""

from __future__ import annotations

from dataclasses import dataclass

INSTALL = "pip install 'tandem-memory[eval]'"


@dataclass(frozen=True)
class TaskOptions:
    """Which tasks, and how.

    Attributes:
        tasks: names of the harness, or YAML files.
        include: folder with more tasks.
        limit: questions of each task at most.
        fewshot: examples before each question; None: as the task says.
        batch_size: questions of a forward pass.
        base: a plain model to compare with, a folder or a hub name.
        as_documents: as `TandemLM`.
    """

    tasks: tuple[str, ...]
    include: str | None = None
    limit: int | None = None
    fewshot: int | None = None
    batch_size: int = 8
    base: str | None = None
    as_documents: bool | None = None
