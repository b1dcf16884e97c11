"""What the coordinator and the files of a run need from outside, as protocols.

`ClusterPort`: the two groups and the evaluator. `Listener`: is notified of what happens.
`ObjectStore`: keeps the bytes that refs stand for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from actors.machine.host_memory import ByteArray
from actors.wire import Evaluation, Order, RankDescription, Report
from orchestrator.loop.command import Reply
from orchestrator.loop.events import Event, Failed
from orchestrator.loop.exchange import GroupCheckpoint, PairCheckpoint, Version
from orchestrator.loop.recovery import Failure
from orchestrator.loop.resize_rules import Resize

StoredPart = Callable[[GroupCheckpoint, int], ByteArray | None]  # of a checkpoint, by its index


class ObjectStore(Protocol):
    """Keeps arrays of bytes; what it is given back is never changed."""

    def get(self, ref: Any) -> ByteArray:
        """The array that a ref stands for."""

    def put(self, array: ByteArray) -> Any:
        """Keeps an array; returns its ref."""


class ClusterPort(Protocol):
    """The two groups and the evaluator.

    With a process per rank no method blocks for long; in one process `poll` does the work.
    """

    @property
    def in_process(self) -> bool:
        """Whether both groups are in the driver's own process."""

    def first_version(self, group: str) -> Version:
        """The version that the group began with."""

    def submit(self, group: str, order: Order, peer: Version) -> None:
        """Starts a group's next interval."""

    def restart(
        self,
        group: str,
        incarnation: int,
        checkpoint: GroupCheckpoint | None,
        refetch: Version | None,
        publish: bool = False,
    ) -> None:
        """Begins to end a group's processes and to make new ones; `poll` reports `Restarted` when
        they are ready, or `Failed`.

        Args:
            group, incarnation: of the new processes.
            checkpoint: what they begin from; None: the run's beginning.
            refetch: a version of the peer whose bytes were bad, to be fetched again.
            publish: they publish the version that belongs to the checkpoint again; they do so too
                where a node with the group's snapshots was lost.
        """

    def prepare(self, sizes: Mapping[str, int], wait_s: float) -> None:
        """Begins to start the workers that groups of these sizes need beside the present ones;
        `poll` reports `Prepared` when they are ready, or why they can't be had: then nothing of
        them is left.

        Args:
            sizes: numbers of workers of the groups that change.
            wait_s: for resources.
        """

    def switch(self, group: str, incarnation: int, checkpoint: GroupCheckpoint) -> None:
        """Begins to give a group, which is between two intervals, the size that was prepared for
        it; `poll` reports `Resized` when it is ready, or `Failed`.
        """

    def evaluate(self, data: Version, memory: Version, final: bool) -> None:
        """Starts an evaluation of a committed pair; `poll` reports `Evaluated`."""

    def poll(self, timeout_s: float) -> Sequence[Event]:
        """What happened, waiting at most `timeout_s` for something."""

    def late_beats(self) -> Sequence[Failed]:
        """Ranks that are dead, or whose heartbeat is overdue."""

    @property
    def evaluations_running(self) -> int:
        """Evaluations that have not come back."""


class Listener(Protocol):
    """Is notified of what happens; its methods must return at once."""

    def on_start(self, descriptions: Mapping[str, Sequence[RankDescription]]) -> None:
        """Both groups are ready."""

    def on_interval(self, reports: Sequence[Report], wait_s: float, lag: int) -> None:
        """A group committed an interval, before which it had waited `wait_s`."""

    def on_evaluation(self, evaluation: Evaluation, final: bool) -> None:
        """An evaluation came back."""

    def on_checkpoint(self, pair: PairCheckpoint) -> None:
        """Both groups' states after one interval are complete."""

    def on_failure(self, failure: Failure) -> None:
        """A group failed and is restarted."""

    def on_recovery(self, group: str, restart_s: float, replay_s: float) -> None:
        """A group is where it was when it failed: seconds to restart, and to replay."""

    def on_drain(self, interval: int, reason: str) -> None:
        """The run will stop with a checkpoint of that interval."""

    def on_resize(self, resize: Resize) -> None:
        """A group has another number of workers."""

    def on_reply(self, reply: Reply) -> None:
        """A command is accepted, refused or done."""

    def on_warning(self, message: str) -> None:
        """Something happened that the run survives."""
