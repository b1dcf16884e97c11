"""A cluster that does what a script says, one event at a time, and values to build scripts from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from actors.settings.run import DATA, MEMORY
from actors.wire import Answer, Evaluation, Header, Order, RankDescription, Report
from orchestrator.loop.command import Reply
from orchestrator.loop.coordinator import Coordinator, TrainedPair
from orchestrator.loop.events import (
    Committed,
    Evaluated,
    Event,
    Failed,
    Prepared,
    Resized,
    Restarted,
)
from orchestrator.loop.exchange import GroupCheckpoint, PairCheckpoint, Version
from orchestrator.loop.recovery import Failure
from orchestrator.loop.resize_rules import Resize
from orchestrator.reporting.summary import summarise
from orchestrator.run_dir.metrics import Metrics
from orchestrator.settings.config import Config, make_config

VERSION_BYTES = 100


def a_config(**changes: Any) -> Config:
    """A config of two intervals; `changes` are its top-level keys."""
    return make_config(
        {"intervals": 2, "corpus": {"paths": ["text.txt"]}, "evaluation": {"every": 0}} | changes
    )


def a_header(group: str, number: int) -> Header:
    return Header(
        run="run",
        group=group,
        rank=0,
        num_ranks=1,
        incarnation=0,
        version=number,
        step=20 * number,
        layout_hash="layout",
        dtype="float32",
        total_bytes=VERSION_BYTES,
        offsets=(0, 60),
        sizes=(60, 40),
        checksums=(1, 2),
        peer_version=number - 1,
    )


def a_version(group: str, number: int) -> Version:
    return Version(group, number, (a_header(group, number),), (f"{group}-{number}-ref",))


def a_report(group: str, interval: int, **changes: Any) -> Report:
    """A report of an interval that began at `10 * interval` and took 8 s, 6 of them in steps."""
    names = ("own", "help") if group == DATA else ("self", "recall")
    report = Report(
        group=group,
        rank=0,
        incarnation=0,
        interval=interval,
        step=20 * interval,
        peer_version=interval - 1,
        tokens=1000,
        adopt_s=0.5,
        step_s=6.0,
        publish_s=0.5,
        wall_s=8.0,
        started_at=10.0 * interval,
        first_step_at=10.0 * interval + 1.0,
        metrics=dict.fromkeys(names, 1.5),
        costs_s={"forward": 2.0, "measure": 1.0},
    )
    return replace(report, **changes)


def an_evaluation(data: int, memory: int, **changes: Any) -> Evaluation:
    evaluation = Evaluation(
        data_version=data,
        memory_version=memory,
        figures={
            "own_loss": 2.0,
            "help_loss": 1.5,
            "help_gain": 0.5,
            "recall_kl": 0.3,
            "recall_agreement": 0.9,
            "self_loss": 1.8,
            "mixing": 0.1,
            "slots_used_frac": 0.4,
            "slots_top1pct_share": 0.05,
        },
        accuracy={"own": 0.5, "help": 0.6, "memory": 0.4, "baseline": 0.1},
        accuracy_seen={"own": 0.7, "help": 0.8, "memory": 0.6, "baseline": 0.1},
        num_probes=40,
        reflection_changed=10,
        reflection_followed=8,
        answers=(Answer("The capital of <A> is", "B & C", "B", "B & C", "D"),),
        eval_s=3.0,
    )
    return replace(evaluation, **changes)


def a_description(group: str, **changes: Any) -> RankDescription:
    return replace(
        RankDescription(
            group, 0, 0, "cpu", 1_500_000, VERSION_BYTES, VERSION_BYTES, 3 * VERSION_BYTES, "layout"
        ),
        **changes,
    )


def committed(group: str, interval: int, **changes: Any) -> Committed:
    """The group's interval came back; `changes` are the report's."""
    return Committed(
        group, interval, (a_report(group, interval, **changes),), a_version(group, interval)
    )


def evaluated(data: int, memory: int) -> Evaluated:
    return Evaluated(an_evaluation(data, memory))


class ScriptEndedError(Exception):
    """The coordinator asked for more than the script holds."""


def kept_model(folder: Path) -> dict[str, Any]:
    """Changes of a config: a pretrained data layer of which the port alone trains."""
    sizes = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 16}
    (folder / "config.json").write_text(json.dumps(sizes))
    layer = {"pretrained": str(folder), "train": "port", "read_layers": [0, 1]}
    return {"data": {"layer": layer}}


@dataclass
class Clock:
    """Seconds that pass only when the script says so."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Pass:
    """Time that passes before the coordinator's next look at the clock."""

    seconds: float


@dataclass
class ScriptedCluster:
    """Implements `coordinator.ClusterPort`: each `poll` plays one entry of the script.

    `log` holds what was asked of it and what it answered, in order.
    """

    script: Sequence[Event | Pass]
    clock: Clock = field(default_factory=Clock)
    late: Sequence[Failed] = ()
    log: list[str] = field(default_factory=list)
    orders: list[tuple[str, Order]] = field(default_factory=list)
    evaluations_running: int = 0
    first: int = 0  # number of the versions that the groups begin with
    in_process: bool = False
    _played: int = 0

    def first_version(self, group: str) -> Version:
        return a_version(group, self.first)

    def submit(self, group: str, order: Order, peer: Version) -> None:
        self.orders.append((group, order))
        self.log.append(f"submit {group} {order.interval} on {peer.group} {peer.number}")

    def evaluate(self, data: Version, memory: Version, final: bool) -> None:
        self.evaluations_running += 1
        what = "evaluate final" if final else "evaluate"
        self.log.append(f"{what} {data.number}, {memory.number}")

    def poll(self, timeout_s: float) -> list[Event]:
        if self._played == len(self.script):
            raise ScriptEndedError
        entry = self.script[self._played]
        self._played += 1
        if isinstance(entry, Pass):
            self.clock.now += entry.seconds
            return []
        if isinstance(entry, Committed):
            self.log.append(f"committed {entry.group} {entry.interval}")
        elif isinstance(entry, Restarted):
            self.log.append(f"restarted {entry.group}")
        elif isinstance(entry, Prepared):
            self.log.append("could not be prepared" if entry.cause else "prepared")
        elif isinstance(entry, Resized):
            self.log.append(f"resized {entry.group}")
        elif isinstance(entry, Evaluated):
            self.evaluations_running -= 1
        return [entry]

    def restart(
        self,
        group: str,
        incarnation: int,
        checkpoint: GroupCheckpoint | None,
        refetch: Version | None,
        publish: bool = False,
    ) -> None:
        since = f"interval {checkpoint.interval}" if checkpoint else "the beginning"
        again = f", fetching {refetch.group} {refetch.number} again" if refetch else ""
        again += ", publishing again" if publish else ""
        self.log.append(f"restart {group} as {incarnation} from {since}{again}")

    def prepare(self, sizes: Mapping[str, int], wait_s: float) -> None:
        self.log.append("prepare " + ", ".join(f"{g} {n}" for g, n in sizes.items()))

    def switch(self, group: str, incarnation: int, checkpoint: GroupCheckpoint) -> None:
        self.log.append(f"switch {group} as {incarnation} from interval {checkpoint.interval}")

    def late_beats(self) -> Sequence[Failed]:
        late, self.late = self.late, ()
        return late


@dataclass
class RecordingListener:
    """Implements `coordinator.Listener`."""

    intervals: list[tuple[Sequence[Report], float, int]] = field(default_factory=list)
    evaluations: list[tuple[Evaluation, bool]] = field(default_factory=list)
    checkpoints: list[PairCheckpoint] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    recoveries: list[tuple[str, float, float]] = field(default_factory=list)
    drains: list[int] = field(default_factory=list)
    resizes: list[Resize] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)

    def on_resize(self, resize: Resize) -> None:
        self.resizes.append(resize)

    def on_reply(self, reply: Reply) -> None:
        self.replies.append(reply)

    def on_failure(self, failure: Failure) -> None:
        self.failures.append(failure)

    def on_recovery(self, group: str, restart_s: float, replay_s: float) -> None:
        self.recoveries.append((group, restart_s, replay_s))

    def on_drain(self, interval: int, reason: str) -> None:
        self.drains.append(interval)

    def on_start(self, descriptions: Mapping[str, Sequence[RankDescription]]) -> None:
        raise AssertionError("the coordinator does not start groups")

    def on_interval(self, reports: Sequence[Report], wait_s: float, lag: int) -> None:
        self.intervals.append((reports, wait_s, lag))

    def on_evaluation(self, evaluation: Evaluation, final: bool) -> None:
        self.evaluations.append((evaluation, final))

    def on_checkpoint(self, pair: PairCheckpoint) -> None:
        self.checkpoints.append(pair)

    def on_warning(self, message: str) -> None:
        self.warnings.append(message)


def both(interval: int, agreement: float | None = None) -> list[Committed]:
    """Both groups' interval came back, the data group's first."""
    return [committed(DATA, interval), committed(MEMORY, interval, agreement=agreement)]


def catch_up(interval: int, agreement: float, final: int = 2) -> Committed:
    """A catch-up interval of the memory on the final data version came back."""
    return committed(MEMORY, interval, agreement=agreement, peer_version=final)


@dataclass(frozen=True)
class FinishedRun:
    """A run that came to its end on a scripted cluster, with what it measured."""

    config: Config
    metrics: Metrics
    coordinator: Coordinator
    outcome: TrainedPair

    def summary(self) -> dict[str, Any]:
        digests = {DATA: "d1", MEMORY: "m1"}
        return summarise(self.config, self.metrics, self.coordinator, self.outcome, digests, 60.0)


def finish(final: Evaluation | None = None, after: float = 0.6, **changes: Any) -> FinishedRun:
    """Two intervals and a catch-up; `after` is the memory's last agreement, 0.5 the one before."""
    last = Evaluated(final or an_evaluation(2, 3))
    start = Evaluated(an_evaluation(0, 0, reflection_changed=0, reflection_followed=0))
    script = [*both(1), start, evaluated(1, 1), *both(2, agreement=0.5), catch_up(3, after), last]
    cluster, listener = ScriptedCluster(script), RecordingListener()
    config = a_config(
        evaluation={"every": 1}, exchange={"catchup_intervals": 1}, name="scripted", **changes
    )
    coordinator = Coordinator(config, cluster, listener, lambda: None, clock=cluster.clock)
    outcome = coordinator.run()
    metrics = Metrics(started_at=0.0)
    for reports, wait_s, lag in listener.intervals:
        metrics.add_interval(reports, wait_s, lag)
    for evaluation, is_final in listener.evaluations:
        metrics.add_evaluation(evaluation, is_final)
    return FinishedRun(config, metrics, coordinator, outcome)
