"""Both groups and the evaluator as the coordinator sees them: started, asked, polled, stopped.

A group is returned started or not at all. What Ray raises becomes `Failed` events here; whose
failure it is follows from which group's call it was, never from the exception's type. Owns every
actor handle; no call blocks for long but `start`, `export` and `stop`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psutil
import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.spec import GROUPS, RunSpec
from actors.wire import Description, Location, Order
from orchestrator.config import Config
from orchestrator.errors import (
    GroupFailedError,
    InterruptedRunError,
    as_group_error,
    root_cause,
)
from orchestrator.events import Evaluated, Event, Failed
from orchestrator.exchange import GroupCheckpoint, Version
from orchestrator.groups import EvaluatorActor, RankActor
from orchestrator.placement import EVALUATOR, bundle, bundle_index, evaluator_bundle
from orchestrator.rank_group import AwaitAll, RankGroup, Waiting


class Cluster:
    """Both groups and the evaluator on Ray, behind calls that never block for long.

    Args:
        config: the run.
        tokenizer_json: the run's tokenizer.
        placement: bundles as `placement.bundles` orders them.
    """

    def __init__(self, config: Config, tokenizer_json: str, placement: PlacementGroup) -> None:
        self._config = config
        self._tokenizer_json = tokenizer_json
        self._placement = placement
        self._groups: dict[str, RankGroup] = {}
        self._actors: list[tuple[Any, int | None]] = []  # with the pid where it is known
        self._evaluator: Any = None
        self._evaluations: list[Any] = []
        self._stop_requested: Callable[[], str | None] = lambda: None

    def _options(self, name: str, rank: int, resources: Mapping[str, float]) -> dict[str, Any]:
        strategy = PlacementGroupSchedulingStrategy(
            self._placement, placement_group_bundle_index=bundle_index(self._config, name, rank)
        )
        return {
            "num_cpus": resources.get("CPU", 0.0),
            "num_gpus": resources.get("GPU", 0.0),
            "scheduling_strategy": strategy if resources else "DEFAULT",
        }

    @property
    def _spec(self) -> RunSpec:
        return RunSpec.model_validate(
            {name: getattr(self._config, name) for name in RunSpec.model_fields},
            by_name=True,
            by_alias=True,
        )

    def start(
        self,
        stop_requested: Callable[[], str | None],
        resume: Mapping[str, GroupCheckpoint] | None = None,
    ) -> dict[str, list[Description]]:
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
        self._stop_requested = stop_requested
        deadline = time.monotonic() + self._config.deadlines.start_s

        def await_all(waiting: Waiting, what: str) -> dict[Any, Any]:
            return self._await_all(waiting, deadline, what)

        self._place(await_all)
        groups = self._groups.values()
        starting = {ref: who for g in groups for ref, who in g.call_all("start", 0).items()}
        described = await_all(starting, "was not ready")
        for group in groups:
            mine = [d for d in described.values() if d.group == group.name]
            group.descriptions = sorted(mine, key=lambda d: d.rank)
            group.meet(await_all)
            if resume is not None:
                group.restore(resume[group.name], await_all)
            number = resume[group.name].interval if resume is not None else 0
            group.publish_first(number, number >= self._config.intervals, await_all)
        return {group.name: group.descriptions for group in groups}

    def locate(self, stop_requested: Callable[[], str | None]) -> dict[str, list[Location]]:
        """Places every rank's process and says where; nothing is built yet.

        Raises: as `start`.
        """
        self._stop_requested = stop_requested
        deadline = time.monotonic() + self._config.deadlines.start_s
        self._place(lambda waiting, what: self._await_all(waiting, deadline, what))
        return {group.name: group.locations for group in self._groups.values()}

    def _place(self, await_all: AwaitAll) -> None:
        locating: dict[Any, tuple[str, int]] = {}
        for name in GROUPS:
            workers = self._config.group(name).workers
            actors = []
            for rank in range(workers.num_workers):
                options = self._options(name, rank, bundle(workers))
                actors.append(
                    RankActor.options(**options).remote(  # type: ignore[attr-defined]
                        self._spec,
                        self._tokenizer_json,
                        self._config.name,
                        name,
                        rank,
                        workers.num_workers,
                    )
                )
                self._actors.append((actors[-1], None))
            group = RankGroup(name, actors, self._config.deadlines.heartbeat_s)
            self._groups[name] = group
            locating |= group.call_all("locate")
        located = await_all(locating, "has no process yet")
        for group in self._groups.values():
            mine = [where for where in located.values() if where.group == group.name]
            group.locations = sorted(mine, key=lambda where: where.rank)
        self._actors = [
            (actor, where.pid)
            for group in self._groups.values()
            for actor, where in zip(group.actors, group.locations, strict=True)
        ]

    def first_version(self, group: str) -> Version:
        """The version that the group began with."""
        version = self._groups[group].first_version
        assert version is not None, f"{group}: not started"
        return version

    def _await_all(
        self, waiting: Mapping[Any, tuple[str, int]], deadline: float, what: str
    ) -> dict[Any, Any]:
        results: dict[Any, Any] = {}
        pending = list(waiting)
        while pending:
            if reason := self._stop_requested():
                raise InterruptedRunError(reason)
            ready, pending = ray.wait(
                pending, timeout=max(0.0, min(0.5, deadline - time.monotonic()))
            )
            for ref in ready:
                group, rank = waiting[ref]
                try:
                    results[ref] = ray.get(ref)
                except Exception as err:
                    raise as_group_error(group, rank, err, "while starting") from err
            if pending and time.monotonic() > deadline:
                group, rank = waiting[pending[0]]
                raise GroupFailedError(
                    f"{group} rank {rank}: {what} after {self._config.deadlines.start_s:g} s; "
                    "raise deadlines.start_s, or look at the node's load"
                )
        return results

    def submit(self, group: str, order: Order, peer: Version) -> None:
        """Starts a group's next interval on a committed version of its peer."""
        self._groups[group].submit(order, peer)

    def evaluate(self, data: Version, memory: Version, final: bool) -> None:
        """Starts an evaluation of a committed pair; `poll` says when it is done."""
        if self._evaluator is None:
            resources = evaluator_bundle(self._config)
            options = self._options(EVALUATOR, 0, resources)
            self._evaluator = EvaluatorActor.options(**options).remote(  # type: ignore[attr-defined]
                self._spec, self._tokenizer_json
            )
            self._actors.append((self._evaluator, None))
        refs = (*data.bucket_refs, *memory.bucket_refs)
        self._evaluations.append(
            self._evaluator.evaluate.remote(
                data.headers, memory.headers, len(data.bucket_refs), final, *refs
            )
        )

    def export(self, directory: str) -> dict[str, str]:
        """Writes the exports of the pair last evaluated; returns the digests."""
        try:
            digests: dict[str, str] = ray.get(
                self._evaluator.export.remote(directory),
                timeout=self._config.deadlines.evaluation_s,
            )
        except Exception as err:
            raise GroupFailedError(
                f"evaluator: the export to {directory} failed: {root_cause(err)}"
            ) from err
        return digests

    def poll(self, timeout_s: float) -> list[Event]:
        """What happened, failures first; waits at most `timeout_s` for something."""
        waiting = list(self._evaluations)
        for group in self._groups.values():
            waiting.extend(_unfinished(group.report_refs))
        if waiting:
            ray.wait(waiting, timeout=timeout_s)
        else:
            time.sleep(timeout_s)
        events: list[Event] = []
        for group in self._groups.values():
            events.extend(group.collect())
        events.extend(self._collect_evaluations())
        return sorted(events, key=lambda e: not isinstance(e, Failed))

    def _collect_evaluations(self) -> list[Event]:
        if not self._evaluations:
            return []
        ready, self._evaluations = ray.wait(
            self._evaluations, num_returns=len(self._evaluations), timeout=0
        )
        events: list[Event] = []
        for ref in ready:
            try:
                events.append(Evaluated(ray.get(ref)))
            except Exception as err:
                events.append(Evaluated(None, root_cause(err)))
        return events

    @property
    def evaluations_running(self) -> int:
        """Evaluations that were started and have not come back."""
        return len(self._evaluations)

    def late_beats(self) -> list[Failed]:
        """Ranks whose heartbeat is overdue."""
        return [late for group in self._groups.values() for late in group.late_beats()]

    def stop(self) -> None:
        """Kills every actor and waits until the local ones are gone."""
        for actor, _ in self._actors:
            ray.kill(actor, no_restart=True)
        deadline = time.monotonic() + self._config.deadlines.stop_s
        for _, pid in self._actors:
            while pid is not None and _is_rank(pid) and time.monotonic() < deadline:
                time.sleep(0.05)
        self._actors, self._groups, self._evaluations, self._evaluator = [], {}, [], None


def _unfinished(refs: Sequence[Any]) -> Sequence[Any]:
    """Of one interval's reports those that are out, so that an early rank doesn't make the wait
    spin; all of them where none is.
    """
    if not refs:
        return refs
    _, pending = ray.wait(list(refs), num_returns=len(refs), timeout=0)
    return pending or refs


def _is_rank(pid: int) -> bool:
    """True while `pid` is one of our actors' processes on this machine."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and "RankActor" in " ".join(
            process.cmdline()
        )
    except psutil.Error:
        return False
