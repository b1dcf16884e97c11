"""A long run with a kill about every minute: the right digests, flat memory, a flat object store.

    python -m benchmarks.soak [--json] [--minutes 30] [--every 60] [--intervals-per-minute 20]

Trains a small pair in lockstep twice: undisturbed, and with SIGKILL of a rank at scripted moments,
now of one group and now of the other. Both runs have as many intervals as the asked minutes take at
the given pace (the pace of 2 cores, kills included).

    kills, restarts       signals sent, and restarts that the summary counts
    digests_equal         both layers' final weights, bit for bit
    wall_s, undisturbed_s
    driver_growth_mib     private memory: median of the last tenth minus that after the first fifth
    store_growth_mib      the same of the object store's use
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import ray

from actors.settings.run import DATA, GROUPS, MEMORY
from benchmarks.footprint import MIB, growth, private_mib
from benchmarks.throughput import CONFIG
from orchestrator.nodes.private_ray import store_bytes_used
from orchestrator.processes.ray_cluster import RayCluster
from orchestrator.settings.config import Config, load_config

SAMPLE_S = 1.0
STEPS = 20


class Watch(threading.Thread):
    """Samples the driver's private memory and the object store's use."""

    def __init__(self) -> None:
        super().__init__(name="watch", daemon=True)
        self.driver: list[float] = []
        self.store: list[float] = []
        self._done = threading.Event()

    def run(self) -> None:
        """Until `stop`."""
        driver = psutil.Process()
        while not self._done.wait(SAMPLE_S):
            if not ray.is_initialized():
                continue
            self.store.append(store_bytes_used() / MIB)
            self.driver.append(private_mib(driver))

    def stop(self) -> None:
        """Ends the thread."""
        self._done.set()
        self.join()


def median_of(restarts: list[dict[str, Any]], name: str) -> float | None:
    """Of the restarts that came to it: one that was killed in its turn says nothing."""
    known = [row[name] for row in restarts if name in row]
    return statistics.median(known) if known else None


class Killer(threading.Thread):
    """Kills a rank of a group that stands, about every so many seconds."""

    def __init__(self, every_s: float, seed: int) -> None:
        super().__init__(name="killer", daemon=True)
        self._every_s, self._random = every_s, random.Random(seed)
        self._done = threading.Event()
        self.cluster: RayCluster | None = None
        self.kills: list[str] = []

    def run(self) -> None:
        """Until `stop`."""
        while not self._done.wait(self._every_s * self._random.uniform(0.5, 1.5)):
            cluster, name = self.cluster, self._random.choice(GROUPS)
            if cluster is None or (group := cluster._groups.get(name)) is None:
                continue
            try:
                os.kill(self._random.choice(group.locations).pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            self.kills.append(name)

    def stop(self) -> None:
        """Ends the thread."""
        self._done.set()
        self.join()


def settings(folder: str, name: str, intervals: int) -> Config:
    """A small pair of one data and two memory ranks."""
    return load_config(
        {
            **CONFIG,
            "name": name,
            "storage": folder,
            "intervals": intervals,
            "checkpoints": {"every": 5},
            "recovery": {"max_failures": -1},
            DATA: {**CONFIG[DATA], "steps_per_interval": STEPS},
            MEMORY: {
                **CONFIG[MEMORY],
                "steps_per_interval": STEPS,
                "workers": {"num_workers": 2, "cpus": 0.5},
            },
        }
    )


def measure(minutes: float, every_s: float, per_minute: float) -> dict[str, Any]:
    """The figures that the module's docstring lists."""
    from orchestrator import run

    intervals = max(10, round(minutes * per_minute))
    killer, watch = Killer(every_s, seed=0), Watch()

    class SoakedCluster(RayCluster):
        def start(self, *arguments: Any) -> Any:
            described = super().start(*arguments)
            killer.cluster = self
            killer.start()
            return described

        def evaluate(self, *arguments: Any, **options: Any) -> None:
            killer.stop()  # evaluations come at the end alone
            super().evaluate(*arguments, **options)

    with tempfile.TemporaryDirectory(prefix="tandem-soak-") as folder:
        begin = time.monotonic()
        quiet = run.train(settings(folder, "quiet", intervals)).summary
        undisturbed_s = time.monotonic() - begin
        watch.start()
        begin = time.monotonic()
        with patch("orchestrator.processes.ray_runtime.RayCluster", SoakedCluster):
            result = run.train(settings(folder, "soaked", intervals))
        wall_s = time.monotonic() - begin
        watch.stop()
        left = [path.name for path in (Path(folder) / "soaked" / "checkpoints").iterdir()]
    restarts = result.summary["restarts"]
    return {
        "intervals": intervals,
        "kills": len(killer.kills),
        "restarts": len(restarts),
        "restarts_by_group": {g: sum(row["group"] == g for row in restarts) for g in GROUPS},
        "digests_equal": result.summary["digest"] == quiet["digest"],
        "undisturbed_s": undisturbed_s,
        "wall_s": wall_s,
        "restart_s": median_of(restarts, "restart_s"),
        "replay_s": median_of(restarts, "replay_s"),
        "driver_growth_mib": growth(watch.driver),
        "driver_peak_mib": max(watch.driver),
        "store_growth_mib": growth(watch.store),
        "store_peak_mib": max(watch.store),
        "checkpoints_left": len(left),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two kills")
    parser.add_argument("--intervals-per-minute", type=float, default=20.0)
    arguments = parser.parse_args()
    result = measure(arguments.minutes, arguments.every, arguments.intervals_per_minute)
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:24} {value:.2f}" if isinstance(value, float) else f"{name:24} {value}")


if __name__ == "__main__":
    main()
