"""What the coordinator is told of the two groups: plain values, no Ray."""

from __future__ import annotations

from dataclasses import dataclass

from actors.wire import Evaluation, Report
from orchestrator.loop.exchange import GroupCheckpoint, Version


@dataclass(frozen=True)
class Committed:
    """All ranks of a group finished an interval."""

    group: str
    interval: int
    reports: tuple[Report, ...]
    version: Version | None  # None where the interval publishes none
    checkpoint: GroupCheckpoint | None = None


@dataclass(frozen=True)
class Failed:
    """A rank of a group died, raised or did not answer in time."""

    group: str
    rank: int
    cause: BaseException
    missing_input: bool = False  # what it was to adopt is nowhere any more


@dataclass(frozen=True)
class Restarted:
    """A group stands again as its checkpoint has it."""

    group: str
    incarnation: int
    refetched: Version | None = None  # another copy of the version whose bytes were bad
    lost_node: bool = False  # a node went, and with it the snapshots that only it held
    published: Version | None = None  # the checkpoint's version, where it was to be published again


@dataclass(frozen=True)
class Prepared:
    """What a resize adds stands beside its group; `cause` where it can't be had."""

    cause: BaseException | None = None


@dataclass(frozen=True)
class Resized:
    """A group stands with another number of workers, as its checkpoint has it."""

    group: str
    num_workers: int


@dataclass(frozen=True)
class Evaluated:
    """An evaluation ended; `cause` where it failed, `died` where its process did, `lost` names the
    groups whose snapshots are on no node any more.
    """

    evaluation: Evaluation | None
    cause: BaseException | None = None
    died: bool = False
    lost: tuple[str, ...] = ()


Event = Committed | Failed | Restarted | Prepared | Resized | Evaluated
