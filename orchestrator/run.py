"""`train(config) -> RunResult`: a whole run, from an empty directory to the exports. What the job,
Tune and notebooks call.

Order matters: everything that can be wrong with the input is checked before the run directory
exists, so that a bad config never leaves a half-made run.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, remove_placement_group
from rich.console import Console

from actors.corpus import train_tokenizer
from actors.spec import GROUPS
from actors.tokenizer import Tokenizer
from actors.wire import ConfigError, Description, Evaluation, Report, TandemError
from orchestrator.cluster import Cluster
from orchestrator.config import Config
from orchestrator.coordinator import Coordinator
from orchestrator.errors import InterruptedRunError
from orchestrator.exchange import check_fits
from orchestrator.metrics import Metrics
from orchestrator.placement import reserve
from orchestrator.progress import Progress
from orchestrator.recorder import Recorder
from orchestrator.report import render_report
from orchestrator.run_dir import CONFIG, EXPORT, REPORT, SUMMARY, TOKENIZER, RunDir
from orchestrator.summary import summarise, summarise_failure
from orchestrator.trackers import check_installed, start_trackers

FINISHED, INTERRUPTED, FAILED = "finished", "interrupted", "failed"


@dataclass(frozen=True)
class RunResult:
    """What a run left behind.

    Attributes:
        status: `finished`, or `finished_unreflected` where the memory did not catch up with the
            final data layer.
        path: the run directory.
        summary: `summary.json`.
    """

    status: str
    path: str
    summary: dict[str, Any]


class _Listener:
    """Passes what the coordinator tells to metrics, recorder and progress."""

    def __init__(self, metrics: Metrics, recorder: Recorder, progress: Progress) -> None:
        self._metrics, self._recorder, self._progress = metrics, recorder, progress

    def on_start(self, descriptions: Mapping[str, Sequence[Description]]) -> None:
        self._progress.started(descriptions)

    def on_interval(self, reports: Sequence[Report], wait_s: float, lag: int) -> None:
        row = self._metrics.add_interval(reports, wait_s, lag)
        self._recorder.record("interval", row)
        self._progress.interval(row)

    def on_evaluation(self, evaluation: Evaluation, final: bool) -> None:
        row = self._metrics.add_evaluation(evaluation, final)
        self._recorder.record("evaluation", row)
        self._progress.evaluation(row)

    def on_warning(self, message: str) -> None:
        self._progress.warning(message)


def train(
    config: Config,
    console: Console | None = None,
    placement: PlacementGroup | None = None,
    verbose: bool = False,
    started_at: float | None = None,
) -> RunResult:
    """Runs `config` to its end and returns what it left behind.

    Args:
        config: the run.
        console: where progress is shown; default: nowhere.
        placement: a placement group with `placement.bundles(config)`, e.g. a Tune trial's; default:
            made and removed.
        verbose: let Ray's own messages through.
        started_at: time.time() at which the command began, for `first_step_s`; default: now.

    Raises:
        ConfigError: what is wrong with the input; no run directory is left.
        InterruptedRunError: SIGINT or SIGTERM; the summary says so.
        TandemError: the first cause of a failed run; the summary says so.
    """
    began = time.time() if started_at is None else started_at
    run_dir = RunDir(config.run_url)
    run_dir.refuse_existing()
    check_installed(config.trackers)
    with (
        Progress(config, console or Console(quiet=True)) as progress,
        _stop_signals() as stop_requested,
    ):
        progress.phase("reading the corpus and starting Ray")
        with ThreadPoolExecutor(1) as pool:  # BPE training and Ray's start take about the same time
            tokenizing = pool.submit(train_tokenizer, config)
            with _ray(config, verbose):
                tokenizer = tokenizing.result()
                return _train_on_ray(
                    config, run_dir, tokenizer, progress, placement, stop_requested, began
                )


def _train_on_ray(
    config: Config,
    run_dir: RunDir,
    tokenizer: Tokenizer,
    progress: Progress,
    placement: PlacementGroup | None,
    stop_requested: _StopFlag,
    began: float,
) -> RunResult:
    own_placement = reserve(config, stop_requested.reason) if placement is None else None
    cluster = Cluster(config, tokenizer.to_json(), placement or own_placement)
    metrics = Metrics(began)
    try:
        progress.phase("starting both groups")
        descriptions = cluster.start(stop_requested.reason)
        sizes = {group: descriptions[group][0].snapshot_bytes for group in GROUPS}
        check_fits(sizes, ray.cluster_resources().get("object_store_memory", 0.0))
        run_dir.write(CONFIG, config.to_yaml())
        run_dir.write(TOKENIZER, tokenizer.to_json())
        trackers = start_trackers(config, progress.warning)
        recorder = Recorder(run_dir, metrics, progress.warning, trackers)
        ended = FAILED
        try:
            listener = _Listener(metrics, recorder, progress)
            listener.on_start(descriptions)
            coordinator = Coordinator(config, cluster, listener, stop_requested.reason)
            outcome = coordinator.run()
            progress.phase("exporting")
            digests = cluster.export(run_dir.path(EXPORT))
            ended = FINISHED
        except TandemError as err:
            ended = INTERRUPTED if isinstance(err, InterruptedRunError) else FAILED
            summary = summarise_failure(config, metrics, ended, str(err), time.time() - began)
            run_dir.write_json(SUMMARY, summary)
            raise
        finally:
            recorder.close(ended)
        summary = summarise(config, metrics, coordinator, outcome, digests, time.time() - began)
        run_dir.write(REPORT, render_report(config, summary, metrics))
        run_dir.write_json(SUMMARY, summary)  # last: who finds it finds the rest
        return RunResult(summary["status"], run_dir.url, summary)
    finally:
        cluster.stop()
        if own_placement is not None:
            remove_placement_group(own_placement)


class _StopFlag:
    """Set by the first SIGINT or SIGTERM, read by the coordinator once a tick."""

    def __init__(self) -> None:
        self._reason: str | None = None

    def reason(self) -> str | None:
        """Why the run should end, or None."""
        return self._reason

    def set(self, signum: int, _frame: Any) -> None:
        """Remembers the signal; a second one ends the process's wait at once."""
        if self._reason is not None:
            raise KeyboardInterrupt
        name = signal.Signals(signum).name
        self._reason = (
            f"stopped by {name}; both groups were ended; start again with another "
            "name=… to train anew"
        )


@contextmanager
def _stop_signals() -> Iterator[_StopFlag]:
    flag = _StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag  # a Tune trial: Tune ends it, signals go to the main thread
        return
    before = {s: signal.signal(s, flag.set) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def _ray(config: Config, verbose: bool) -> Iterator[None]:
    """A Ray that is there already, the one at the configured address, or one embedded for this run
    alone.
    """
    if ray.is_initialized():
        yield
        return
    address = config.ray.address or os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {} if verbose else {"log_to_driver": False, "logging_level": "CRITICAL"}
    embedded: dict[str, Any] = {
        "num_cpus": config.ray.num_cpus,
        "num_gpus": config.ray.num_gpus,
        "object_store_memory": config.ray.object_store_mib and config.ray.object_store_mib * 2**20,
        "include_dashboard": False,
    }
    try:
        ray.init(address=address or "local", **quiet, **({} if address else embedded))
    except (ConnectionError, RuntimeError, ValueError) as err:
        where = f"at {address}" if address else "on this machine"
        raise ConfigError(f"Ray {where} can't be used: {err}") from err
    try:
        yield
    finally:
        ray.shutdown()
