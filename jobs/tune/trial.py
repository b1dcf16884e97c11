"""One trial of a search, as Ray Tune runs it: a whole decoupled run in the trial's own placement
group, in a process of Tune's.

A trial that is started again goes on from its run's checkpoints, and one whose run had ended
reports the figures of that run's summary. After an exploit of PBT it begins with the donor's pair.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray import tune
from ray.util import get_current_placement_group

from actors.wire import CheckpointError
from jobs.tune.search import (
    ASSIGNMENT,
    FINAL,
    INTERVAL,
    PBT,
    SPREAD,
    Assignment,
    Search,
)
from jobs.tune.space import REFLECTION
from orchestrator.nodes.placement import Seats
from orchestrator.run import train
from orchestrator.run_dir import checkpoints
from orchestrator.run_dir.handover import hand_over, take_over
from orchestrator.run_dir.metrics import Row, held_out
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.run_dir.run_status import is_finished
from orchestrator.settings.config import Config
from orchestrator.settings.file_names import CONFIG, SUMMARY

POLL_S = 0.05


def run_trial(config: Mapping[str, Assignment], search: Search) -> None:
    """Trains the assigned point, once per seed, and reports its figures to Tune."""
    # Ray leaves an empty bundle out of the placement group.
    seats = Seats(get_current_placement_group(), first_bundle=1 if search.spec.driver_cpus else 0)
    figures = []
    for seed_index in range(search.spec.seeds):
        run_config = search.trial_config(config[ASSIGNMENT], seed_index)
        _begin_with_donor(run_config)
        reporter = Reporter(search, run_config)
        on_evaluation = reporter if search.spec.seeds == 1 else None
        figures.append(_final_figures(run_config, seats, on_evaluation))
    reporter.send({**means(figures), INTERVAL: search.base.intervals, FINAL: True})


def means(figures: list[dict[str, float]]) -> dict[str, float]:
    """Each figure's mean over the seeds, and its standard deviation where there are several."""
    found: dict[str, float] = {}
    for name in dict.fromkeys(name for run in figures for name in run):
        values = [run[name] for run in figures if name in run]
        found[name] = statistics.fmean(values)
        if len(values) > 1:
            found[f"{SPREAD}.{name}"] = statistics.stdev(values)
    return found


class Reporter:
    """Reports the figures of each evaluation to Tune, with the run's newest pair as the checkpoint.

    Args:
        search: the trial belongs to.
        config: of its run; the evaluations before an interruption count.
    """

    def __init__(self, search: Search, config: Config) -> None:
        self._search, self._config = search, config
        self._run_dir = RunDir(config.run_url)
        self._reflected: dict[int, tuple[int, int]] = {}
        try:
            for interval in checkpoints.intervals(self._run_dir)[-1:]:
                for row in checkpoints.saved_rows(self._run_dir, interval).evaluations:
                    self._count(row)
        except CheckpointError:
            return  # `train` reports the damage, and uses the checkpoint before

    def __call__(self, row: Row) -> None:
        """Reports an evaluation during the run; Tune may stop the trial here."""
        self._count(row)
        if row["final"] or not row["data_version"]:
            return  # reported with the summary, or of weights that were not trained
        figures = held_out(row)
        changed, followed = (sum(counts) for counts in zip(*self._reflected.values(), strict=True))
        if changed:
            figures[REFLECTION] = followed / changed
        self.send({**figures, INTERVAL: row["data_version"], FINAL: False})

    def send(self, report: dict[str, float]) -> None:
        """Reports to Tune."""
        interval = self._newest_pair(0 if report[FINAL] else int(report[INTERVAL]))
        if interval is None:
            tune.report(report)
            return
        with tempfile.TemporaryDirectory(prefix="tandem-pair-") as folder:
            whole = self._search.spec.scheduler == PBT
            hand_over(self._run_dir, interval, Path(folder), whole)
            tune.report(report, checkpoint=tune.Checkpoint.from_directory(folder))

    def _newest_pair(self, measured: int) -> int | None:
        """Interval of the newest pair; PBT waits for the pair of the measured interval."""
        waits = self._search.spec.scheduler == PBT and measured
        until = time.monotonic() + self._config.deadlines.storage_s
        while True:
            saved = checkpoints.intervals(self._run_dir)
            if not waits or measured in saved or time.monotonic() > until:
                return saved[-1] if saved else None
            time.sleep(POLL_S)

    def _count(self, row: Row) -> None:
        counts = row["reflection_changed"], row["reflection_followed"]
        self._reflected[row["data_version"]] = counts


def _begin_with_donor(config: Config) -> None:
    """Takes the donor's pair over if Tune has one for this trial and the run has not begun."""
    checkpoint = tune.get_checkpoint()
    if checkpoint is None or RunDir(config.run_url).exists(CONFIG):
        return
    with checkpoint.as_directory() as folder:
        if checkpoints.intervals(RunDir(folder)):
            take_over(Path(folder), config)


def _final_figures(
    config: Config, seats: Seats, on_evaluation: Callable[[Row], None] | None
) -> dict[str, float]:
    """The final held-out figures of a run: it is trained, resumed, or read if it is finished."""
    run_dir = RunDir(config.run_url)
    summary: dict[str, Any] = {}
    if run_dir.exists(SUMMARY):
        summary = json.loads(run_dir.read(SUMMARY))
    if not is_finished(summary.get("status")):
        summary = train(config, seats=seats, resume=True, on_evaluation=on_evaluation).summary
    return {
        f"{section}.{name}": float(value)
        for section in ("heldout", "accuracy")
        for name, value in summary.get(section, {}).items()
        if isinstance(value, float)
    }
