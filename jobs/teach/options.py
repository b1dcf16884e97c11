"""Options of `tandem teach`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TeachOptions:
    """Options of the command; None: the default.

    Attributes:
        lessons: path of the lessons.
        told: named writes to take over; none of them named: all that are on.
        from_memory: take over what the memory knows and the data layer does not.
        dry_run: say what would be taught, and train nothing.
        templates: wordings of lessons that are facts.
        out: directory of the result.
        steps, lr, seed: of the data layer's training.
        written: documents that the memory writes.
        rehearse: weight of what keeps the old.
        reword: whether lessons are also taught in wordings that the memory knows.
        train: what of the data layer moves: `all`, `lora`, or what the run trained.
        tell: whether the memory is told the lessons; else it follows by gradient steps alone.
        ray: train in processes on Ray, as the run's workers say; else in this process.
        no_wait: of a running run: do not wait until its groups have begun to learn.
    """

    lessons: str | None = None
    told: tuple[str, ...] | None = None
    from_memory: bool = False
    dry_run: bool = False
    templates: str | None = None
    out: str | None = None
    steps: int | None = None
    lr: float | None = None
    seed: int | None = None
    written: int = 6000
    rehearse: float | None = None
    reword: bool = True
    train: str | None = None
    tell: bool = True
    ray: bool = False
    no_wait: bool = False
