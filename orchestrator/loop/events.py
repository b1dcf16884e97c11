"""What happens to the two groups, as `ClusterPort.poll` reports it: plain values, no Ray."""

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
    missing_input: bool = False  # the version that it was to adopt was lost with its node


@dataclass(frozen=True)
class Restarted:
    """A group's new processes are ready, in the state of its checkpoint."""

    group: str
    incarnation: int
    refetched: Version | None = None  # another copy of the version whose bytes were bad
    lost_node: bool = False  # a node was lost, with the snapshots that only it held
    published: Version | None = None  # the checkpoint's version, where it was published again


@dataclass(frozen=True)
class Prepared:
    """The workers that a resize adds are ready; `cause` where they can't be had."""

    cause: BaseException | None = None


@dataclass(frozen=True)
class Resized:
    """A group has another number of workers, and the state of its checkpoint."""

    group: str
    num_workers: int


@dataclass(frozen=True)
class Evaluated:
    """An evaluation ended.

    Attributes:
        evaluation: the figures; None where it failed.
        cause: why it failed.
        died: its process did.
        lost: groups whose snapshots are no longer in the object store.
    """

    evaluation: Evaluation | None
    cause: BaseException | None = None
    died: bool = False
    lost: tuple[str, ...] = ()


Event = Committed | Failed | Restarted | Prepared | Resized | Evaluated
