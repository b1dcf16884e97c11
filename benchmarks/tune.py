"""What a search costs beside its runs.

    python -m benchmarks.tune [--json] [--trials 4] [--intervals 10] [--rounds 1]

Runs the quickstart's model, shortened, by `tandem train` alone and then as equal trials of
`tandem tune`, one at a time, each command in a process of its own.

    overhead_ratio    seconds of the search over so many times those of the run alone
    trial_startup_s   from a trial's end to the first step of the next one, median
    train_startup_s   from the start of `tandem train` to its first step
    train_s, tune_s   seconds of the two commands
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table

from orchestrator.console import Console
from orchestrator.settings.file_names import SUMMARY

CONFIG = Path(__file__).parents[1] / "jobs" / "configs" / "quickstart.yaml"


def command(*arguments: str) -> float:
    """Seconds of a `tandem` command. Raises: SystemExit with what it said where it failed."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 3):
        raise SystemExit(f"tandem {arguments[0]} ended with {done.returncode}: {done.stderr}")
    return time.monotonic() - began


def startups(ends: list[float], summaries: list[dict[str, Any]]) -> list[float]:
    """Seconds from each trial's end to the next one's first step.

    Args:
        ends: when each trial's summary was written, in their order.
        summaries: of the trials.
    """
    firsts = [end - s["wall_s"] + s["first_step_s"]
              for end, s in zip(ends, summaries, strict=True)]  # fmt: skip
    return [first - end for end, first in zip(ends, firsts[1:], strict=False)]


def measure(trials: int, intervals: int) -> dict[str, float]:
    """One round."""
    settings = {
        "intervals": intervals,
        "evaluation.every": max(1, intervals // 2),
        "checkpoints.every": max(1, intervals // 2),
    }
    with tempfile.TemporaryDirectory(prefix="tandem-tune-") as folder:
        given = [f"{name}={value}" for name, value in settings.items()]
        train_s = command("train", str(CONFIG), *given, f"storage={folder}", "name=alone")
        alone = json.loads(Path(folder, "alone", SUMMARY).read_text())
        search = {
            "name": "search",
            "base": str(CONFIG),
            "storage": folder,
            "set": settings,
            # A setting without effect, so that all trials are the same run.
            "space": {"deadlines.stop_s": {"grid": [10.0] * trials}},
            "objectives": ["min heldout.help_loss"],
            "algorithm": "grid",
            "scheduler": "none",
            "at_once": 1,
        }
        path = Path(folder, "search.yaml")
        path.write_text(yaml.safe_dump(search))
        tune_s = command("tune", str(path))
        files = sorted(Path(folder, "search", "trials").glob(f"*/{SUMMARY}"))
        ends = [file.stat().st_mtime for file in files]
        summaries = [json.loads(file.read_text()) for file in files]
    return {
        "overhead_ratio": tune_s / (trials * train_s),
        "trial_startup_s": statistics.median(startups(ends, summaries)),
        "train_startup_s": alone["first_step_s"],
        "train_s": train_s,
        "tune_s": tune_s,
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--intervals", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    if options.trials < 2:
        parser.error("--trials: at least 2")
    rounds = [measure(options.trials, options.intervals) for _ in range(options.rounds)]
    found = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
    if options.json:
        print(json.dumps({**found, "rounds": rounds}))
        return
    table = Table(title=f"{options.trials} equal trials, medians of {options.rounds} rounds")
    for heading in ("figure", "value"):
        table.add_column(heading)
    for name, value in found.items():
        table.add_row(name, f"{value:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
