"""What a run asks of the place where its groups are: `Runtime`, and `Groups` that it starts there.

Two implementations: `processes.ray_runtime`, with a process per rank on Ray, and
`in_process.runtime`, with everything in the driver's own process. Types only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from actors.wire import RankDescription
from orchestrator.loop.exchange import GroupCheckpoint
from orchestrator.loop.ports import ClusterPort, ObjectStore, StoredPart
from orchestrator.run_dir.status import Places
from orchestrator.settings.config import Config

StopRequested = Callable[[], str | None]  # the reason, once there is one
Say = Callable[[str], None]


class Groups(ClusterPort, Protocol):
    """Both groups and the evaluator over a whole run: beside what the loop asks, their start and
    the exports.
    """

    def start(
        self,
        stop_requested: StopRequested,
        resume: Mapping[str, GroupCheckpoint] | None = None,
    ) -> Mapping[str, Sequence[RankDescription]]:
        """Starts both groups and publishes what each begins with.

        Args:
            stop_requested: asked again and again; a reason ends the start.
            resume: each group's checkpoint to begin from; default: the run's starting weights.

        Raises:
            TandemError: the first cause why they can't be started, or the reason for the stop.
        """

    def places(self) -> Places:
        """Where every rank is, and what it last said of itself. Any thread may ask."""

    def export(self, directory: str) -> dict[str, str]:
        """Writes the exports of the pair last evaluated; returns the digests.

        Raises:
            TandemError: they can't be written, or are not what was trained.
        """


class Runtime(Protocol):
    """Where a run's groups are, and what that needs before and after them."""

    @property
    def starting(self) -> str:
        """What a person waits for until the session is there, in words."""

    @property
    def store(self) -> ObjectStore:
        """Keeps the bytes of snapshots and checkpoints."""

    @property
    def has_metrics(self) -> bool:
        """Whether Ray's metrics endpoint shows the run's figures."""

    def session(self, config: Config, say: Say, warn: Say) -> AbstractContextManager[None]:
        """What has to be there around the whole run.

        Args:
            config: the run.
            say: receives what is good to know of it.
            warn: receives what may surprise.

        Raises:
            TandemError: it can't be had.
        """

    def groups(
        self,
        config: Config,
        tokenizer_json: str,
        stored_part: StoredPart,
        stop_requested: StopRequested,
        waiting: Say,
    ) -> AbstractContextManager[Groups]:
        """Both groups and the evaluator, not yet started; nothing of them is left at its end.

        Args:
            config: the run.
            tokenizer_json: the run's tokenizer.
            stored_part: reads a part of a checkpoint back from storage.
            stop_requested: as in `Groups.start`.
            waiting: receives what it waits for.

        Raises:
            TandemError: there is no room for them, or the reason for the stop.
        """

    def refuse_too_large(
        self, config: Config, descriptions: Mapping[str, Sequence[RankDescription]]
    ) -> None:
        """Raises: StoreTooSmallError where the kept versions don't fit the object store."""

    def loop_config(self, config: Config) -> Config:
        """The config by which the loop decides on deadlines and restarts."""

    def notice(self, groups: Groups, config: Config) -> StopRequested:
        """Says why the run should end for what happens to its machines, once that is known."""
