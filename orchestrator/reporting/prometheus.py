"""Exports a run's figures to Prometheus through Ray's own metrics endpoint on the driver's node.

    listener -> Exporter -> background thread -> ray.util.metrics -> the node's agent

`QUANTITIES` lists the metrics; Ray puts `ray_` before each name. Only committed intervals count, so
that a replay adds nothing. Where no agent exports them (Ray without its `default` extra) they are
recorded for nothing. A failure here is one warning, never the end of a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from actors.wire import Report
from orchestrator.background import Background
from orchestrator.run_dir.metrics import NATS, Row
from orchestrator.settings.config import Config

RUN, GROUP, RANK = ("run",), ("run", "group"), ("run", "group", "rank")
VOICES = ("own", "help", "memory", "baseline")
HELD_OUT = {  # term -> its figure of an evaluation
    "own": "heldout.own_loss",
    "help": "heldout.help_loss",
    "recall": "heldout.recall_kl",
    "self": "heldout.self_loss",
}
CLOSE_S = 5.0  # longest that a run's end waits for what is still queued


@dataclass(frozen=True)
class Quantity:
    """One metric: a counter's name ends in `_total`, and every name in its unit."""

    name: str
    labels: tuple[str, ...]
    about: str

    @property
    def kind(self) -> Literal["counter", "gauge"]:
        """Its type in Prometheus."""
        return "counter" if self.name.endswith("_total") else "gauge"

    @property
    def exposed(self) -> str:
        """The name under which Ray shows it."""
        return f"ray_{self.name}"


QUANTITIES = (
    Quantity("tandem_step_seconds", RANK, "Mean of an optimizer step in the last interval."),
    Quantity("tandem_train_seconds_total", RANK, "Time in optimizer steps."),
    Quantity("tandem_adopt_seconds_total", RANK, "Time spent adopting the peer's snapshots."),
    Quantity("tandem_publish_seconds_total", RANK, "Time spent publishing snapshots."),
    Quantity("tandem_tokens_total", RANK, "Tokens trained on."),
    Quantity("tandem_published_bytes_total", RANK, "Bytes of published snapshots."),
    Quantity("tandem_adopted_bytes_total", RANK, "Bytes of adopted snapshots."),
    Quantity("tandem_mfu_ratio", RANK, "Share of the device's peak in the last interval."),
    Quantity("tandem_steps_total", GROUP, "Optimizer steps."),
    Quantity("tandem_interval", GROUP, "Intervals committed."),
    Quantity("tandem_wait_seconds_total", GROUP, "Time spent waiting for the peer."),
    Quantity("tandem_version", GROUP, "Newest version published."),
    Quantity("tandem_adopted_version", GROUP, "The peer's version adopted last."),
    Quantity("tandem_lag_versions", GROUP, "Versions by which the adopted one was behind."),
    Quantity("tandem_incarnation", GROUP, "Incarnation of the group's processes."),
    Quantity("tandem_train_loss_nats", (*GROUP, "term"), "Losses of the last interval."),
    Quantity("tandem_restarts_total", GROUP, "Failures after which the group was restarted."),
    Quantity("tandem_restart_seconds_total", GROUP, "Time until restarted processes were ready."),
    Quantity("tandem_replay_seconds_total", GROUP, "Time spent replaying lost intervals."),
    Quantity("tandem_planned_intervals", RUN, "Intervals that the run is to have."),
    Quantity("tandem_checkpoint_interval", RUN, "Interval of the newest checkpoint."),
    Quantity("tandem_heldout_loss_nats", (*RUN, "term"), "Held-out losses, last evaluation."),
    Quantity("tandem_heldout_agreement_ratio", RUN, "Held-out positions where both layers agree."),
    Quantity("tandem_accuracy_ratio", (*RUN, "voice"), "Whole answers right, unseen wordings."),
)

Record = Callable[[str, float, dict[str, str]], None]


def to_ray() -> Record:
    """Records to Ray's metrics: adds to counters, sets gauges."""
    from ray.util.metrics import Counter, Gauge  # a run in one process has no Ray

    gauges = {q.name: Gauge(q.name, q.about, q.labels) for q in QUANTITIES if q.kind == "gauge"}
    counters = {
        q.name: Counter(q.name, q.about, q.labels) for q in QUANTITIES if q.kind == "counter"
    }

    def record(name: str, value: float, labels: dict[str, str]) -> None:
        if name in gauges:
            gauges[name].set(value, labels)
        elif value > 0:  # Ray refuses to add nothing
            counters[name].inc(value, labels)

    return record


def to_nowhere() -> Record:
    """Records nothing: for a run that Ray knows nothing of."""
    return lambda name, value, labels: None


class Exporter:
    """Records, on a thread of its own, what the listener is called with.

    Args:
        config: the run.
        warn: called once, should recording fail; nothing more is recorded then.
        recorder: makes what is recorded to; called on the thread.
    """

    def __init__(
        self, config: Config, warn: Callable[[str], None], recorder: Callable[[], Record] = to_ray
    ) -> None:
        self._config, self._warn, self._recorder = config, warn, recorder
        self._figures: Figures | None = None  # the thread's own
        self._worker = Background("prometheus", self._failed)
        self._worker.put(self._open)

    def interval(self, reports: Sequence[Report], row: Row) -> None:
        """A group committed an interval."""
        self._put(lambda figures: figures.interval(reports, row))

    def evaluation(self, row: Row) -> None:
        """An evaluation came back."""
        self._put(lambda figures: figures.evaluation(row))

    def checkpoint(self, interval: int) -> None:
        """Both groups' checkpoints of an interval are in."""
        self._put(lambda figures: figures.of_run("tandem_checkpoint_interval", interval))

    def failure(self, group: str) -> None:
        """A group failed and is restarted."""
        self._put(lambda figures: figures.of_group("tandem_restarts_total", 1, group))

    def recovery(self, group: str, restart_s: float, replay_s: float) -> None:
        """A group has caught up after a restart."""
        self._put(lambda figures: figures.recovery(group, restart_s, replay_s))

    def close(self) -> None:
        """Records what is queued and ends the thread; what hangs is left behind."""
        self._worker.close(CLOSE_S)

    def _open(self) -> None:
        self._figures = Figures(self._config, self._recorder())
        self._figures.of_run("tandem_planned_intervals", self._config.intervals)

    def _put(self, record: Callable[[Figures], None]) -> None:
        self._worker.put(lambda: self._record(record))

    def _record(self, record: Callable[[Figures], None]) -> None:
        if self._figures is not None:  # as it is after a failure
            record(self._figures)

    def _failed(self, err: Exception) -> None:
        self._figures = None
        self._warn(f"figures for Prometheus are no longer recorded ({err!r}); training goes on")


class Figures:
    """A run's figures, from rows and reports to names, values and labels.

    Args:
        config: the run.
        record: takes them.
    """

    def __init__(self, config: Config, record: Record) -> None:
        self._config, self._record = config, record

    def of_run(self, name: str, value: float, **labels: str) -> None:
        """A figure of the run; labels beside `run` by name."""
        self._record(name, value, {"run": self._config.name, **labels})

    def of_group(self, name: str, value: float, group: str, **labels: str) -> None:
        """A figure of a group."""
        self.of_run(name, value, group=group, **labels)

    def interval(self, reports: Sequence[Report], row: Row) -> None:
        """A committed interval's figures, of the group and of its ranks."""
        group = str(row["group"])
        num_steps = self._config.group(group).steps_per_interval
        for report in reports:
            self._rank(report, num_steps)
        of_group: dict[str, Any] = {
            "tandem_steps_total": num_steps,
            "tandem_interval": row["interval"],
            "tandem_wait_seconds_total": row["wait_s"],
            "tandem_adopted_version": row["peer_version"],
            "tandem_lag_versions": row["lag"],
            "tandem_incarnation": row["incarnation"],
        }
        if any(report.published_bytes for report in reports):
            of_group["tandem_version"] = row["interval"]
        for name, value in of_group.items():
            self.of_group(name, value, group)
        for term in NATS:
            if math.isfinite(value := row.get(f"train.{term}", math.nan)):
                self.of_group("tandem_train_loss_nats", value, group, term=term)

    def _rank(self, report: Report, num_steps: int) -> None:
        of_rank = {
            "tandem_step_seconds": report.step_s / num_steps,
            "tandem_train_seconds_total": report.step_s,
            "tandem_adopt_seconds_total": report.adopt_s,
            "tandem_publish_seconds_total": report.publish_s,
            "tandem_tokens_total": report.tokens,
            "tandem_published_bytes_total": report.published_bytes,
            "tandem_adopted_bytes_total": report.adopted_bytes,
        }
        if "mfu" in report.metrics:
            of_rank["tandem_mfu_ratio"] = report.metrics["mfu"]
        for name, value in of_rank.items():
            self.of_group(name, value, report.group, rank=str(report.rank))

    def recovery(self, group: str, restart_s: float, replay_s: float) -> None:
        """What a group's recovery took."""
        self.of_group("tandem_restart_seconds_total", restart_s, group)
        self.of_group("tandem_replay_seconds_total", replay_s, group)

    def evaluation(self, row: Row) -> None:
        """What an evaluation found."""
        for term, figure in HELD_OUT.items():
            self._finite("tandem_heldout_loss_nats", row.get(figure), term=term)
        self._finite("tandem_heldout_agreement_ratio", row.get("heldout.recall_agreement"))
        for voice in VOICES:
            self._finite("tandem_accuracy_ratio", row.get(f"accuracy.{voice}"), voice=voice)

    def _finite(self, name: str, value: Any, **labels: str) -> None:
        if isinstance(value, int | float) and math.isfinite(value):
            self.of_run(name, value, **labels)
