"""Commands to a running run and their replies: frozen values, unknown fields refused. No files.

A command names the driver that it is meant for, so that one that was left behind is not taken by a
later driver of the same run.
"""

from __future__ import annotations

from typing import Final, Literal, Self

from pydantic import Field, model_validator

from actors.settings.base import Spec
from actors.settings.run import DATA, MEMORY
from actors.wire import LiveLesson, Told, ToldAssociation

STOP: Final = "stop"
CHECKPOINT: Final = "checkpoint"
RESIZE: Final = "resize"
TELL: Final = "tell"
UNTELL: Final = "untell"
TEACH: Final = "teach"
ACCEPTED: Final = "accepted"
REFUSED: Final = "refused"
DONE: Final = "done"
ID_PATTERN = r"^[0-9]{19}-[0-9a-f]{8}$"  # nanoseconds, so that names sort by time, and chance
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"
MOST_WORKERS = 4096
MOST_ASSOCIATIONS, MOST_WORDINGS, TEXT_CHARS = 2000, 64, 1 << 16
MOST_LESSONS = 20_000
LONGEST_WAIT_S = 86400.0

State = Literal["accepted", "refused", "done"]


class Association(Spec):
    """What is to be told: as `ToldAssociation`."""

    prompt: str = Field(min_length=1, max_length=TEXT_CHARS)
    answer: str = Field(min_length=1, max_length=TEXT_CHARS)
    wordings: tuple[str, ...] = Field((), max_length=MOST_WORDINGS)
    subject: str = Field("", max_length=TEXT_CHARS)


class TaughtLesson(Spec):
    """What is to be taught: as `LiveLesson`."""

    prompt: str = Field(min_length=1, max_length=TEXT_CHARS)
    answer: str = Field(min_length=1, max_length=TEXT_CHARS)
    wordings: tuple[str, ...] = Field((), max_length=MOST_WORDINGS)
    subject: str = Field("", max_length=TEXT_CHARS)


class Command(Spec):
    """What a person asks of a running run."""

    id: str = Field(pattern=ID_PATTERN, description="The file's name, too.")
    run: str = Field(min_length=1, description="Name of the run.")
    driver: str = Field(min_length=1, description="The driver that it is meant for.")
    kind: Literal["stop", "checkpoint", "resize", "tell", "untell", "teach"]
    data_workers: int | None = Field(None, ge=1, le=MOST_WORKERS)
    memory_workers: int | None = Field(None, ge=1, le=MOST_WORKERS)
    wait_s: float = Field(
        60.0, ge=0, le=LONGEST_WAIT_S, description="For the resources of added workers."
    )

    name: str | None = Field(None, pattern=NAME_PATTERN, description="Of what is told.")
    associations: tuple[Association, ...] = Field(
        (), max_length=MOST_ASSOCIATIONS, description="What is told; the other commands have none."
    )

    lessons: tuple[TaughtLesson, ...] = Field(
        (), max_length=MOST_LESSONS, description="What is taught; the other commands have none."
    )

    @model_validator(mode="after")
    def _a_teach_has_something_to_teach(self) -> Self:
        if bool(self.lessons) != (self.kind == TEACH):
            raise ValueError("teach needs lessons, and only it has some")
        return self

    @model_validator(mode="after")
    def _tells_have_a_name_and_something_to_tell(self) -> Self:
        if (self.name is not None) != (self.kind in (TELL, UNTELL)):
            raise ValueError("tell and untell need a name, and only they have one")
        if bool(self.associations) != (self.kind == TELL):
            raise ValueError("tell needs associations, and only it has some")
        return self

    @model_validator(mode="after")
    def _sizes_come_with_a_resize(self) -> Self:
        if bool(self.sizes) != (self.kind == RESIZE):
            raise ValueError(
                "a resize needs data_workers or memory_workers, and only a resize has them"
            )
        return self

    @property
    def told(self) -> Told:
        """What a tell or an untell asks for, as a group's order says it."""
        assert self.name is not None
        told_at = int(self.id.partition("-")[0]) / 1e9
        some = (
            ToldAssociation(a.prompt, a.answer, a.wordings, subject=a.subject)
            for a in self.associations
        )
        return Told(self.name, told_at, tuple(some))

    @property
    def taught(self) -> tuple[LiveLesson, ...]:
        """What a teach asks for, as a group's order says it."""
        return tuple(LiveLesson(o.prompt, o.answer, o.wordings, o.subject) for o in self.lessons)

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
