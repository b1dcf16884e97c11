"""Both groups and the evaluator as the coordinator sees them: started, asked, polled, stopped.

A group is returned started or not at all. What Ray raises becomes `Failed` events here; whose
failure it is follows from which group's call it was, never from the exception's type. Owns every
actor handle; no call blocks for long but `start`, `export` and `stop`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import psutil
import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.snapshot_layout import num_buckets
from actors.spec import GROUPS, RunSpec
from actors.wire import Description, Order, Report
from orchestrator.config import Config
from orchestrator.errors import (
    GroupFailedError,
    InterruptedRunError,
    as_group_error,
    root_cause,
)
from orchestrator.events import Committed, Evaluated, Event, Failed
from orchestrator.exchange import Version
from orchestrator.groups import EvaluatorActor, RankActor
from orchestrator.placement import EVALUATOR, bundle, bundle_index, evaluator_bundle


@dataclass
class _Call:
    """One interval in flight: each rank's returned refs."""

    interval: int
    refs: list[list[Any]]


@dataclass
class Group:
    """One group's actors and what they are doing."""

    name: str
    actors: list[Any]
    descriptions: list[Description]
    first_version: Version
    incarnation: int = 0
    call: _Call | None = None
    beat_refs: dict[Any, int] = field(default_factory=dict)
    beats: dict[int, float] = field(
        default_factory=dict
    )  # rank -> time of the last beat that came back


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
        self._groups: dict[str, Group] = {}
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

    def start(self, stop_requested: Callable[[], str | None]) -> dict[str, list[Description]]:
        """Starts both groups at once and publishes their version 0; all ranks are ready when it
        returns.

        Args:
            stop_requested: asked twice a second; a reason ends the wait.

        Raises:
            InterruptedRunError: a stop was requested meanwhile.
            ConfigError: what a rank found wrong with the config.
            GroupFailedError: a rank died or was not ready within `deadlines.start_s`.
        """
        self._stop_requested = stop_requested
        deadline = time.monotonic() + self._config.deadlines.start_s
        starting: dict[Any, tuple[str, int]] = {}
        actors: dict[str, list[Any]] = {}
        for name in GROUPS:
            workers = self._config.group(name).workers
            actors[name] = []
            for rank in range(workers.num_workers):
                options = self._options(name, rank, bundle(workers))
                actor = RankActor.options(**options).remote(  # type: ignore[attr-defined]
                    self._spec,
                    self._tokenizer_json,
                    self._config.name,
                    name,
                    rank,
                    workers.num_workers,
                )
                self._actors.append((actor, None))
                actors[name].append(actor)
                starting[actor.start.remote(0)] = (name, rank)
        described = self._await_all(starting, deadline, "was not ready")
        pids = {(d.group, d.rank): d.pid for d in described.values()}
        self._actors = [
            (a, pids[name, rank]) for name in GROUPS for rank, a in enumerate(actors[name])
        ]
        for name in GROUPS:
            descriptions = [d for d in described.values() if d.group == name]
            version = self._publish_first(
                name, actors[name], descriptions[0].snapshot_bytes, deadline
            )
            now = time.monotonic()
            beats = dict.fromkeys(range(len(actors[name])), now)
            self._groups[name] = Group(name, actors[name], descriptions, version, beats=beats)
        return {name: group.descriptions for name, group in self._groups.items()}

    def first_version(self, group: str) -> Version:
        """The group's version 0."""
        return self._groups[group].first_version

    def _publish_first(
        self, name: str, actors: list[Any], snapshot_bytes: int, deadline: float
    ) -> Version:
        returns = 1 + num_buckets(snapshot_bytes, len(actors))
        refs = [actor.publish.options(num_returns=returns).remote() for actor in actors]
        waiting = {row[0]: (name, rank) for rank, row in enumerate(refs)}
        headers = self._await_all(waiting, deadline, "did not publish version 0")
        ordered = tuple(headers[row[0]] for row in refs)
        return Version(name, 0, ordered, tuple(ref for row in refs for ref in row[1:]))

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
        mine = self._groups[group]
        assert mine.call is None, f"{group}: interval {order.interval} while {mine.call} runs"
        returns = 2 + num_buckets(mine.descriptions[0].snapshot_bytes, len(mine.actors))
        refs = [
            actor.interval.options(num_returns=returns).remote(
                order, peer.headers, *peer.bucket_refs
            )
            for actor in mine.actors
        ]
        mine.call = _Call(order.interval, refs)

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
        reports = {
            row[0]: (group.name, rank)
            for group in self._groups.values()
            if group.call
            for rank, row in enumerate(group.call.refs)
        }
        waiting = [*self._unfinished(reports), *self._evaluations]
        if waiting:
            ray.wait(waiting, timeout=timeout_s)
        else:
            time.sleep(timeout_s)
        events: list[Event] = []
        for group in self._groups.values():
            events.extend(self._collect(group))
        events.extend(self._collect_evaluations())
        return sorted(events, key=lambda e: not isinstance(e, Failed))

    @staticmethod
    def _unfinished(reports: Mapping[Any, tuple[str, int]]) -> list[Any]:
        """Report refs that are not ready yet, so that one early rank doesn't make the wait spin."""
        refs = list(reports)
        if not refs:
            return []
        _, pending = ray.wait(refs, num_returns=len(refs), timeout=0)
        complete = {reports[r][0] for r in refs} - {reports[r][0] for r in pending}
        return refs if complete else pending

    def _collect(self, group: Group) -> list[Event]:
        if group.call is None:
            return []
        refs = [row[0] for row in group.call.refs]
        ready, pending = ray.wait(refs, num_returns=len(refs), timeout=0)
        reports: dict[int, Report] = {}
        for ref in ready:
            rank = refs.index(ref)
            try:
                reports[rank] = ray.get(ref)
            except Exception as err:
                return [
                    Failed(
                        group.name,
                        rank,
                        as_group_error(group.name, rank, err, f"in interval {group.call.interval}"),
                    )
                ]
        if pending:
            return []
        rows, interval = group.call.refs, group.call.interval
        headers = tuple(ray.get([row[1] for row in rows]))
        version = Version(
            group.name, interval, headers, tuple(ref for row in rows for ref in row[2:])
        )
        group.call = None
        return [
            Committed(group.name, interval, tuple(reports[r] for r in range(len(rows))), version)
        ]

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
        """Asks every rank for a heartbeat, and names those whose last one is older than the
        deadline.
        """
        now, late = time.monotonic(), []
        for group in self._groups.values():
            if group.beat_refs:
                ready, _ = ray.wait(
                    list(group.beat_refs), num_returns=len(group.beat_refs), timeout=0
                )
                for ref in ready:
                    group.beats[group.beat_refs.pop(ref)] = now
            asked = set(group.beat_refs.values())
            for rank, actor in enumerate(group.actors):
                if rank not in asked:
                    group.beat_refs[actor.beat.remote()] = rank
            for rank, at in group.beats.items():
                if now - at > self._config.deadlines.heartbeat_s:
                    interval = group.call.interval if group.call else 0
                    late.append(
                        Failed(
                            group.name,
                            rank,
                            GroupFailedError(
                                f"{group.name} rank {rank}: no heartbeat for {now - at:.0f} s in "
                                f"interval {interval} "
                                f"(deadline {self._config.deadlines.heartbeat_s:g} s); its "
                                "process hangs or its node is "
                                "gone; raise deadlines.heartbeat_s if the machine is overloaded"
                            ),
                        )
                    )
        return late

    def stop(self) -> None:
        """Kills every actor and waits until the local ones are gone."""
        for actor, _ in self._actors:
            ray.kill(actor, no_restart=True)
        deadline = time.monotonic() + self._config.deadlines.stop_s
        for _, pid in self._actors:
            while pid is not None and _is_rank(pid) and time.monotonic() < deadline:
                time.sleep(0.05)
        self._actors, self._groups, self._evaluations, self._evaluator = [], {}, [], None


def _is_rank(pid: int) -> bool:
    """True while `pid` is one of our actors' processes on this machine."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and "RankActor" in " ".join(
            process.cmdline()
        )
    except psutil.Error:
        return False
