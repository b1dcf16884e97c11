"""Whether memory stays flat over a long run, and what a data worker takes beside a plain loop.

    python -m benchmarks.memory [--json] [--intervals 500]

Trains the model of `throughput` for many short intervals, checkpoints included, and samples each
process twice a second. Private memory leaves out libraries and what the object store shares,
resident memory (RSS) holds all. The plain loop is the same step in a process of its own, in the
same run.

    data_peak_mib, plain_peak_mib   peak resident memory of the data worker and of the plain loop
    data_over_plain                 their ratio
    driver_growth_mib, data_growth_mib, memory_growth_mib
                                    private memory: median of the run's last tenth minus that of the
                                    tenth after its first fifth
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import yaml

from actors.settings.run import DATA, GROUPS, MEMORY
from actors.wire import RankDescription
from benchmarks.footprint import MIB, growth, private_mib
from benchmarks.throughput import CONFIG
from orchestrator.loop.exchange import GroupCheckpoint
from orchestrator.processes.ray_cluster import RayCluster
from orchestrator.settings.config import load_config

SAMPLE_S = 0.5
STEPS = 2
DRIVER = "driver"


class Sampler(threading.Thread):
    """Samples private and resident memory of the driver and of both groups' first ranks."""

    def __init__(self) -> None:
        super().__init__(name="sampler", daemon=True)
        self.processes = {DRIVER: psutil.Process()}
        self.private: dict[str, list[float]] = {DRIVER: [], DATA: [], MEMORY: []}
        self.resident: dict[str, list[float]] = {DRIVER: [], DATA: [], MEMORY: []}
        self._done = threading.Event()

    def run(self) -> None:
        """Until `stop`."""
        while not self._done.wait(SAMPLE_S):
            if len(self.processes) <= len(GROUPS):
                continue  # the ranks are not there yet
            for name, process in self.processes.items():
                try:
                    private, resident = private_mib(process), process.memory_info().rss / MIB
                except psutil.Error:
                    continue  # ended
                self.private[name].append(private)
                self.resident[name].append(resident)

    def stop(self) -> None:
        """Ends the thread."""
        self._done.set()
        self.join()


def measure(intervals: int) -> dict[str, Any]:
    """The figures that the module's docstring lists."""
    from orchestrator import run

    sampler = Sampler()

    class SampledCluster(RayCluster):
        def start(
            self,
            stop_requested: Callable[[], str | None],
            resume: Mapping[str, GroupCheckpoint] | None = None,
        ) -> dict[str, list[RankDescription]]:
            described = super().start(stop_requested, resume)
            for name in GROUPS:
                pid = self._groups[name].locations[0].pid
                sampler.processes[name] = psutil.Process(pid)
            return described

    with tempfile.TemporaryDirectory(prefix="tandem-memory-") as folder:
        config = Path(folder) / "memory.yaml"
        sides = {name: {**CONFIG[name], "steps_per_interval": STEPS} for name in GROUPS}
        values = {**CONFIG, **sides, "name": "memory", "storage": folder, "intervals": intervals}
        config.write_text(yaml.safe_dump(values))
        sampler.start()
        begin = time.monotonic()
        with patch("orchestrator.processes.ray_runtime.RayCluster", SampledCluster):
            summary = run.train(load_config(str(config))).summary
        wall_s = time.monotonic() - begin
        sampler.stop()
        command = [sys.executable, "-m", "benchmarks.plain_loops", str(config), DATA]
        plain = subprocess.run(
            [*command, "--steps", str(10 * STEPS)], capture_output=True, text=True, check=True
        )
    plain_peak = json.loads(plain.stdout.splitlines()[-1])["peak_mib"]
    data_peak = max(sampler.resident[DATA])
    return {
        "intervals": intervals,
        "wall_s": wall_s,
        "checkpoints": summary["checkpoints"],
        "data_peak_mib": data_peak,
        "data_private_peak_mib": max(sampler.private[DATA]),
        "plain_peak_mib": plain_peak,
        "data_over_plain": data_peak / plain_peak,
        "driver_peak_mib": max(sampler.resident[DRIVER]),
        **{f"{name}_growth_mib": growth(sampler.private[name]) for name in (DRIVER, *GROUPS)},
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--intervals", type=int, default=500)
    arguments = parser.parse_args()
    result = measure(arguments.intervals)
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:24} {value:.2f}" if isinstance(value, float) else f"{name:24} {value}")


if __name__ == "__main__":
    main()
