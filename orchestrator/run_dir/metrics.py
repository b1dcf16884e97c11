"""What a run measured, as rows: one per group and interval, one per evaluation. Pure data, no
files, no threads.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from actors.settings.run import DATA, MEMORY, LossWeights
from actors.wire import Evaluation, Report
from orchestrator.loop.recovery import Failure
from orchestrator.loop.resize_rules import Resize

Row = dict[str, Any]
# Of each group, in the progress view and in the status.
SHOWN_LOSSES = {
    DATA: ("own", "help", "lessons", "reworded", "rehearsed"),
    MEMORY: ("self", "recall", "kept"),
}
# Losses in nats per token: those with a weight of their name, and those of teaching. `balance` has
# another unit.
NATS = tuple(
    name
    for name in dict.fromkeys((*LossWeights.names(), *SHOWN_LOSSES[DATA], *SHOWN_LOSSES[MEMORY]))
    if name != "balance"
)


@dataclass(frozen=True)
class SavedRows:
    """The metrics that go with a checkpoint.

    Attributes:
        intervals, evaluations: rows up to its interval.
        elapsed_s: seconds of the run until then.
        restarts: rows of groups that failed and were restarted.
        resizes: rows of groups whose number of workers changed.
    """

    intervals: list[Row]
    evaluations: list[Row]
    elapsed_s: float
    restarts: list[Row] = field(default_factory=list)
    resizes: list[Row] = field(default_factory=list)


@dataclass
class Metrics:
    """All rows of a run so far, in the order in which they were committed.

    The driver appends; other threads may read rows, which don't change, and copies of the lists.
    """

    started_at: float = field(default_factory=time.time)
    intervals: list[Row] = field(default_factory=list)
    evaluations: list[Row] = field(default_factory=list)
    restarts: list[Row] = field(default_factory=list)
    resizes: list[Row] = field(default_factory=list)

    @classmethod
    def resumed(cls, rows: SavedRows) -> Metrics:
        """Those of a run that is resumed; the time in between does not count."""
        return cls(
            time.time() - rows.elapsed_s,
            list(rows.intervals),
            list(rows.evaluations),
            list(rows.restarts),
            list(rows.resizes),
        )

    def until(self, interval: int) -> SavedRows:
        """The rows up to that interval of both groups."""
        return SavedRows(
            [row for row in self.intervals if row["interval"] <= interval],
            [row for row in self.evaluations if row["data_version"] <= interval],
            time.time() - self.started_at,
            list(self.restarts),
            list(self.resizes),
        )

    def add_interval(self, reports: Sequence[Report], wait_s: float, lag: int) -> Row:
        """A row from the reports of all ranks.

        Tokens add up, times are the slowest rank's, losses are means.
        """
        first = reports[0]
        slowest = max(reports, key=lambda r: r.wall_s)
        tokens = sum(r.tokens for r in reports)
        end = slowest.started_at + slowest.wall_s
        row: Row = {
            "group": first.group,
            "interval": first.interval,
            "incarnation": first.incarnation,
            "num_workers": len(reports),
            "step": first.step,
            "tokens": tokens,
            "peer_version": first.peer_version,
            "lag": lag,
            "start_s": slowest.started_at - self.started_at,
            "end_s": end - self.started_at,
            "wait_s": wait_s,
            "adopt_s": slowest.adopt_s,
            "step_s": slowest.step_s,
            "publish_s": slowest.publish_s,
            "first_step_s": first.first_step_at - self.started_at,
            "tokens_per_s": tokens / max(1e-9, slowest.wall_s),
            "agreement": first.agreement,
        }
        for name, value in first.metrics.items():
            row[f"train.{name}"] = value
        for name in {name: None for r in reports for name in r.shares}:
            row[f"train.{name}"] = sum(r.shares.get(name, 0.0) for r in reports)
        for name, seconds in first.costs_s.items():
            row[f"cost_s.{name}"] = seconds
        self.intervals.append(row)
        return row

    def add_evaluation(self, evaluation: Evaluation, final: bool) -> Row:
        """A row of held-out figures."""
        row: Row = {
            "data_version": evaluation.data_version,
            "memory_version": evaluation.memory_version,
            "final": final,
            "at_s": time.time() - self.started_at,
            "eval_s": evaluation.eval_s,
            "num_probes": evaluation.num_probes,
            "reflection_changed": evaluation.reflection_changed,
            "reflection_followed": evaluation.reflection_followed,
            **{f"heldout.{name}": value for name, value in evaluation.figures.items()},
            **{f"accuracy.{name}": value for name, value in evaluation.accuracy.items()},
            **{f"accuracy_seen.{name}": value for name, value in evaluation.accuracy_seen.items()},
            "answers": [asdict(answer) for answer in evaluation.answers],
        }
        self.evaluations.append(row)
        return row

    def add_failure(self, failure: Failure) -> Row:
        """A row of a group that failed and is restarted."""
        row: Row = {**asdict(failure), "at_s": time.time() - self.started_at}
        self.restarts.append(row)
        return row

    def add_recovery(self, group: str, restart_s: float, replay_s: float) -> Row:
        """Completes the group's last row: how long its restart and its replay took."""
        index = max(i for i, row in enumerate(self.restarts) if row["group"] == group)
        # A new row: a thread may be writing the old one down.
        row = {**self.restarts[index], "restart_s": restart_s, "replay_s": replay_s}
        self.restarts[index] = row
        return row

    def add_resize(self, resize: Resize) -> Row:
        """A row of a group whose number of workers changed."""
        row: Row = {**asdict(resize), "at_s": time.time() - self.started_at}
        self.resizes.append(row)
        return row

    @property
    def start(self) -> Row | None:
        """The evaluation of version 0, where there was one."""
        return next((row for row in self.evaluations if not row["data_version"]), None)

    def of_group(self, group: str) -> list[Row]:
        """The group's interval rows."""
        return [row for row in self.intervals if row["group"] == group]

    def reflection(self) -> tuple[int, int]:
        """Changed and followed probes, over all evaluations."""
        changed = sum(row["reflection_changed"] for row in self.evaluations)
        return changed, sum(row["reflection_followed"] for row in self.evaluations)


def held_out(row: Row) -> dict[str, float]:
    """The held-out figures of an evaluation's row, by their dotted names."""
    return {
        name: value
        for name, value in row.items()
        if name.startswith(("heldout.", "accuracy.")) and isinstance(value, float)
    }


def pooled_reflection(metrics: Metrics) -> float | None:
    """Reflection rate over all evaluations of the run; None where nothing changed."""
    changed, followed = metrics.reflection()
    return followed / changed if changed else None


def group_totals(rows: Sequence[Row]) -> Row:
    """A group's totals.

    Steps, tokens, tokens_per_s and the share of wall time neither in steps nor in measuring; of the
    memory group, how often a row of its table was written in an interval, on average.
    """
    if not rows:
        return {
            "steps": 0,
            "tokens": 0,
            "tokens_per_s": 0.0,
            "stall_frac": 0.0,
            "wait_frac": 0.0,
            "wall_s": 0.0,
        }
    measured = sum(row.get("cost_s.measure", 0.0) for row in rows)
    wall = max(1e-9, rows[-1]["end_s"] - rows[0]["start_s"])
    tokens = sum(row["tokens"] for row in rows)
    busy = sum(row["step_s"] for row in rows) + measured
    return {
        "steps": rows[-1]["step"],
        "tokens": tokens,
        "tokens_per_s": tokens / wall,
        "stall_frac": max(0.0, 1.0 - busy / wall),
        "wait_frac": sum(row["wait_s"] for row in rows) / wall,
        "wall_s": wall,
        **rows_written(rows),
    }


def rows_written(rows: Sequence[Row]) -> Row:
    """Writes to rows of the value table per interval, the same row once a step; none where the
    group has no table.
    """
    if "train.rows_written" not in rows[-1]:
        return {}
    first, last = rows[0]["step"], rows[-1]["step"]  # a resumed run's rows begin in the middle
    steps = (last - first) / (len(rows) - 1) if len(rows) > 1 else first
    per_step = sum(row["train.rows_written"] for row in rows) / len(rows)
    return {"rows_written_per_interval": per_step * steps}
