"""Two configs over the same seeds, and whether their held-out figures differ.

    python -m benchmarks.paired runs/search/base.yaml runs/search/best.yaml \\
        corpus.paths='[other-facts.jsonl]' corpus.templates=other.json --seeds 5 --json

Values of the form key=value hold for both. Each difference (second minus first) is of one seed, so
that what a seed does to both falls out; the interval is Student's, 95 %. Runs that are there are
not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from benchmarks.intervals import interval_95
from orchestrator.console import Console
from orchestrator.processes.ray_session import ray_session
from orchestrator.run import train
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.run_dir.run_status import is_finished
from orchestrator.settings.config import Config, load_config
from orchestrator.settings.file_names import SUMMARY

FIGURES = (
    "accuracy.own",
    "accuracy.help",
    "accuracy.memory",
    "heldout.own_loss",
    "heldout.help_loss",
    "heldout.self_loss",
    "heldout.recall_kl",
    "heldout.recall_agreement",
    "heldout.reflection_rate",
)
HIGHER_IS_BETTER = ("accuracy.", "heldout.recall_agreement", "heldout.reflection_rate")


@dataclass(frozen=True)
class Difference:
    """A figure of two configs over the same seeds.

    Attributes:
        figure: its name.
        first, second: means.
        mean: of the differences, second minus first.
        low, high: the 95 % interval of that mean.
        num_seeds: with both values.
    """

    figure: str
    first: float
    second: float
    mean: float
    low: float
    high: float
    num_seeds: int

    @property
    def verdict(self) -> str:
        """What the interval says."""
        if self.low <= 0 <= self.high:
            return "no difference shown"
        better = (self.mean > 0) == self.figure.startswith(HIGHER_IS_BETTER)
        return "second is better" if better else "second is worse"


def difference(figure: str, first: list[float], second: list[float]) -> Difference:
    """The paired difference of at least two seeds."""
    gaps = [b - a for a, b in zip(first, second, strict=True)]
    mean, reach = interval_95(gaps)
    means = statistics.fmean(first), statistics.fmean(second)
    return Difference(figure, *means, mean, mean - reach, mean + reach, len(gaps))


def compare(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[Difference]:
    """Every figure that both summaries of at least two seeds have."""
    found = []
    for figure in FIGURES:
        section, name = figure.split(".")
        values = [(a[section].get(name), b[section].get(name)) for a, b in pairs
                  if section in a and section in b]  # fmt: skip
        known = [(a, b) for a, b in values if a is not None and b is not None]
        if len(known) > 1:
            found.append(difference(figure, [a for a, _ in known], [b for _, b in known]))
    return found


def summary_of(config: Config) -> dict[str, Any]:
    """A run's summary, from its directory where it is there."""
    run_dir = RunDir(config.run_url)
    if run_dir.exists(SUMMARY):
        known: dict[str, Any] = json.loads(run_dir.read(SUMMARY))
        if is_finished(known["status"]):
            return known
    return train(config, resume=True).summary


def main() -> None:
    """Runs both configs over the seeds and prints what differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first")
    parser.add_argument("second")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=101)
    parser.add_argument("--storage", default="runs/paired")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    console = Console(stderr=options.json)
    pairs = []

    def config(which: str, path: str, seed: int) -> Config:
        own = [f"name={which}-{seed}", f"seed={seed}", f"storage={options.storage}"]
        return load_config(path, [*options.overrides, *own])

    with ray_session(config("first", options.first, 0), verbose=False):
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            both = [
                summary_of(config(which, path, seed))
                for which, path in (("first", options.first), ("second", options.second))
            ]
            pairs.append((both[0], both[1]))
            console.say(f"seed {seed} done")
    found = compare(pairs)
    if options.json:
        print(json.dumps({d.figure: {**vars(d), "verdict": d.verdict} for d in found}))
        return
    table = Table(title=f"second minus first over {options.seeds} seeds", title_justify="left")
    for heading in ("figure", "first", "second", "difference", "95 % interval", ""):
        table.add_column(heading)
    for d in found:
        interval = f"{d.low:+.4f} to {d.high:+.4f}"
        table.add_row(d.figure, f"{d.first:.4f}", f"{d.second:.4f}", f"{d.mean:+.4f}", interval,
                      d.verdict)  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    main()
