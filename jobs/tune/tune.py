"""`tandem tune`: Ray Tune searches a run's settings; each trial is a whole decoupled run.

storage/NAME/search.yaml      the search; base.yaml, the config that it varies; corpus.json, what it
                              reads: with another corpus it does not go on
storage/NAME/trials/          a result and the run directories of every trial, the only record of a
                              search: the same command continues from it
storage/NAME/results.parquet  a row per trial
storage/NAME/best.yaml        a config for `tandem train`; with several objectives the front's best
                              by the first, and the whole front in pareto/, pareto.parquet
storage/NAME/report.html      and summary.json
storage/NAME/tune/            Tune's own files, a folder per start; nothing is read from them

    PointSearcher -> Tune -> run_trial in a process of its own -> reports -> ResultsCallback
         ^                                                                         |
         +------------------------- TrialResults, trials/003.json <----------------+
"""

from __future__ import annotations

import logging
import os
import re
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pyarrow.fs
import ray
import yaml
from ray import tune
from ray.tune.experiment import Trial

from actors.settings.fields import Mark, marked_keys
from actors.sources.corpus_files import CorpusMarks
from actors.wire import ConfigError
from jobs.check.corpus_check import look_at_corpus
from jobs.tune.algorithms import PointSearcher, population, scheduler_of
from jobs.tune.callbacks import ResultsCallback, tracker_callbacks
from jobs.tune.progress import SearchProgress, print_results
from jobs.tune.results import FAILED, TrialResults
from jobs.tune.search import (
    ASSIGNMENT,
    BASE,
    PBT,
    SEARCH,
    TUNE,
    Assignment,
    Search,
    SearchSpec,
    load_search,
    trial_name,
)
from jobs.tune.space import extremes
from jobs.tune.trial import run_trial
from orchestrator.console import Console
from orchestrator.errors import InterruptedRunError
from orchestrator.nodes.autoscaler import scaler_state
from orchestrator.nodes.nodes import Node, cluster_nodes
from orchestrator.nodes.placement import bundle_labels, bundles, check_resources
from orchestrator.processes.ray_session import ray_session
from orchestrator.reporting.trackers import check_installed
from orchestrator.run_dir.corpus_record import refuse_changed_corpus, write_record
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.run_dir.saved_config import saved_config
from orchestrator.settings.config import changed_keys

JOB_MARK = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for the drivers of jobs
# What may change when a search goes on: more trials, more at a time, more attempts.
CHANGEABLE = tuple(marked_keys(SearchSpec, Mark.RESUMABLE))


def run_search(path: str, overrides: Sequence[str], console: Console) -> bool:
    """Runs or continues the search of a file; returns whether a trial finished.

    Raises:
        ConfigError: what is wrong with the file, before anything starts.
        InterruptedRunError: SIGINT or SIGTERM; the same command goes on.
    """
    began = time.time()
    search = load_search(path, overrides)
    where = RunDir(search.url)
    refuse_other_search(where, search)
    check_installed(search.spec.trackers)
    inventory = look_at_corpus(search.base).inventory
    marks = CorpusMarks.of(search.base.corpus)
    warnings_so_far: list[str] = []  # shown with the progress
    if where.exists(SEARCH):
        refuse_changed_corpus(where, search.base, marks, warnings_so_far.append)
    for line in inventory.lines():
        console.say(line)
    silence_ray_tune()

    def say(text: str) -> None:
        console.say(text)

    with (
        ray_session(search.base, verbose=False, say=say, warn=say),
        _sigterm_as_ctrl_c(),
        _quiet("ray.tune"),
        _in_lasting_folder(),
    ):
        if scaler_state() is None:  # else the autoscaler may add what is missing
            check_fits(search, ray.cluster_resources(), cluster_nodes())
        results = TrialResults.read(where, search.num_trials)
        where.write(BASE, search.base.to_yaml())
        where.write(SEARCH, as_yaml(search))
        write_record(where, marks, inventory)
        with SearchProgress(search, console, results) as progress:
            for message in [*warnings_so_far, *inventory.warnings()]:
                progress.warning(message)
            if results.num_over < search.num_trials:
                _fit(search, where, results, progress)
    from jobs.tune.report import write_results  # draws with matplotlib

    done = sum(result.is_over or result.status == FAILED for result in results.all)
    best = write_results(where, search, results.all, time.time() - began)
    if done < search.num_trials:
        raise InterruptedRunError(
            f"the search was stopped: {done} of {search.num_trials} trials are done; the same "
            "command goes on"
        )
    print_results(search, results.all, best, console)
    return bool(best)


def refuse_other_search(where: RunDir, search: Search) -> None:
    """Refuses to continue a directory that holds a search with other settings.

    Raises: ConfigError naming what differs.
    """
    if not where.exists(SEARCH):
        return
    old, new = yaml.safe_load(where.read(SEARCH)), yaml.safe_load(as_yaml(search))
    differing = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    lines = [f"{key} was {old.get(key)!r}, now {new.get(key)!r}" for key in differing
             if key not in (*CHANGEABLE, "base")]  # fmt: skip
    if "trials" in differing and search.spec.scheduler == PBT:
        lines.append(f"trials was {old['trials']!r}, now {new['trials']!r}")
    if where.exists(BASE):
        changed = changed_keys(saved_config(where, BASE), search.base)
        lines += [f"{key} was {a!r}, now {b!r}" for key, a, b in changed]
    if lines:
        raise ConfigError(
            f"{where.url} holds another search ({'; '.join(lines)}); give this one another name=…, "
            "or run the same command as before to go on"
        )


def as_yaml(search: Search) -> str:
    """The search as the text of its file in the directory."""
    return str(yaml.safe_dump(search.spec.model_dump(mode="json"), sort_keys=False))


def check_fits(search: Search, resources: Mapping[str, float], nodes: Sequence[Node] = ()) -> None:
    """Raises: PlacementError where a trial needs more than the whole cluster, or labels that none
    of its nodes has.
    """
    free = {**resources, "CPU": resources.get("CPU", 0.0) - search.spec.driver_cpus}
    for _, point in extremes(search.spec.space, search.spec.sums):
        check_resources(search.config(point), free, nodes)


def _fit(search: Search, where: RunDir, results: TrialResults, progress: SearchProgress) -> None:
    spec = search.spec
    trainable = tune.with_resources(
        tune.with_parameters(run_trial, search=search), lambda config: seats_of(search, config)
    )
    points: dict[str, Any] = {
        "search_alg": PointSearcher(search, results),
        "num_samples": search.num_trials - results.num_over,
    }
    param_space: dict[str, Any] = {}
    if spec.scheduler == PBT:  # Ray's takes no searcher: all its trials exist from the start
        points = {}
        param_space = {ASSIGNMENT: tune.grid_search(population(search, results))}
    folder = where.path(TUNE)
    remote = {}
    if "://" in folder:
        fs, folder = where.file_system(TUNE)
        remote = {"storage_filesystem": pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs))}
    record = ResultsCallback(search, results, progress.event, progress.warning)
    with tracker_callbacks(search, progress.warning) as trackers:
        tune.Tuner(
            trainable,
            param_space=param_space,
            tune_config=tune.TuneConfig(
                **points,
                scheduler=scheduler_of(search, results),
                max_concurrent_trials=spec.at_once or None,
                trial_name_creator=lambda trial: f"{spec.name}-{_name_of(trial)}",
                trial_dirname_creator=_name_of,
            ),
            run_config=tune.RunConfig(
                name=str(len(where.list_folders(TUNE))),
                storage_path=folder,
                **remote,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=spec.max_failures),
                checkpoint_config=tune.CheckpointConfig(num_to_keep=4),  # Ray's PBT warns of fewer
                callbacks=[record, *trackers],
            ),
        ).fit()


def _name_of(trial: Trial) -> str:
    return trial_name(trial.config[ASSIGNMENT]["number"])


def seats_of(search: Search, config: Mapping[str, Assignment]) -> tune.PlacementGroupFactory:
    """The placement group of a trial: its driver's bundle, and both groups' bundles."""
    cpus = search.spec.driver_cpus
    head = {"CPU": cpus} if cpus else {}
    trial = search.trial_config(config[ASSIGNMENT])
    labels = bundle_labels(trial)
    selectors: dict[str, Any] = {}
    if any(labels):  # one for each bundle; Ray leaves an empty head out
        selectors["bundle_label_selector"] = [*([{}] if head else []), *labels]
    return tune.PlacementGroupFactory([head, *bundles(trial)], strategy="PACK", **selectors)


def silence_ray_tune() -> None:
    """Turns off Ray Tune's tables, loggers and metric check; only environment variables control
    them.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    # The check refuses reports without an objective: there is no reflection rate at first.
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Silences a library's log, which would break the live table; errors are in the results."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=re.escape(name))
            yield
    finally:
        logger.setLevel(before)


@contextmanager
def _in_lasting_folder() -> Iterator[None]:
    """Works in a temporary folder if this is a cluster's job: Tune asks for the working directory,
    and a job's is removed and unpacked again when another node on this machine starts a process.
    """
    if JOB_MARK not in os.environ:  # else relative paths have a meaning, as a tracker's
        yield
        return
    before = None
    with suppress(FileNotFoundError):  # it may be removed right now
        before = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="tandem-tune-") as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            with suppress(FileNotFoundError):
                os.chdir(before or os.path.expanduser("~"))


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """SIGTERM ends a search as Ctrl-C does: Tune ends its trials and returns."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
