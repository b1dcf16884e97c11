"""What a death costs: seconds until the killed group trains again, and what its peer feels of it.

    python -m benchmarks.recovery [--json] [--rounds 3]

Trains the quickstart's model in async mode and kills one group's process, several times in one run,
in the middle of an interval: once with a warm spare process per group and once without. The peer is
Ray Train: the same data layer's loop in a `TorchTrainer` with one worker, killed in the same way.

    restart_s             from SIGKILL to the end of the killed group's next optimizer step, with a
                          warm spare; median over kills of both groups
    restart_cold_s        the same without a spare
    ray_train_restart_s   the same for the TorchTrainer
    restart_over_ray_train  restart_s / ray_train_restart_s; cold_over_ray_train likewise
    peer_slowdown         the other group's seconds per step while its peer was down, over before
    replayed_steps        mean steps that a restarted group did again
    checkpoint_frac       recovery checkpoints' share of a group's wall time, in a quiet run
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from actors.settings.run import DATA, GROUPS, MEMORY, peer_of
from actors.wire import Order
from orchestrator.loop.events import Committed, Event
from orchestrator.loop.exchange import Version
from orchestrator.processes.ray_cluster import RayCluster
from orchestrator.settings.config import load_config

CONFIG = Path(__file__).parents[1] / "jobs" / "configs" / "quickstart.yaml"
QUIET, SPACING, EVERY = 15, 14, 10  # intervals before the first kill, between two, and checkpoints
INTO_S = 1.0  # into an interval


class Kills:
    """Kills a group's process at given intervals, and keeps all reports."""

    def __init__(self, at: dict[int, str]) -> None:
        self._at = dict(at)
        self.killed: list[tuple[str, float]] = []
        self.events: list[tuple[float, Committed]] = []

    def cluster(self) -> type[RayCluster]:
        """A cluster class with the kills built in."""
        kills = self

        class KillingCluster(RayCluster):
            def submit(self, group: str, order: Order, peer: Version) -> None:
                super().submit(group, order, peer)
                if kills._at.get(order.interval) == group:
                    del kills._at[order.interval]
                    pid = self._groups[group].locations[0].pid
                    threading.Timer(INTO_S, kills.kill, (group, pid)).start()

            def poll(self, timeout_s: float) -> list[Event]:
                events = super().poll(timeout_s)
                now = time.time()
                kills.events += [(now, e) for e in events if isinstance(e, Committed)]
                return events

        return KillingCluster

    def kill(self, group: str, pid: int) -> None:
        """SIGKILL, and when."""
        self.killed.append((group, time.time()))
        os.kill(pid, signal.SIGKILL)

    def of_group(self, group: str) -> list[tuple[float, Committed]]:
        """The group's committed intervals, replayed ones too."""
        return [(at, event) for at, event in self.events if event.group == group]


def run(folder: str, name: str, kills: Kills, intervals: int, *overrides: str) -> dict[str, Any]:
    """The summary of a run of the quickstart's model."""
    from orchestrator import run

    settings = [
        f"name={name}",
        f"storage={folder}",
        f"intervals={intervals}",
        f"checkpoints.every={EVERY}",
        "evaluation={every: 0, final_windows: 8, final_probes: 8, questions: 0}",
        "exchange={mode: async, staleness: 8, catchup_intervals: 1}",
        *overrides,
    ]
    with patch("orchestrator.processes.ray_runtime.RayCluster", kills.cluster()):
        return run.train(load_config(str(CONFIG), settings)).summary


def restarts(kills: Kills) -> tuple[list[float], list[float]]:
    """Per kill: seconds to the next step of the group, and the peer's slowdown meanwhile."""
    seconds, slowdowns = [], []
    for group, at in kills.killed:
        starts = [e.reports[0].first_step_at for _, e in kills.of_group(group)]
        back = min(start for start in starts if start > at + INTO_S / 10)
        seconds.append(back - at)
        while_down, before = [], []
        for _, event in kills.of_group(peer_of(group)):
            report = event.reports[0]
            per_step = report.step_s
            end = report.started_at + report.wall_s
            if report.started_at > at and end < back:
                while_down.append(per_step)
            elif end < at:
                before.append(per_step)
        if while_down:
            slowdowns.append(statistics.median(while_down) / statistics.median(before[-8:]))
    return seconds, slowdowns


def checkpoint_frac(kills: Kills) -> float:
    """Share of wall time that checkpoints take in a run without kills: the copy in the process, and
    what the commit of an interval with one takes longer.
    """
    shares = []
    for group in GROUPS:
        rows = kills.of_group(group)
        late = [at - e.reports[0].started_at - e.reports[0].wall_s for at, e in rows]
        both = list(zip(late, rows, strict=True))
        plain = statistics.median(s for s, (_, e) in both if not e.checkpoint)
        costs = [
            e.reports[0].costs_s["checkpoint"] + max(0.0, s - plain)
            for s, (_, e) in both
            if e.checkpoint
        ]
        wall_s = rows[-1][0] - rows[0][1].reports[0].started_at
        shares.append(sum(costs) / wall_s)
    return max(shares)


def ray_train_restart(folder: str) -> float:
    """Seconds from SIGKILL to the next step of a TorchTrainer's worker, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.ray_train_loop", str(CONFIG), folder]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])["restart_s"])


def measure(rounds: int) -> dict[str, Any]:
    """The figures that the module's docstring lists."""
    at = {QUIET + SPACING * turn: group for turn, group in enumerate([DATA, MEMORY] * rounds)}
    intervals = QUIET + SPACING * len(at)
    kept: dict[str, list[float]] = {"warm": [], "cold": []}
    slowdowns: list[float] = []
    replayed: list[int] = []
    with tempfile.TemporaryDirectory(prefix="tandem-recovery-") as folder:
        quiet = Kills({})
        run(folder, "quiet", quiet, 2 * EVERY + 1)
        for kind in kept:
            kills = Kills(at)
            spares = f"recovery.warm_spares={str(kind == 'warm').lower()}"
            summary = run(folder, kind, kills, intervals, spares)
            assert len(kills.killed) == len(at), f"{len(kills.killed)} of {len(at)} kills fired"
            seconds, slower = restarts(kills)
            kept[kind] += seconds
            slowdowns += slower
            steps = {g: load_config(str(CONFIG)).group(g).steps_per_interval for g in GROUPS}
            replayed += [row["replayed"] * steps[row["group"]] for row in summary["restarts"]]
        peers = [ray_train_restart(f"{folder}/train-{i}") for i in range(rounds)]
    warm, cold, peer = (statistics.median(s) for s in (kept["warm"], kept["cold"], peers))
    return {
        "restart_s": warm,
        "restart_cold_s": cold,
        "ray_train_restart_s": peer,
        "restart_over_ray_train": warm / peer,
        "cold_over_ray_train": cold / peer,
        "peer_slowdown": statistics.median(slowdowns),
        "replayed_steps": statistics.mean(replayed),
        "checkpoint_frac": checkpoint_frac(quiet),
        "kills": 2 * len(at),
        "all_s": {**kept, "ray_train": peers},
        "cpus": os.cpu_count(),
    }


def table(result: dict[str, Any]) -> Sequence[str]:
    """The figures as lines."""
    return [
        f"{name:24} {value:.3f}" if isinstance(value, float) else f"{name:24} {value}"
        for name, value in result.items()
    ]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=3, help="kills of each group, in each run")
    arguments = parser.parse_args()
    result = measure(arguments.rounds)
    print(json.dumps(result) if arguments.json else "\n".join(table(result)))


if __name__ == "__main__":
    main()
