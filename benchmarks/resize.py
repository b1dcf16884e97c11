"""What a resize costs: how long the resized group pauses, and what its peer feels of it.

    python -m benchmarks.resize [--json] [--mode lockstep] [--steps 16]

Trains the quickstart's model with half a CPU per worker and changes each group 1 -> 2 -> 1 workers
by commands in the run's mailbox, while the other goes on.

    peer_gap_frac         the peer's longest gap between two optimizer steps while a group is
                          resized, from the command to the first interval after it, over the peer's
                          ordinary interval; the worst of the four resizes
    peer_gap_s            that gap
    ordinary_gap_frac     the same for the peer before anything was resized: what it waits anyway
    pause_s               the resized group's own pause, from the end of one interval until it could
                          begin the next: mean of the four
    prepare_s             seconds until an added worker stood, while its group trained on: mean
    interval_s            ordinary interval of both groups
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import ray

from actors.settings.run import DATA, GROUPS, MEMORY, peer_of
from orchestrator.console import Console

CONFIG = Path(__file__).parents[1] / "jobs" / "configs" / "quickstart.yaml"
QUIET, BETWEEN = 8, 4  # intervals before the first resize, and between two
INTERVALS = 400  # more than is needed; the run is stopped when all is done

Row = dict[str, Any]


def gaps_s(rows: Sequence[Row]) -> list[float]:
    """Seconds from the last step of each of a group's intervals to the first of its next."""
    stops = [row["start_s"] + row["adopt_s"] + row["step_s"] for row in rows]
    starts = [row["start_s"] + row["adopt_s"] for row in rows]
    return [start - stop for stop, start in zip(stops, starts[1:], strict=False)]


def longest_gap_s(rows: Sequence[Row]) -> float:
    """The longest of them."""
    return max(gaps_s(rows))


def median_interval_s(rows: Sequence[Row]) -> float:
    """From the start of one interval to that of the next."""
    starts = [row["start_s"] for row in rows]
    return statistics.median(b - a for a, b in itertools.pairwise(starts))


class Client(threading.Thread):
    """Resizes a run as its user would, and stops it."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self.resizes: list[tuple[str, float, float]] = []  # group, and time.time() around each
        self.quiet_until = 0.0
        self.error: BaseException | None = None

    def run(self) -> None:
        """All four resizes."""
        try:
            self._work()
        except BaseException as err:
            self.error = err

    def _work(self) -> None:
        from jobs.control import run_scale, run_stop

        quiet = Console(file=io.StringIO())
        self._wait_for(QUIET)
        self.quiet_until = time.time()
        for num in (2, 1):
            for group in (MEMORY, DATA):
                sizes = {DATA: None, MEMORY: None} | {group: num}
                began = time.time()
                run_scale(self._url, sizes[DATA], sizes[MEMORY], 60.0, quiet, False)
                done = self._interval()
                self._wait_for(done + 2)
                self.resizes.append((group, began, time.time()))
                self._wait_for(done + BETWEEN)
        run_stop(self._url, quiet, False)

    def _interval(self) -> int:
        from orchestrator.run_dir.run_dir import RunDir
        from orchestrator.run_dir.status import look

        return int(look(RunDir(self._url)).status.get("interval", 0))

    def _wait_for(self, interval: int) -> None:
        deadline = time.monotonic() + 600
        while self._interval() < interval:
            assert time.monotonic() < deadline, f"interval {interval} did not come"
            time.sleep(0.2)


def measure(mode: str, steps: int | None) -> dict[str, Any]:
    """The figures that the module's docstring lists."""
    from orchestrator.errors import InterruptedRunError
    from orchestrator.run import train
    from orchestrator.settings.config import load_config

    with tempfile.TemporaryDirectory(prefix="tandem-resize-") as folder:
        settings = [
            "name=resize",
            f"storage={folder}",
            f"intervals={INTERVALS}",
            "checkpoints.every=10",
            "evaluation.every=0",
            f"exchange.mode={mode}",
            "exchange.staleness=" + ("4" if mode == "async" else "1"),
            "data.workers.cpus=0.5",
            "memory.workers.cpus=0.5",
        ]
        if steps is not None:
            settings += [f"{group}.steps_per_interval={steps}" for group in GROUPS]
        config = load_config(str(CONFIG), settings)
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        client = Client(config.run_url)
        client.start()
        began = time.time()
        try:
            train(config, started_at=began)
        except InterruptedRunError:
            pass
        finally:
            client.join()
            ray.shutdown()
        if client.error is not None:
            raise client.error
        rows = pq.read_table(f"{config.run_url}/metrics.parquet").to_pylist()
        summary = json.loads(Path(config.run_url, "summary.json").read_text())
    of = {group: [row for row in rows if row["group"] == group] for group in GROUPS}
    ordinary = {}
    for group in GROUPS:
        calm = [r for r in of[group][1:] if began + r["end_s"] < client.quiet_until]
        ordinary[group] = median_interval_s(calm), longest_gap_s(calm)
    found = []
    for group, start, end in client.resizes:
        peer = peer_of(group)
        near = [r for r in of[peer] if start < began + r["end_s"] < end]
        found.append((longest_gap_s(near), ordinary[peer][0]))
    worst = max(found, key=lambda pair: pair[0] / pair[1])
    resizes = summary["resizes"]
    return {
        "peer_gap_frac": worst[0] / worst[1],
        "peer_gap_s": worst[0],
        "ordinary_gap_frac": max(gap / interval for interval, gap in ordinary.values()),
        "pause_s": statistics.mean(row["pause_s"] for row in resizes),
        "prepare_s": statistics.mean(
            row["prepare_s"] for row in resizes if row["after"] > row["before"]
        ),
        "interval_s": {group: ordinary[group][0] for group in GROUPS},
        "peer_gaps_s": [gap for gap, _ in found],
        "pauses_s": [row["pause_s"] for row in resizes],
        "mode": mode,
        "cpus": os.cpu_count(),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--mode", choices=("lockstep", "async"), default="lockstep")
    parser.add_argument("--steps", type=int, help="steps of an interval; default: the config's")
    arguments = parser.parse_args()
    result = measure(arguments.mode, arguments.steps)
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:20} {value:.3f}" if isinstance(value, float) else f"{name:20} {value}")


if __name__ == "__main__":
    main()
