"""Which interval a group may start next. Pure.

Versions are numbered by the interval that published them, every `publish_every`-th and the last;
lag counts published versions. Lockstep: interval i of each group adopts the peer's version before
i, and is submitted once that is committed. Async: it adopts the newest committed one, at most
`staleness` versions behind, and a group that is `staleness` versions ahead of what its peer has
adopted waits. After the data group's last interval the memory goes on alone, on the final version,
until it has caught up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from actors.settings.run import DATA, MEMORY, ExchangeSpec, peer_of

AGREEMENT_TOLERANCE = 0.01
REFLECTING_AGREEMENT = 0.5  # below it the memory says mostly something else; decision 0018
YES, HARDLY, NO = "yes", "hardly", "no"
UNCHANGED = "unchanged"  # a model that stays as it is: nothing to reflect; decision 0037
LOW_AGREEMENT = (
    f"below {REFLECTING_AGREEMENT:g}: mostly the memory says something else than the data layer; "
    "train it longer (intervals, memory.steps_per_interval)"
)


@dataclass(frozen=True)
class Plan:
    """How long the run is, and how the groups wait for each other."""

    intervals: int
    catchup_intervals: int
    lockstep: bool = True
    staleness: int = 1
    publish_every: int = 1
    checkpoint_every: int = 0

    @classmethod
    def of(cls, intervals: int, exchange: ExchangeSpec, checkpoint_every: int) -> Plan:
        """The plan that the settings make."""
        return cls(
            intervals,
            exchange.catchup_intervals,
            exchange.mode == "lockstep",
            exchange.staleness,
            exchange.publish_every,
            checkpoint_every,
        )

    def publishes(self, interval: int) -> bool:
        """Whether an interval ends with a snapshot."""
        return interval % self.publish_every == 0 or interval >= self.intervals

    def saves(self, interval: int) -> bool:
        """Whether an interval ends with a checkpoint of each group."""
        every = self.checkpoint_every
        return every > 0 and interval % every == 0 and interval <= self.intervals

    def version_at(self, interval: int) -> int:
        """The newest version that is published when an interval has ended."""
        return interval if self.publishes(interval) else self._before(interval)

    def next_published(self, begun: int) -> int | None:
        """The first interval after those begun that ends with a snapshot; None: none is left."""
        if begun >= self.intervals:
            return None
        return min(self._before(begun) + self.publish_every, self.intervals)

    def ordinal(self, interval: int) -> int:
        """Index of the version that an interval publishes, or the next one does, counting published
        versions only.
        """
        return -(-interval // self.publish_every)

    def lag(self, interval: int, adopted: int) -> int:
        """How many published versions the adopted one is behind the interval: 1 in lockstep, 0
        where the peer is ahead.

        In the catch-up the memory goes on adopting the last version, the newest that there will be.
        """
        interval = min(interval, self.intervals + self.publish_every)
        return max(0, self.ordinal(interval) - self.ordinal(adopted))

    def _before(self, interval: int) -> int:
        """The last version that is regularly published before or at an interval."""
        return interval // self.publish_every * self.publish_every


@dataclass(frozen=True)
class GroupProgress:
    """What the schedule knows of one group.

    Attributes:
        committed: its last committed interval.
        is_busy: an interval is in flight, or the group is not ready for one.
        published: its newest committed version.
        adopted: the peer's version that the interval in flight, or else the last one, adopts.
    """

    committed: int = 0
    is_busy: bool = False
    published: int = 0
    adopted: int = 0

    @property
    def begun(self) -> int:
        """The last interval that the group has begun."""
        return self.committed + self.is_busy


@dataclass(frozen=True)
class NextInterval:
    """An interval that may start now."""

    group: str
    interval: int
    peer_version: int
    measure: bool
    publish: bool
    exact: bool
    checkpoint: bool


@dataclass(frozen=True)
class CatchUp:
    """How the memory's agreement with the data layer went at the end of the run.

    Attributes:
        before: agreement with the version before the final one, after training on it.
        after: agreement with the final version after each catch-up interval.
    """

    before: float | None = None
    after: tuple[float, ...] = ()

    def measured(self, agreement: float, final: bool) -> CatchUp:
        """With one more measurement, of the final version or of the one before."""
        if final:
            return replace(self, after=(*self.after, agreement))
        return replace(self, before=agreement)

    @property
    def caught_up(self) -> bool:
        """True when the memory agrees with the final version as well as it did with the one before,
        within 0.01.
        """
        return (
            self.before is not None
            and bool(self.after)
            and self.after[-1] >= self.before - AGREEMENT_TOLERANCE
        )

    @property
    def final_agreement(self) -> float | None:
        """The last agreement with the final version."""
        return self.after[-1] if self.after else None

    @property
    def verdict(self) -> str:
        """Whether the memory reflects the final version: `yes`, `hardly` or `no`."""
        return verdict(self.caught_up, self.final_agreement)

    @property
    def reflects_final(self) -> bool:
        """True when the verdict is yes."""
        return self.verdict == YES

    def reason(self, plan: Plan) -> str:
        """Why the verdict is what it is, in one sentence."""
        if self.before is None or not self.after:
            return "the run ended before the memory adopted the final version"
        if self.after[-1] > self.before + AGREEMENT_TOLERANCE:
            relation = "above"
        else:
            relation = f"{'' if self.caught_up else 'not '}within {AGREEMENT_TOLERANCE} of"
        text = (
            f"agreement with the final version {self.after[-1]:.4f} after {len(self.after)} "
            f"catch-up intervals is {relation} the {self.before:.4f} with the version before"
        )
        if not self.caught_up:
            return f"{text}; raise exchange.catchup_intervals (now {plan.catchup_intervals})"
        return text if self.reflects_final else f"{text}, but {LOW_AGREEMENT}"


def verdict(kept_up: bool, agreement: float | None) -> str:
    """`yes`, `hardly` or `no`.

    Args:
        kept_up: whether the memory agrees as well as it did before.
        agreement: share of held-out tokens on which it agrees with the data layer now.
    """
    if not kept_up or agreement is None:
        return NO
    return YES if agreement >= REFLECTING_AGREEMENT else HARDLY


def next_interval(
    group: str, progress: Mapping[str, GroupProgress], plan: Plan, catch_up: CatchUp
) -> NextInterval | None:
    """The interval that `group` may start now, or None while it waits or when it is done."""
    mine, peer = progress[group], progress[peer_of(group)]
    if mine.is_busy:
        return None
    interval = mine.committed + 1
    if interval > plan.intervals:
        if (
            group == DATA
            or progress[DATA].committed < plan.intervals
            or is_done(group, mine.committed, plan, catch_up)
        ):
            return None
        version: int | None = plan.intervals
    else:
        version = _version_to_adopt(interval, mine, peer, plan)
    if version is None:
        return None
    # From here on the version adopted may be the last but one, or the last.
    near_end = interval >= plan.intervals - (0 if plan.lockstep else plan.staleness + 1)
    return NextInterval(
        group,
        interval,
        version,
        measure=group == MEMORY and near_end,
        publish=plan.publishes(interval),
        exact=interval >= plan.intervals,
        checkpoint=plan.saves(interval),
    )


def _version_to_adopt(
    interval: int, mine: GroupProgress, peer: GroupProgress, plan: Plan
) -> int | None:
    """The peer's version for one of the regular intervals; None while the group must wait."""
    if plan.lockstep:
        wanted = plan.version_at(interval - 1)
        return wanted if peer.published >= wanted else None
    behind = plan.ordinal(interval) - plan.ordinal(peer.published)
    ahead = plan.ordinal(mine.published) - plan.ordinal(peer.adopted)
    return peer.published if max(behind, ahead) <= plan.staleness else None


def is_done(group: str, committed: int, plan: Plan, catch_up: CatchUp) -> bool:
    """True when a group that has committed so many intervals has nothing left to do: the data group
    after the plan's, the memory group after its catch-up. Their versions may still be needed.
    """
    if committed < plan.intervals:
        return False
    if group == DATA:
        return True
    done = len(catch_up.after)
    return done >= plan.catchup_intervals or (done >= 1 and catch_up.caught_up)
