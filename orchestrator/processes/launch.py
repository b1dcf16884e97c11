"""Starts a group's processes and ends them: placed, started, joined, restored; spares kept warm.

Everything here waits, each wait with a deadline, so it is called at a run's start or on a thread of
`ray_cluster`. Owns every actor of the run, the evaluator too, and its process id, so that none is
left behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.settings.run import EVALUATOR, RunSpec
from actors.wire import Location
from orchestrator.errors import InterruptedRunError, as_group_error
from orchestrator.loop.exchange import GroupCheckpoint
from orchestrator.loop.resize_rules import group_sizes, with_sizes
from orchestrator.nodes.placement import Seats, bundle, evaluator_bundle
from orchestrator.processes.late_start import late_start
from orchestrator.processes.local_process import is_actor, is_gone, is_stopped, kill
from orchestrator.processes.rank_group import RankGroup, Waiting
from orchestrator.processes.ray_actors import RankActor, RemoteEvaluator
from orchestrator.processes.seating import Seating
from orchestrator.settings.config import Config

POLL_S = 0.5  # how late a stop is noticed while starting
ASKED_S = 5.0  # for a process to end as Ray asks it to; Ray reports one killed earlier as lost


@dataclass
class _Process:
    """An actor of this run.

    Attributes:
        actor: its handle.
        rank: its group and rank.
        location_ref: of its `Location`, which is there as soon as the process is.
        local_pid: its process id, where that is on this machine and known.
    """

    actor: ActorHandle
    rank: tuple[str, int]
    location_ref: ObjectRef | None = None
    local_pid: int | None = None


class Launcher:
    """Makes and ends the processes of both groups and the evaluator's.

    Args:
        config: the run.
        tokenizer_json: the run's tokenizer.
        seats: bundles as `placement.bundles` orders them.
    """

    def __init__(self, config: Config, tokenizer_json: str, seats: Seats) -> None:
        self._config = config  # of the run as it began
        self._sizes = group_sizes(config)  # of the groups now; a resize sets its group's one
        self._tokenizer_json = tokenizer_json
        self.seating = Seating(config, seats)
        self._processes: dict[ActorHandle, _Process] = {}
        # By rank, the actor and the ref of its `warm`.
        self._spares: dict[tuple[str, int], tuple[ActorHandle, ObjectRef]] = {}
        self._devices: dict[tuple[str, int], str] = {}  # visible GPUs of each rank's bundle

    @property
    def spec(self) -> RunSpec:
        """The settings of the run that a trainer's process gets."""
        return self._spec_with({})

    def _spec_with(self, sizes: Mapping[str, int]) -> RunSpec:
        sizes = {**self._sizes, **sizes}
        same = sizes == group_sizes(self._config)
        return (self._config if same else with_sizes(self._config, sizes)).run_spec

    def size(self, name: str) -> int:
        """Workers of a group."""
        return self._sizes[name]

    def set_size(self, name: str, num: int) -> None:
        """From now on the group is made with so many workers. Called by a resize, of which each
        group may have one at the same time, on a thread of its own.
        """
        self._sizes[name] = num

    def options(self, name: str, rank: int, resources: Mapping[str, float]) -> dict[str, Any]:
        """Ray's options of an actor in its own bundle."""
        group, index = self.seating.of(name, rank)
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)
        return {
            "num_cpus": resources.get("CPU", 0.0),
            "num_gpus": resources.get("GPU", 0.0),
            "scheduling_strategy": strategy,
        }

    def make(self, names: Iterable[str], stop: Callable[[], str | None]) -> dict[str, RankGroup]:
        """Groups whose processes have started and have built nothing yet.

        Args:
            names: of the groups.
            stop: asked twice a second; a reason ends the wait.

        Raises: nothing of the groups is left then.
            InterruptedRunError: a stop was requested meanwhile.
            GroupFailedError: a rank has no process within `deadlines.start_s`.
        """
        deadline = time.monotonic() + self._config.deadlines.start_s
        groups: dict[str, RankGroup] = {}
        location_refs: dict[ObjectRef, tuple[str, int]] = {}
        made: list[ActorHandle] = []
        try:
            for name in names:
                num_before = len(made)
                for rank in range(self.size(name)):
                    made.append(self._spare(name, rank) or self._actor(name, rank))
                    location_refs[self._location_ref(made[-1])] = name, rank
                actors = made[num_before:]
                groups[name] = RankGroup(name, actors, self._config.deadlines.heartbeat_s)
            located = self.await_all(location_refs, deadline, "has no process yet", stop)
            for group in groups.values():
                mine = [where for where in located.values() if where.group == group.name]
                group.locations = sorted(mine, key=lambda where: where.rank)
                for actor, where in zip(group.actors, group.locations, strict=True):
                    self._note_location(actor, where)
        except BaseException:  # Ctrl-C, too: nothing may be left behind
            self.end(made)
            raise
        return groups

    def _location_ref(self, actor: ActorHandle) -> ObjectRef:
        """The ref of an actor's `Location`, which is there as soon as its process is."""
        ref = self._processes[actor].location_ref = actor.locate.remote()
        return ref

    def _note_location(self, actor: ActorHandle, where: Location) -> None:
        """Remembers where an actor's process is."""
        self._processes[actor].local_pid = _local_pid(where)
        self._devices.setdefault((where.group, where.rank), where.visible_devices)

    def make_added(
        self, sizes: Mapping[str, int], stop: Callable[[], str | None]
    ) -> dict[str, list[tuple[ActorHandle, Location]]]:
        """The ranks that a resize to these sizes adds, with their layers built.

        Raises: as `begin`; then nothing is left of them.
        """
        deadline = time.monotonic() + self._config.deadlines.start_s
        spec = self._spec_with(sizes)
        made: dict[str, list[ActorHandle]] = {name: [] for name in sizes}
        try:
            for name, num in sizes.items():
                for rank in range(self.size(name), num):
                    made[name].append(self._actor(name, rank, spec=spec))
            found: dict[str, list[tuple[ActorHandle, Location]]] = {}
            for name, actors in made.items():
                ranks = {self._location_ref(a): (name, self.size(name) + i)
                         for i, a in enumerate(actors)}  # fmt: skip
                located = self.await_all(ranks, deadline, "has no process yet", stop)
                found[name] = [(a, located[ref]) for a, ref in zip(actors, ranks, strict=True)]
                for actor, where in found[name]:
                    self._note_location(actor, where)
            starting = {actor.start.remote(0): (name, where.rank)
                        for name, there in found.items() for actor, where in there}  # fmt: skip
            self.await_all(starting, deadline, "was not ready", stop)
        except BaseException:  # Ctrl-C, too: nothing may be left behind
            self.end(actor for actors in made.values() for actor in actors)
            raise
        return found

    def regroup(
        self,
        group: RankGroup,
        incarnation: int,
        saved: GroupCheckpoint,
        stop: Callable[[], str | None],
    ) -> None:
        """Joins ranks that belonged to groups of other sizes into one group, at a checkpoint.

        Raises: as `begin`.
        """
        deadline = time.monotonic() + self._config.deadlines.start_s

        def await_all(waiting: Waiting, what: str) -> dict[ObjectRef, Any]:
            return self.await_all(waiting, deadline, what, stop)

        regrouping = group.call_all("regroup", len(group.actors), incarnation)
        described = await_all(regrouping, "did not leave its old group")
        group.descriptions = sorted(described.values(), key=lambda d: d.rank)
        group.meet(await_all, compare=False)
        group.restore(saved, await_all)

    def forget(self, name: str) -> None:
        """Releases the bundles, GPU assignments and warm spares of ranks that a resize removed."""
        removed = [key for key in (*self._spares, *self._devices)
                if key[0] == name and key[1] >= self.size(name)]  # fmt: skip
        spares = [self._spares.pop(key)[0] for key in removed if key in self._spares]
        self.end(spares)
        for key in removed:
            self._devices.pop(key, None)
        self.seating.remove(name, self.size(name))

    def begin(
        self,
        groups: Iterable[RankGroup],
        incarnation: int,
        checkpoints: Mapping[str, GroupCheckpoint],
        stop: Callable[[], str | None],
    ) -> None:
        """Builds the layers, lets each group's ranks join, and restores a checkpoint.

        Args:
            groups: as `make` returned them.
            incarnation: of their processes.
            checkpoints: by group, where there is one.
            stop: as in `make`.

        Raises:
            InterruptedRunError: a stop was requested meanwhile.
            ConfigError: what a rank found wrong with the config.
            CheckpointError: a checkpoint is not this run's, or its bytes were altered.
            GroupFailedError: a rank died or was not ready within `deadlines.start_s`.
        """
        deadline = time.monotonic() + self._config.deadlines.start_s

        def await_all(waiting: Waiting, what: str) -> dict[ObjectRef, Any]:
            return self.await_all(waiting, deadline, what, stop)

        groups = list(groups)
        starting = {
            ref: who for g in groups for ref, who in g.call_all("start", incarnation).items()
        }
        described = await_all(starting, "was not ready")
        for group in groups:
            mine = [d for d in described.values() if d.group == group.name]
            group.descriptions = sorted(mine, key=lambda d: d.rank)
            group.meet(await_all)
            if (saved := checkpoints.get(group.name)) is not None:
                group.restore(saved, await_all)

    def publish_first(
        self, group: RankGroup, number: int, exact: bool, stop: Callable[[], str | None]
    ) -> None:
        """Lets a group publish what it begins with, as that version."""
        deadline = time.monotonic() + self._config.deadlines.start_s
        group.publish_first(
            number, exact, lambda refs, what: self.await_all(refs, deadline, what, stop)
        )

    def warm(self, name: str) -> None:
        """Starts the group's missing spares; returns at once."""
        for rank in range(self.size(name)):
            if (name, rank) not in self._spares:
                actor = self._actor(name, rank, spare=True)
                self._location_ref(actor)
                self._spares[name, rank] = actor, actor.warm.remote()

    def evaluator(self) -> ActorHandle:
        """Starts the evaluator's process; returns at once."""
        wanted = evaluator_bundle(self._config)
        options = self.options(EVALUATOR, 0, wanted) if wanted else {"num_cpus": 0}
        actor = RemoteEvaluator.options(**options).remote(self.spec, self._tokenizer_json)
        self._processes[actor] = _Process(actor, (EVALUATOR, 0))
        self._location_ref(actor)
        return actor

    def end(self, actors: Iterable[ActorHandle]) -> None:
        """Kills processes and waits until those on this machine have ended. One that is just
        starting is waited for first, since its process id is not known before.
        """
        popped = [self._processes.pop(actor, None) for actor in actors]
        ending = [process for process in popped if process is not None]
        deadline = time.monotonic() + self._config.deadlines.stop_s
        pids = [self._pid_of(process, deadline) for process in ending]
        for process in ending:
            ray.kill(process.actor, no_restart=True)
        asked = time.monotonic() + ASKED_S
        deadline = time.monotonic() + self._config.deadlines.stop_s
        for pid in pids:
            if pid is None or not is_actor(pid):
                continue
            if is_stopped(pid) or not is_gone(pid, asked):
                kill(pid)
                is_gone(pid, deadline)

    def _pid_of(self, process: _Process, deadline: float) -> int | None:
        """The process id, where that is on this machine and known in time."""
        if process.local_pid is not None or process.location_ref is None:
            return process.local_pid
        ready, _ = ray.wait([process.location_ref], timeout=max(0.0, deadline - time.monotonic()))
        try:
            return _local_pid(ray.get(process.location_ref)) if ready else None
        except RayError:  # it died before it could answer
            return None

    def end_all(self) -> None:
        """Ends every process, the spares and the evaluator too, and releases the bundles that
        resizes added.
        """
        self._spares.clear()
        self.end(list(self._processes))
        self.seating.close()

    def await_all(
        self, waiting: Waiting, deadline: float, what: str, stop: Callable[[], str | None]
    ) -> dict[ObjectRef, Any]:
        """Results by ref; the first failure of a rank is raised."""
        results: dict[ObjectRef, Any] = {}
        pending = list(waiting)
        while pending:
            if reason := stop():
                raise InterruptedRunError(reason)
            ready, pending = ray.wait(
                pending, timeout=max(0.0, min(POLL_S, deadline - time.monotonic()))
            )
            for ref in ready:
                group, rank = waiting[ref]
                try:
                    results[ref] = ray.get(ref)
                except Exception as err:  # whatever the remote code raised; its cause is kept
                    raise as_group_error(group, rank, err, "while starting") from err
            if pending and time.monotonic() > deadline:
                late, after_s = [waiting[ref] for ref in pending], self._config.deadlines.start_s
                spares = {actor for actor, _ in list(self._spares.values())}  # of the same ranks
                started = {
                    process.rank: (process.actor, process.location_ref)
                    for process in list(self._processes.values())  # other threads add some
                    if process.actor not in spares
                }
                raise late_start(late, started, what, after_s)
        return results

    def _actor(
        self, name: str, rank: int, spare: bool = False, spec: RunSpec | None = None
    ) -> ActorHandle:
        spec = spec or self.spec
        workers = spec.group(name).workers
        options = self.options(name, rank, {} if spare else bundle(workers))
        actor = RankActor.options(**options).remote(
            spec, self._tokenizer_json, self._config.name, name, rank, workers.num_workers
        )
        self._processes[actor] = _Process(actor, (name, rank))
        return actor

    def _spare(self, name: str, rank: int) -> ActorHandle | None:
        """The rank's spare, where one has finished its imports; None where there is none."""
        actor, warm_ref = self._spares.pop((name, rank), (None, None))
        if actor is None:
            return None
        ready, _ = ray.wait([warm_ref], timeout=0)
        try:
            if ready:
                ray.get(warm_ref)
                actor.take_over.remote(self._devices.get((name, rank), ""), self.size(name))
                return actor
        except RayError:  # it died as a spare and is not used
            pass
        self.end([actor])
        return None


def _local_pid(where: Location) -> int | None:
    here = where.node_id == ray.get_runtime_context().get_node_id()
    return where.pid if here else None


def locations_of(groups: Mapping[str, RankGroup]) -> dict[str, list[Location]]:
    """Where every rank's process runs."""
    return {name: group.locations for name, group in groups.items()}
