"""Both groups and the evaluator on Ray: implements `loop.ports.ClusterPort`.

A group is returned started or not at all. What Ray raises becomes a `Failed` event here; which
group failed follows from whose call it was, never from the exception's type. Only `start`, `export`
and `stop` block for long: a restart has its own thread, and is reported as an event.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from actors.settings.run import GROUPS
from actors.wire import (
    CheckpointError,
    ExportError,
    Heartbeat,
    Location,
    Order,
    RankDescription,
    StorageError,
)
from orchestrator.errors import LOST, GroupFailedError, LostObjectError, root_cause
from orchestrator.loop.events import Evaluated, Event, Failed, Prepared, Resized, Restarted
from orchestrator.loop.exchange import GroupCheckpoint, Version
from orchestrator.loop.ports import StoredPart
from orchestrator.nodes.placement import Seats
from orchestrator.processes.launch import Launcher, locations_of
from orchestrator.processes.rank_group import RankGroup
from orchestrator.processes.refetch import refetch_checkpoint, refetch_version
from orchestrator.processes.resize_steps import ResizeSteps
from orchestrator.run_dir.run_dir import RETRY_S
from orchestrator.settings.config import Config
from orchestrator.settings.file_names import resume_command

RESTART_POLL_S = 0.02  # how late it is noticed that a restarted group is ready
END_RESTARTS_S = 120.0  # for threads that restart a group; they check `_stopping` between waits
EXPORT_TRIES = 3  # of the export, where the evaluator's process dies


class RayCluster:
    """Both groups and the evaluator on Ray, behind calls that never block for long.

    Args:
        config: the run.
        tokenizer_json: the run's tokenizer.
        seats: bundles as `placement.bundles` orders them.
        stored_part: reads a part of a checkpoint back from storage, where the object store's copy
            is bad.
    """

    def __init__(
        self,
        config: Config,
        tokenizer_json: str,
        seats: Seats,
        stored_part: StoredPart = lambda saved, index: None,
    ) -> None:
        self._config = config
        self._launcher = Launcher(config, tokenizer_json, seats)
        self._stored_part = stored_part
        self._groups: dict[str, RankGroup] = {}
        self._snapshot_nodes: dict[str, set[str]] = {}  # nodes that may hold a group's snapshots
        self._restarts: dict[str, Future[Restarted | Resized]] = {}  # resizes among them
        self._restarter = ThreadPoolExecutor(len(GROUPS), "tandem-restart")
        self._resize_steps = ResizeSteps(self._launcher)
        self._preparing: Future[None] | None = None
        self._resize_thread = ThreadPoolExecutor(1, "tandem-resize")
        self._stopping = False
        self._evaluator: ActorHandle | None = None
        self._evaluations: dict[ObjectRef, tuple[Version, Version]] = {}  # by ref
        self._last_pair: tuple[Version, Version] | None = None

    def start(
        self,
        stop_requested: Callable[[], str | None],
        resume: Mapping[str, GroupCheckpoint] | None = None,
    ) -> dict[str, list[RankDescription]]:
        """Starts both groups at once and publishes what each begins with; all ranks are ready when
        it returns.

        Args:
            stop_requested: asked twice a second; a reason ends the wait.
            resume: each group's checkpoint to begin from; default: the run's starting weights.

        Raises:
            InterruptedRunError: a stop was requested meanwhile.
            ConfigError: what a rank found wrong with the config.
            CheckpointError: a checkpoint is not this run's.
            GroupFailedError: a rank died or was not ready within `deadlines.start_s`.
        """
        self._groups = self._launcher.make(GROUPS, stop_requested)
        groups = self._groups.values()
        self._launcher.begin(groups, 0, resume or {}, stop_requested)
        for group in groups:
            number = resume[group.name].interval if resume is not None else 0
            exact = number >= self._config.intervals
            self._launcher.publish_first(group, number, exact, stop_requested)
            self._snapshot_nodes[group.name] = _nodes_of(group)
        self._warm_spares()
        return {group.name: group.descriptions for group in groups}

    def locate(self, stop_requested: Callable[[], str | None]) -> dict[str, list[Location]]:
        """Places every rank's process and says where; nothing is built yet.

        Raises: as `start`.
        """
        self._groups = self._launcher.make(GROUPS, stop_requested)
        return locations_of(self._groups)

    @property
    def in_process(self) -> bool:
        """As `ClusterPort`."""
        return False

    def first_version(self, group: str) -> Version:
        """The version that the group began with."""
        version = self._groups[group].first_version
        assert version is not None, f"{group}: not started"
        return version

    def places(self) -> dict[str, list[tuple[Location, Heartbeat | None]]]:
        """Where every rank is, and its last heartbeat."""
        return {
            name: [(where, group.beats.get(where.rank)) for where in list(group.locations)]
            for name, group in list(self._groups.items())
        }

    def node_ids(self) -> set[str]:
        """Nodes on which the run has processes, the driver's node included."""
        places = {where.node_id for g in list(self._groups.values()) for where in g.locations}
        return {*places, ray.get_runtime_context().get_node_id()}

    def submit(self, group: str, order: Order, peer: Version) -> None:
        """Starts a group's next interval on a committed version of its peer."""
        self._groups[group].submit(order, peer)

    def restart(
        self,
        group: str,
        incarnation: int,
        checkpoint: GroupCheckpoint | None,
        refetch: Version | None,
        publish: bool = False,
    ) -> None:
        """Begins to end a group's processes and to make new ones, on a thread."""
        old = self._groups.pop(group, None)
        self._restarts[group] = self._restarter.submit(
            self._restart, old, group, incarnation, checkpoint, refetch, publish
        )

    def _restart(
        self,
        old: RankGroup | None,
        name: str,
        incarnation: int,
        checkpoint: GroupCheckpoint | None,
        refetch: Version | None,
        publish: bool,
    ) -> Restarted:
        if old is not None:
            self._launcher.end(old.actors)
        fresh = refetch_version(refetch) if refetch is not None else None
        group = self._launcher.make([name], self._stop_reason)[name]
        try:
            saved = {name: checkpoint} if checkpoint is not None else {}
            try:
                self._launcher.begin([group], incarnation, saved, self._stop_reason)
            except (CheckpointError, LostObjectError):
                if checkpoint is None:
                    raise
                whole = refetch_checkpoint(checkpoint, self._stored_part, self._then)
                self._launcher.begin([group], incarnation, {name: whole}, self._stop_reason)
            # Nodes, not the old processes: an earlier try may have left none of these.
            lost_node = not _is_alive(self._snapshot_nodes[name])
            if lost_node or publish:
                number = checkpoint.interval if checkpoint is not None else 0
                exact = number >= self._config.intervals
                self._launcher.publish_first(group, number, exact, self._stop_reason)
        except BaseException:  # Ctrl-C, too: nothing may be left behind
            self._launcher.end(group.actors)
            raise
        kept = set() if lost_node else self._snapshot_nodes[name]
        self._snapshot_nodes[name] = kept | _nodes_of(group)
        self._groups[name] = group
        return Restarted(name, incarnation, fresh, lost_node, group.first_version)

    def prepare(self, sizes: Mapping[str, int], wait_s: float) -> None:
        """Begins to start the workers that groups of these sizes lack, on a thread."""
        self._preparing = self._resize_thread.submit(
            self._resize_steps.prepare, sizes, wait_s, self._stop_reason
        )

    def switch(self, group: str, incarnation: int, checkpoint: GroupCheckpoint) -> None:
        """Begins to give a group the size that was prepared for it, on a thread."""
        old = self._groups.pop(group)
        self._restarts[group] = self._restarter.submit(self._switch, old, incarnation, checkpoint)

    def _switch(self, old: RankGroup, incarnation: int, checkpoint: GroupCheckpoint) -> Resized:
        group, removed = self._resize_steps.switch(old, incarnation, checkpoint, self._stop_reason)
        self._snapshot_nodes[group.name] |= _nodes_of(group)
        self._groups[group.name] = group
        self._resize_thread.submit(self._resize_steps.tidy, group.name, removed)
        return Resized(group.name, len(group.actors))

    @property
    def _then(self) -> str:
        return f"go on with: {resume_command(self._config.run_url)}"

    def _stop_reason(self) -> str | None:
        return "the run has ended" if self._stopping else None

    def _warm_spares(self) -> None:
        if self._config.recovery.warm_spares:
            for name in GROUPS:
                self._launcher.warm(name)

    def evaluate(self, data: Version, memory: Version, final: bool) -> None:
        """Starts an evaluation of a committed pair."""
        if self._evaluator is None:
            self._evaluator = self._launcher.evaluator()
        self._last_pair = data, memory
        refs = (*data.bucket_refs, *memory.bucket_refs)
        ref = self._evaluator.evaluate.remote(
            data.headers, memory.headers, len(data.bucket_refs), final, *refs
        )
        self._evaluations[ref] = data, memory

    def export(self, directory: str) -> dict[str, str]:
        """Writes the exports of the pair last evaluated; returns the digests. Tries again where the
        evaluator dies or the storage is away.

        Raises: GroupFailedError where it failed for `deadlines.storage_s`, or too often;
            ExportError where it is not what was trained; StorageError where its storage was away.
        """
        deadlines = self._config.deadlines
        deadline, deaths = time.monotonic() + deadlines.storage_s, 0
        while True:
            evaluator = self._evaluator
            assert evaluator is not None, "no pair was evaluated"
            try:
                digests: dict[str, str] = ray.get(
                    evaluator.export.remote(directory), timeout=deadlines.evaluation_s
                )
                return digests
            except Exception as err:  # whatever the remote code raised; it is sorted below
                if isinstance(cause := root_cause(err), ExportError):
                    raise cause from err  # writing it again would write the same
                died = isinstance(err, RayActorError)
                deaths += died
                if deaths == EXPORT_TRIES or (not died and time.monotonic() > deadline):
                    cause = root_cause(err)
                    kind = StorageError if isinstance(cause, StorageError) else GroupFailedError
                    raise kind(f"evaluator: the export to {directory} failed: {cause}") from err
                if died and self._last_pair is not None:
                    self._evaluator = None  # what it exports is what it evaluated
                    self.evaluate(*self._last_pair, final=True)
                else:
                    time.sleep(RETRY_S)

    def poll(self, timeout_s: float) -> list[Event]:
        """What happened, failures first; waits at most `timeout_s` for something."""
        waiting = list(self._evaluations)
        for group in list(self._groups.values()):
            waiting.extend(group.report_refs)  # none that is there: the wait would return at once
        if waiting:
            ray.wait(waiting, timeout=RESTART_POLL_S if self._restarts else timeout_s)
        elif self._restarts:
            wait(self._restarts.values(), timeout=timeout_s)
        else:
            time.sleep(timeout_s)
        events: list[Event] = [*self._collect_prepared(), *self._collect_restarts()]
        for group in list(self._groups.values()):
            events.extend(group.collect())
        events.extend(self._collect_evaluations())
        return sorted(events, key=lambda e: not isinstance(e, Failed))

    def _collect_prepared(self) -> list[Event]:
        if self._preparing is None or not self._preparing.done():
            return []
        cause, self._preparing = self._preparing.exception(), None
        return [Prepared(cause)]

    def _collect_restarts(self) -> list[Event]:
        events: list[Event] = []
        for name, restart in list(self._restarts.items()):
            if not restart.done():
                continue
            del self._restarts[name]
            try:
                events.append(restart.result())
                self._warm_spares()
            except Exception as err:  # whatever ended the thread; it becomes an event
                events.append(Failed(name, 0, err))
        return events

    def _collect_evaluations(self) -> list[Event]:
        if not self._evaluations:
            return []
        refs = list(self._evaluations)
        ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        events: list[Event] = []
        for ref in ready:
            pair = self._evaluations.pop(ref)
            try:
                events.append(Evaluated(ray.get(ref)))
            except Exception as err:  # whatever the remote code raised; it becomes an event
                died = isinstance(err, RayActorError)
                if died:
                    self._evaluator = None  # the next evaluation makes another
                cause = root_cause(err)
                events.append(Evaluated(None, cause, died, _lost_of(pair, cause)))
        return events

    @property
    def evaluations_running(self) -> int:
        """Evaluations that were started and have not come back."""
        return len(self._evaluations)

    def late_beats(self) -> list[Failed]:
        """Ranks that are dead, or whose heartbeat is overdue."""
        return [late for group in list(self._groups.values()) for late in group.late_beats()]

    def stop(self) -> None:
        """Kills every actor and waits until the local ones are gone."""
        self._stopping = True
        self._restarter.shutdown(wait=False, cancel_futures=True)
        wait(self._restarts.values(), timeout=END_RESTARTS_S)
        self._resize_thread.shutdown(cancel_futures=True)
        self._launcher.end_all()
        self._groups, self._restarts = {}, {}
        self._evaluations, self._evaluator = {}, None


def _nodes_of(group: RankGroup) -> set[str]:
    return {where.node_id for where in group.locations}


def _lost_of(pair: tuple[Version, Version], cause: BaseException) -> tuple[str, ...]:
    """Groups whose snapshots are no longer in the object store, where that is the cause of a
    failure; both groups where Ray does not name the object.
    """
    if type(cause).__name__ not in LOST:
        return ()
    lost = getattr(cause, "object_ref_hex", None)
    named = [v.group for v in pair if lost in {ref.hex() for ref in v.bucket_refs}]
    return tuple(named or (version.group for version in pair))


def _is_alive(node_ids: set[str]) -> bool:
    """Whether all these nodes are alive."""
    return node_ids <= {node["NodeID"] for node in ray.nodes() if node["Alive"]}
