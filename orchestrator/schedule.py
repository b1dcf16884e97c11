"""Which interval a group may start next: pure decisions, no effects.

Lockstep: interval i of each group adopts the peer's version i-1, and is submitted once that is
committed. After the data group's last interval the memory goes on alone, on the final version,
until it reflects it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from actors.spec import DATA, MEMORY, peer_of

AGREEMENT_TOLERANCE = 0.01


@dataclass(frozen=True)
class Plan:
    """How long the run is."""

    intervals: int
    catchup_intervals: int


@dataclass(frozen=True)
class Progress:
    """Where one group is."""

    committed: int = 0
    running: bool = False


@dataclass(frozen=True)
class Next:
    """An interval that may start now."""

    group: str
    interval: int
    peer_version: int
    measure: bool


@dataclass(frozen=True)
class CatchUp:
    """How the memory's agreement with the data layer went at the end of the run.

    Attributes:
        before: agreement with the version before the final one, after training on it.
        after: agreement with the final version after each catch-up interval.
    """

    before: float | None = None
    after: tuple[float, ...] = ()

    @property
    def reflects_final(self) -> bool:
        """True when the memory agrees with the final version as well as it did with the one before,
        within 0.01.
        """
        return (
            self.before is not None
            and bool(self.after)
            and self.after[-1] >= self.before - AGREEMENT_TOLERANCE
        )

    def reason(self, plan: Plan) -> str:
        """Why `reflects_final` is what it is, in one sentence."""
        if self.before is None or not self.after:
            return "the run ended before the memory adopted the final version"
        relation = "within" if self.reflects_final else "not within"
        text = (
            f"agreement with the final version {self.after[-1]:.4f} after {len(self.after)} "
            "catch-up intervals is "
            f"{relation} {AGREEMENT_TOLERANCE} of the {self.before:.4f} with the version before"
        )
        return (
            text
            if self.reflects_final
            else f"{text}; raise exchange.catchup_intervals (now {plan.catchup_intervals})"
        )


def next_interval(
    group: str, progress: Mapping[str, Progress], plan: Plan, catch_up: CatchUp
) -> Next | None:
    """The interval that `group` may start now, or None while it waits or when it is done."""
    mine, peer = progress[group], progress[peer_of(group)]
    if mine.running:
        return None
    interval = mine.committed + 1
    if interval <= plan.intervals:
        if peer.committed < interval - 1:
            return None
        return Next(
            group, interval, interval - 1, measure=group == MEMORY and interval == plan.intervals
        )
    if (
        group == DATA
        or progress[DATA].committed < plan.intervals
        or finished(progress, plan, catch_up)
    ):
        return None
    return Next(MEMORY, interval, plan.intervals, measure=True)


def finished(progress: Mapping[str, Progress], plan: Plan, catch_up: CatchUp) -> bool:
    """True when both groups are done: the data group's intervals, and the memory's catch-up."""
    if any(p.running for p in progress.values()) or progress[DATA].committed < plan.intervals:
        return False
    done = progress[MEMORY].committed - plan.intervals
    return done >= plan.catchup_intervals or (done >= 1 and catch_up.reflects_final)
