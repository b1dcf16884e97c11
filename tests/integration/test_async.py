"""Async runs with one group slowed: the bound holds, and what is reported as waiting is real."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from actors.settings.run import DATA, MEMORY, peer_of
from actors.wire import Order
from orchestrator.loop.events import Committed, Event
from orchestrator.loop.exchange import GroupCheckpoint, Version
from orchestrator.processes.ray_cluster import RayCluster
from orchestrator.run import train
from orchestrator.settings.config import load_config

pytestmark = [pytest.mark.usefixtures("shared_ray"), pytest.mark.long]

STEPS = {"data.steps_per_interval": 2, "memory.steps_per_interval": 2}
INTERVALS = 10
HELD_S = 0.4  # by which an interval of the slowed group is longer, several times its own length


class Slowed:
    """A cluster whose commits of one group come late, and a clock on when the other one works."""

    def __init__(self, group: str) -> None:
        self.group = group
        self.submitted: dict[str, float] = {}
        self.committed: dict[str, float] = {}
        self.waited = dict.fromkeys((DATA, MEMORY), 0.0)
        self.ahead: list[int] = []
        self.adopted = dict.fromkeys((DATA, MEMORY), 0)
        self.newest = dict.fromkeys((DATA, MEMORY), 0)

    def cluster(self) -> Callable[..., RayCluster]:
        slowed = self

        class SlowedCluster(RayCluster):
            held: list[tuple[float, Event]]

            def start(
                self,
                stop_requested: Callable[[], str | None],
                resume: Mapping[str, GroupCheckpoint] | None = None,
            ) -> Any:
                self.held = []
                return super().start(stop_requested, resume)

            def submit(self, group: str, order: Order, peer: Version) -> None:
                now = time.monotonic()
                if group in slowed.committed:
                    slowed.waited[group] += now - slowed.committed[group]
                slowed.adopted[group] = peer.number
                if order.interval <= INTERVALS:  # what its peer has of what is out
                    ahead = slowed.newest[group] - slowed.adopted[peer_of(group)]
                    slowed.ahead.append(ahead)
                super().submit(group, order, peer)

            def poll(self, timeout_s: float) -> list[Event]:
                events = []
                for event in super().poll(min(timeout_s, 0.02)):
                    if isinstance(event, Committed) and event.group == slowed.group:
                        self.held.append((time.monotonic() + HELD_S, event))
                    else:
                        events.append(event)
                now = time.monotonic()
                events += [event for until, event in self.held if until <= now]
                self.held = [(until, event) for until, event in self.held if until > now]
                for event in events:
                    if isinstance(event, Committed):
                        slowed.committed[event.group] = time.monotonic()
                        slowed.newest[event.group] = event.interval
                return events

        return SlowedCluster


@pytest.mark.parametrize(
    ("slow", "staleness"),
    [(DATA, 1), (MEMORY, 4), (MEMORY, 1), (DATA, 4)],
)
def test_the_faster_group_waits_at_the_bound_and_says_so(
    workplace: Path, staleness: int, slow: str
) -> None:
    slowed = Slowed(slow)
    overrides = [
        *(f"{key}={value}" for key, value in STEPS.items()),
        f"intervals={INTERVALS}",
        "evaluation.every=0",
        "checkpoints.every=0",
        f"exchange={{mode: async, staleness: {staleness}}}",
        f"name=slow-{slow}-{staleness}",
    ]
    config = load_config(str(workplace / "tiny.yaml"), overrides)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.processes.ray_runtime.RayCluster", slowed.cluster())
        summary = train(config).summary
    rows = pq.read_table(f"{config.run_url}/metrics.parquet").to_pylist()
    fast = peer_of(slow)
    regular = [row for row in rows if row["interval"] <= INTERVALS]
    assert max(row["lag"] for row in rows) == summary["exchange"]["max_lag"] <= staleness
    assert max(slowed.ahead) <= staleness
    assert summary["reflects_final_reason"].startswith("agreement with the final version")
    reported = sum(row["wait_s"] for row in regular if row["group"] == fast)
    assert reported > 0.5 * HELD_S * (INTERVALS - staleness - 1)
    by_the_clock = slowed.waited[fast]
    catch_up = sum(
        row["wait_s"] for row in rows if row["interval"] > INTERVALS and row["group"] == fast
    )
    assert reported + catch_up == pytest.approx(by_the_clock, rel=0.1, abs=0.1)
