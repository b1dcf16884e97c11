"""Commands to a running run and their replies: frozen values, unknown fields refused. No files.

A command names the driver that it is meant for, so that one that was left behind is not taken by a
later driver of the same run.
"""

from __future__ import annotations

from typing import Final, Literal, Self

from pydantic import Field, model_validator

from actors.settings.base import Spec
from actors.settings.run import DATA, MEMORY

STOP: Final = "stop"
CHECKPOINT: Final = "checkpoint"
RESIZE: Final = "resize"
ACCEPTED: Final = "accepted"
REFUSED: Final = "refused"
DONE: Final = "done"
ID_PATTERN = r"^[0-9]{19}-[0-9a-f]{8}$"  # nanoseconds, so that names sort by time, and chance
MOST_WORKERS = 4096
LONGEST_WAIT_S = 86400.0

State = Literal["accepted", "refused", "done"]


class Command(Spec):
    """What a person asks of a running run."""

    id: str = Field(pattern=ID_PATTERN, description="The file's name, too.")
    run: str = Field(min_length=1, description="Name of the run.")
    driver: str = Field(min_length=1, description="The driver that it is meant for.")
    kind: Literal["stop", "checkpoint", "resize"]
    data_workers: int | None = Field(None, ge=1, le=MOST_WORKERS)
    memory_workers: int | None = Field(None, ge=1, le=MOST_WORKERS)
    wait_s: float = Field(
        60.0, ge=0, le=LONGEST_WAIT_S, description="For the resources of added workers."
    )

    @model_validator(mode="after")
    def _sizes_come_with_a_resize(self) -> Self:
        if bool(self.sizes) != (self.kind == RESIZE):
            raise ValueError(
                "a resize needs data_workers or memory_workers, and only a resize has them"
            )
        return self

    @property
    def sizes(self) -> dict[str, int]:
        """Workers by group, for the groups that it names."""
        named = {DATA: self.data_workers, MEMORY: self.memory_workers}
        return {group: num for group, num in named.items() if num is not None}


class Reply(Spec):
    """What became of a command."""

    id: str = Field(pattern=ID_PATTERN)
    state: State
    message: str
    interval: int | None = Field(None, description="The one that a checkpoint is made of.")
