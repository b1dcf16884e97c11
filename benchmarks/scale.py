"""What the driver costs per rank and interval, with no training in it.

    python -m benchmarks.scale [--json] [--ranks 2 8 32 128 512] [--intervals N] [--profile]

The driver is the real one: coordinator, rank groups, ring, journal, metrics and the Prometheus
exporter, on a real Ray. The ranks are not: each call to one goes to a thread of one of a few actor
processes, which answers at once with what a rank returns (report, header, buckets, every tenth time
a share of a checkpoint). Half of the ranks are the data group, half the memory group. Costs are CPU
times, so that the ranks' processes, which share the machine, are not counted.

    driver_ms_per_rank_interval   the coordinator's thread, Ray's calls in it included
    own_ms_per_rank_interval      of that, our code
    ray_ms_per_rank_interval      of that, inside submissions, ray.get and ray.wait
    process_ms_per_rank_interval  all threads of the driver's process, Ray's own among them
    wall_ms_per_interval          between two commits of a group; the fake ranks' work is in it
    buckets_per_version           objects that a version of this tiny snapshot is made of
    growth_exponent               slope of log(driver's cost of an interval) over log(ranks)
    growth_exponent_top           the same between the two largest sizes alone
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import ray

from actors.settings.run import DATA, GROUPS, RunSpec
from actors.snapshots.buckets import rank_buckets, stream_parts
from actors.wire import (
    CheckpointHeader,
    Evaluation,
    Header,
    Location,
    Order,
    RankDescription,
    Report,
)
from orchestrator.loop.command import Reply
from orchestrator.loop.coordinator import Coordinator
from orchestrator.loop.exchange import PairCheckpoint, Version
from orchestrator.loop.recovery import Failure
from orchestrator.loop.resize_rules import Resize
from orchestrator.nodes.placement import Seats
from orchestrator.processes.launch import Launcher
from orchestrator.processes.ray_cluster import RayCluster
from orchestrator.reporting.prometheus import Exporter
from orchestrator.run_dir.metrics import Metrics
from orchestrator.settings.config import Config, make_config

RANKS = (2, 8, 32, 128, 512)
INTERVALS, WARM_UP = 22, 2
SNAPSHOT_BYTES = 64 << 10
HOSTS, THREADS = 2, 16


@dataclass(frozen=True)
class Who:
    """Which rank a call is for."""

    group: str
    rank: int
    num_ranks: int


@ray.remote
class Host:
    """A process that answers for many ranks."""

    def locate(self, who: Who) -> Location:
        """Where this process runs."""
        node = ray.get_runtime_context().get_node_id()
        return Location(who.group, who.rank, os.getpid(), node, "127.0.0.1", (), "")

    def start(self, who: Who, incarnation: int) -> RankDescription:
        """Sizes of a tiny layer."""
        sizes = (SNAPSHOT_BYTES, SNAPSHOT_BYTES, 3 * SNAPSHOT_BYTES)
        return RankDescription(who.group, who.rank, incarnation, "cpu", 1, *sizes, "layout")

    def open_rendezvous(self, _who: Who) -> tuple[str, int]:
        """Nobody will call."""
        return "127.0.0.1", 1

    def join(self, _who: Who, _host: str, _port: int, _compare: bool) -> None:
        """Ranks that don't train have nothing to add up."""

    def publish(self, who: Who, _exact: bool) -> tuple[Any, ...]:
        """(header, *buckets) of version 0."""
        header, buckets = _published(who, 0, -1)
        return (header, *buckets)

    def interval(
        self, who: Who, order: Order, headers: Sequence[Header], *buckets: Any
    ) -> tuple[Any, ...]:
        """What a rank returns, of no work at all."""
        now, adopted = time.time(), sum(bucket.nbytes for bucket in buckets)
        header, out = _published(who, order.interval, headers[0].version)
        saved, parts = _saved(who, order.interval) if order.checkpoint else (None, [])
        report = Report(
            group=who.group,
            rank=who.rank,
            incarnation=order.incarnation,
            interval=order.interval,
            step=order.interval * order.num_steps,
            peer_version=headers[0].version,
            tokens=1000,
            adopt_s=0.001,
            step_s=0.01,
            publish_s=0.001,
            wall_s=0.012,
            started_at=now,
            first_step_at=now,
            metrics={"lr": 1e-3},
            shares={"own": 1.0, "help": 1.0, "loss": 1.0},
            costs_s={"forward": 0.01},
            agreement=0.5 if order.measure else None,
            adopted_bytes=adopted,
            published_bytes=sum(bucket.nbytes for bucket in out),
        )
        return (report, header, saved, *out, *parts)

    def beat(self, _who: Who) -> None:
        """It lives."""

    def evaluate(self, data_version: int, memory_version: int) -> Evaluation:
        """No figures."""
        return Evaluation(data_version, memory_version, {}, {}, {}, 0, 0, 0, (), 0.0)


def _published(who: Who, version: int, peer_version: int) -> tuple[Header, list[Any]]:
    bounds = rank_buckets(SNAPSHOT_BYTES, who.rank, who.num_ranks)
    header = Header(
        run="scale",
        group=who.group,
        rank=who.rank,
        num_ranks=who.num_ranks,
        incarnation=0,
        version=version,
        step=version,
        layout_hash="layout",
        dtype="stored",
        total_bytes=SNAPSHOT_BYTES,
        peer_version=peer_version,
        **_cut(bounds),
    )
    return header, _buckets(bounds)


def _saved(who: Who, interval: int) -> tuple[CheckpointHeader, list[Any]]:
    bounds = rank_buckets(
        3 * SNAPSHOT_BYTES, who.rank, who.num_ranks, stream_parts(3 * SNAPSHOT_BYTES)
    )
    header = CheckpointHeader(
        run="scale",
        group=who.group,
        rank=who.rank,
        num_ranks=who.num_ranks,
        interval=interval,
        step=interval,
        peer_version=interval - 1,
        layout=(("parameters", "uint8", 3 * SNAPSHOT_BYTES),),
        scalars="{}",
        **_cut(bounds),
    )
    return header, _buckets(bounds)


def _cut(bounds: Sequence[tuple[int, int]]) -> dict[str, Any]:
    return {
        "offsets": tuple(start for start, _ in bounds),
        "sizes": tuple(stop - start for start, stop in bounds),
        "checksums": tuple(2**63 + start for start, _ in bounds),
    }


def _buckets(bounds: Sequence[tuple[int, int]]) -> list[Any]:
    return [np.zeros(stop - start, np.uint8) for start, stop in bounds]


class RayTime:
    """CPU seconds of this thread inside Ray's calls."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, with its time added."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            began = time.thread_time()
            try:
                return call(*args, **kwargs)
            finally:
                self.seconds += time.thread_time() - began

        return wrapped

    def module(self) -> SimpleNamespace:
        """What the driver's modules use of Ray in an interval, timed."""
        return SimpleNamespace(get=self.timed(ray.get), wait=self.timed(ray.wait))


class FakeRank:
    """Looks like a rank's actor handle and passes each call to its host."""

    def __init__(self, host: Any, who: Who, ray_time: RayTime) -> None:
        self._host, self._who, self._time = host, who, ray_time

    def __getattr__(self, name: str) -> FakeMethod:
        if name.startswith("_"):
            raise AttributeError(name)
        return FakeMethod(getattr(self._host, name), self._who, self._time)


@dataclass(frozen=True)
class FakeMethod:
    """One method of a rank, as Ray's handles have it."""

    method: Any
    who: Who
    ray_time: RayTime

    def options(self, **options: Any) -> FakeMethod:
        """The same with Ray's options."""
        made = self.ray_time.timed(self.method.options)(**options)
        return FakeMethod(made, self.who, self.ray_time)

    def remote(self, *args: Any) -> Any:
        """Submits the call."""
        return self.ray_time.timed(self.method.remote)(self.who, *args)


class FakeLauncher(Launcher):
    """Starts no process: ranks are threads of the hosts."""

    def __init__(self, config: Config, hosts: Sequence[Any], ray_time: RayTime) -> None:
        super().__init__(config, "", Seats(None))
        self._hosts, self._time = hosts, ray_time

    def _actor(self, name: str, rank: int, spare: bool = False, spec: RunSpec | None = None) -> Any:
        num_ranks = self._config.group(name).workers.num_workers
        actor = FakeRank(self._hosts[rank % HOSTS], Who(name, rank, num_ranks), self._time)
        self._processes[actor] = SimpleNamespace(actor=actor, local_pid=None)  # type: ignore[assignment]
        return actor


class FakeCluster(RayCluster):
    """The real cluster over fake ranks."""

    def __init__(self, config: Config, hosts: Sequence[Any], ray_time: RayTime) -> None:
        super().__init__(config, "", Seats(None))
        self._hosts = hosts
        self._launcher = FakeLauncher(config, hosts, ray_time)

    def evaluate(self, data: Version, memory: Version, final: bool) -> None:
        """An evaluation that takes no time."""
        ref = self._hosts[0].evaluate.remote(data.number, memory.number)
        self._evaluations[ref] = data, memory


@dataclass
class Meter:
    """The listener of a run: real metrics, and the clocks after each commit.

    Attributes:
        marks: (thread, process, Ray's calls, wall) seconds by number of commits of both groups.
    """

    metrics: Metrics
    exporter: Exporter
    ray_time: RayTime
    marks: list[tuple[float, float, float, float]] = field(default_factory=list)

    def on_start(self, descriptions: Mapping[str, Sequence[RankDescription]]) -> None:
        """Nothing to do."""

    def on_interval(self, reports: Sequence[Report], wait_s: float, lag: int) -> None:
        """Takes the times."""
        self.exporter.interval(reports, self.metrics.add_interval(reports, wait_s, lag))
        clocks = (time.thread_time(), time.process_time(), self.ray_time.seconds)
        self.marks.append((*clocks, time.perf_counter()))

    def on_evaluation(self, evaluation: Evaluation, final: bool) -> None:
        """Nothing to do."""

    def on_checkpoint(self, pair: PairCheckpoint) -> None:
        """What a checkpoint's thread would be given."""
        self.metrics.until(pair.interval)

    def on_failure(self, failure: Failure) -> None:
        """Raises: RuntimeError, since fakes don't die."""
        raise RuntimeError(failure.cause)

    def on_recovery(self, group: str, restart_s: float, replay_s: float) -> None:
        """Nothing to do."""

    def on_drain(self, interval: int, reason: str) -> None:
        """Nothing to do."""

    def on_resize(self, resize: Resize) -> None:
        """Nothing to do."""

    def on_reply(self, reply: Reply) -> None:
        """Nothing to do."""

    def on_warning(self, message: str) -> None:
        """Nothing to do."""


def scale_config(num_ranks: int, intervals: int) -> Config:
    """A run of so many ranks, half of them in each group."""
    group = {"workers": {"num_workers": num_ranks // 2}, "batch_size": num_ranks}
    return make_config(
        {
            "name": "scale",
            "intervals": intervals,
            "corpus": {"paths": ["none.txt"]},
            "data": group,
            "memory": group,
            "evaluation": {"every": 0},
            "exchange": {"catchup_intervals": 1},
        }
    )


def measure(num_ranks: int, intervals: int, profile: bool = False) -> dict[str, Any]:
    """One size: the driver's costs per rank and interval."""
    config, ray_time = scale_config(num_ranks, intervals), RayTime()
    hosts = [Host.options(num_cpus=0, max_concurrency=THREADS).remote() for _ in range(HOSTS)]  # type: ignore[attr-defined]
    cluster = FakeCluster(config, hosts, ray_time)
    exporter = Exporter(config, print)
    meter = Meter(Metrics(), exporter, ray_time)
    cluster.start(lambda: None)
    coordinator = Coordinator(config, cluster, meter, lambda: None)
    timed = ray_time.module()
    profiler = cProfile.Profile(time.thread_time)
    with (
        patch("orchestrator.processes.rank_group.ray", timed),
        patch("orchestrator.processes.ray_cluster.ray", timed),
    ):
        if profile:
            profiler.runcall(coordinator.run)
            pstats.Stats(profiler).sort_stats("tottime").print_stats(25)
        else:
            coordinator.run()
    exporter.close()
    for host in hosts:
        ray.kill(host)
    buckets = len(coordinator.ring.newest(DATA).bucket_refs)
    return figures(num_ranks, meter.marks, buckets)


def figures(
    num_ranks: int, marks: Sequence[tuple[float, float, float, float]], buckets: int
) -> dict[str, Any]:
    """A size's costs, from the clocks after each group's commits, without the first of them."""
    commits = len(marks) - 1 - WARM_UP * len(GROUPS)
    first, last = marks[WARM_UP * len(GROUPS)], marks[-1]
    thread_s, process_s, ray_s, wall_s = (b - a for a, b in zip(first, last, strict=True))
    calls = commits * num_ranks / len(GROUPS)  # each commit is one group's
    return {
        "ranks": num_ranks,
        "driver_ms_per_rank_interval": 1e3 * thread_s / calls,
        "own_ms_per_rank_interval": 1e3 * (thread_s - ray_s) / calls,
        "ray_ms_per_rank_interval": 1e3 * ray_s / calls,
        "process_ms_per_rank_interval": 1e3 * process_s / calls,
        "wall_ms_per_interval": 1e3 * wall_s / commits * len(GROUPS),
        "buckets_per_version": buckets,
    }


def growth_exponent(sizes: Sequence[Mapping[str, float]]) -> float:
    """Slope of log cost over log ranks; the cost is that of a whole interval of both groups."""
    ranks = [size["ranks"] for size in sizes]
    costs = [size["ranks"] * size["driver_ms_per_rank_interval"] for size in sizes]
    return float(np.polyfit(np.log(ranks), np.log(costs), 1)[0])


def run(ranks: Sequence[int], intervals: int, profile: bool = False) -> dict[str, Any]:
    """All sizes on a Ray of its own, the smallest once before, unmeasured."""
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    try:
        measure(ranks[0], intervals)
        sizes = [measure(num, intervals, profile) for num in ranks]
    finally:
        ray.shutdown()
    exponents = {}
    if len(sizes) > 1:
        exponents["growth_exponent"] = growth_exponent(sizes)
        exponents["growth_exponent_top"] = growth_exponent(sizes[-2:])
    return {"sizes": sizes, **exponents, "intervals": intervals, "cpus": os.cpu_count()}


def table(result: Mapping[str, Any]) -> str:
    """The figures as lines of text."""
    heads = [head for head in result["sizes"][0] if head != "ranks"]
    lines = [f"{'ranks':>6}" + "".join(f"{head:>30}" for head in heads)]
    for row in result["sizes"]:
        lines.append(f"{row['ranks']:6}" + "".join(f"{row[head]:30.3f}" for head in heads))
    lines += [f"{name} {value:.3f}" for name, value in result.items() if "exponent" in name]
    return "\n".join(lines)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object alone")
    parser.add_argument("--ranks", type=int, nargs="+", default=RANKS, help="other sizes, even")
    parser.add_argument("--intervals", type=int, default=INTERVALS, help="of each size")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    arguments = parser.parse_args()
    result = run(arguments.ranks, arguments.intervals, arguments.profile)
    print(json.dumps(result) if arguments.json else table(result))


if __name__ == "__main__":
    main()
