"""Settings of a run that teaches a finished pair: which lessons, and how. No torch.

`tandem teach` writes them; a run that trains on a corpus has no `teach.lessons`.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from actors.settings.base import Spec
from actors.settings.fields import PathTo


class TeachSpec(Spec):
    """Lessons for the data layer, which the memory follows; set by `tandem teach`."""

    lessons: Annotated[str | None, PathTo.LESSONS] = Field(
        None,
        min_length=1,
        description="File of the lessons that the run teaches, as `tandem teach` writes it; its "
        "corpus is then what the memory wrote. Unset: the run trains on its corpus.",
    )
    exam: Annotated[str | None, PathTo.LESSONS] = Field(
        None,
        min_length=1,
        description="File of the questions whose answers before teaching are known, as `tandem "
        "teach` writes it: what was taught is compared with them.",
    )
    told: Annotated[str | None, PathTo.LESSONS] = Field(
        None,
        min_length=1,
        description="File of the rows of the value table that telling the lessons changes, as "
        "`tandem teach` writes it for a memory addressed by n-grams: it begins with them, so that "
        "little is left to follow.",
    )
    own_text: Annotated[str | None, PathTo.LESSONS] = Field(
        None,
        min_length=1,
        description="File of what the data layer wrote before teaching, as `tandem teach` writes "
        "it: half of the text that keeps what the data layer says; the memory keeps to its own.",
    )
    given_frac: float = Field(
        0.15,
        gt=0,
        le=1,
        description="Share of the data group's sequences that are lessons as they were given.",
    )
    reworded_frac: float = Field(
        0.25,
        ge=0,
        le=1,
        description="Share of lessons in wordings that the memory knows; the rest of the batch is "
        "text that the memory wrote.",
    )
    rehearse: float = Field(
        3.0,
        ge=0,
        description="Weight of the KL from the data layer before teaching to the one that is "
        "taught, on text that the memory wrote. Raise it where other answers are lost, lower it "
        "where lessons are not learned.",
    )
    memory_lessons_frac: float = Field(
        0.3,
        gt=0,
        lt=1,
        description="Share of the memory group's sequences that are lessons, in all wordings; the "
        "rest is text that it wrote before.",
    )
    memory_keep: float = Field(
        1.0,
        ge=0,
        description="Weight of the KL from the memory before teaching to the one that follows, on "
        "text that it wrote.",
    )

    memory_train: Literal["nothing", "values", "all"] = Field(
        "values",
        description="What of the memory moves where it follows: nothing, where it was told the "
        "lessons and finds them by nearness, as `tandem teach` does; its value table, so that "
        "every text is read where it was; or its encoder too, which carries lessons a little "
        "further to wordings that nobody has seen, and loses more.",
    )

    @model_validator(mode="after")
    def _room_for_rehearsal(self) -> Self:
        if self.given_frac + self.reworded_frac >= 1:
            raise ValueError(
                f"given_frac {self.given_frac:g} + reworded_frac {self.reworded_frac:g} leaves no "
                "sequence for text that keeps the old; lower one of them"
            )
        return self

    @property
    def is_on(self) -> bool:
        """Whether the run teaches lessons."""
        return self.lessons is not None

    def data_counts(self, batch_size: int, reworded: bool) -> tuple[int, int]:
        """Sequences of a data batch that are lessons as given, and in the memory's wordings.

        Args:
            batch_size: of the data group.
            reworded: whether the memory knows any.
        """
        given = max(1, round(batch_size * self.given_frac))
        others = round(batch_size * self.reworded_frac)
        return (given, others) if reworded else (given + others, 0)

    def own_count(self, num_text: int) -> int:
        """Of a data batch's sequences of text, those that the data layer wrote."""
        return 0 if self.own_text is None else num_text // 2

    def memory_count(self, batch_size: int) -> int:
        """Sequences of a memory batch that are lessons."""
        return min(batch_size - 1, max(1, round(batch_size * self.memory_lessons_frac)))
