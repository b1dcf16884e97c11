"""`tandem tune`: Ray Tune searches a run's settings; each trial is a whole decoupled run.

storage/NAME/search.yaml      as it was started; base.yaml, the config that it varies; corpus.json,
                              what it reads: with another corpus it does not go on
storage/NAME/trials/          a result and the run directories of every trial; from these the
                              same command goes on
storage/NAME/results.parquet  a row per trial
storage/NAME/best.yaml        a config for `tandem train`; of several objectives the front's
                              best by the first, and the whole front in pareto/, pareto.parquet
storage/NAME/report.html      and summary.json
storage/NAME/tune/            Tune's own files, a folder per start; nothing is read from them
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
from rich.table import Table

from actors.settings.fields import Mark, marked_keys
from actors.sources.corpus_files import CorpusMarks
from actors.wire import ConfigError
from jobs.check.corpus_check import look_at_corpus
from jobs.tune.file import load_search
from jobs.tune.points import PointSearcher, population
from jobs.tune.progress import SearchProgress, shown
from jobs.tune.record import SearchRecord
from jobs.tune.report import render_search_report
from jobs.tune.results import (
    FAILED,
    FINISHED,
    STOPPED,
    TrialResult,
    pareto_front,
    read_results,
    table_rows,
)
from jobs.tune.schedulers import scheduler_of
from jobs.tune.space import extremes
from jobs.tune.spec import PBT, Search, SearchSpec
from jobs.tune.trackers import tracker_callbacks
from jobs.tune.trial import DONOR, GENERATION, GIVEN, NUMBER, POINT, run_trial, trial_config
from orchestrator.console import Console
from orchestrator.errors import InterruptedRunError
from orchestrator.nodes.autoscaler import scaler_state
from orchestrator.nodes.nodes import Node, cluster_nodes
from orchestrator.nodes.placement import bundle_labels, bundles, check_resources
from orchestrator.processes.ray_session import ray_session
from orchestrator.reporting.trackers import check_installed
from orchestrator.run_dir.corpus_record import refuse_changed_corpus, write_record
from orchestrator.run_dir.parquet import to_parquet
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.run_dir.saved_config import saved_config
from orchestrator.settings.config import changed_keys
from orchestrator.settings.file_names import REPORT, SUMMARY

SEARCH, BASE, RESULTS, BEST = "search.yaml", "base.yaml", "results.parquet", "best.yaml"
PARETO, TUNE = "pareto", "tune"
JOB_MARK = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for the drivers of jobs
COLUMNS = 5  # trials of the front that the last table shows
# What the same search may be gone on with: more trials, more at a time, more tries.
CHANGEABLE = tuple(marked_keys(SearchSpec, Mark.RESUMABLE))


def run_search(path: str, overrides: Sequence[str], console: Console) -> bool:
    """Runs or continues the search of a file; returns whether a trial came to its end.

    Raises:
        ConfigError: what is wrong with it, before anything starts.
        InterruptedRunError: SIGINT or SIGTERM; the same command goes on.
    """
    began = time.time()
    search = load_search(path, overrides)
    where = RunDir(search.url)
    refuse_other_search(where, search)
    check_installed(search.spec.trackers)
    _, _, inventory = look_at_corpus(search.base)
    marks = CorpusMarks.of(search.base.corpus)
    warned: list[str] = []  # shown when the progress is
    if where.exists(SEARCH):
        refuse_changed_corpus(where, search.base, marks, warned.append)
    for line in inventory.lines():
        console.say(line)
    _still_tune()

    def said(text: str) -> None:
        console.say(text)

    with (
        ray_session(search.base, verbose=False, say=said, warn=said),
        _stopped_like_ctrl_c(),
        _quiet("ray.tune"),
        _in_a_folder_that_stays(),
    ):
        if scaler_state() is None:  # else what is missing may be added
            check_fits(search, ray.cluster_resources(), cluster_nodes())
        before = read_results(where, search.num_trials)
        where.write(BASE, search.base.to_yaml())
        where.write(SEARCH, as_yaml(search))
        write_record(where, marks, inventory)
        with SearchProgress(search, console, before) as progress:
            for message in [*warned, *inventory.warnings()]:
                progress.warning(message)
            record = SearchRecord(search, where, before, progress.event, progress.warning)
            if sum(result.is_over for result in before) < search.num_trials:
                _fit(search, where, before, record, progress)
    results = record.results
    over = sum(result.is_over or result.status == FAILED for result in results)
    best = write_results(where, search, results, time.time() - began)
    if over < search.num_trials:
        raise InterruptedRunError(
            f"the search was stopped: {over} of {search.num_trials} trials are done; the same "
            "command goes on"
        )
    print_results(search, results, best, console)
    return bool(best)


def refuse_other_search(where: RunDir, search: Search) -> None:
    """The same command goes on; another one must not mix with what is there.

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
    """The search as it is kept."""
    return str(yaml.safe_dump(search.spec.model_dump(mode="json"), sort_keys=False))


def check_fits(search: Search, there: Mapping[str, float], nodes: Sequence[Node] = ()) -> None:
    """Raises: PlacementError where a trial needs more than the whole cluster, or labels that none
    of its nodes has.
    """
    free = {**there, "CPU": there.get("CPU", 0.0) - search.spec.driver_cpus}
    for _, point in extremes(search.spec.space, search.spec.sums):
        check_resources(search.config(point), free, nodes)


def _fit(
    search: Search,
    where: RunDir,
    before: Sequence[TrialResult],
    record: SearchRecord,
    progress: SearchProgress,
) -> None:
    spec = search.spec
    trainable = tune.with_resources(
        tune.with_parameters(run_trial, search=search), lambda config: seats_of(search, config)
    )
    left = search.num_trials - sum(result.is_over for result in before)
    own: dict[str, Any] = {"search_alg": PointSearcher(search, before), "num_samples": left}
    space: dict[str, Any] = {}
    if spec.scheduler == PBT:  # Ray's takes no searcher: all its trials are there from the start
        own, space = {}, {GIVEN: tune.grid_search(_members(search, before))}
    folder = where.path(TUNE)
    remote = {}
    if "://" in folder:
        fs, folder = where.file_system(TUNE)
        remote = {"storage_filesystem": pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs))}
    with tracker_callbacks(search, progress.warning) as trackers:
        tune.Tuner(
            trainable,
            param_space=space,
            tune_config=tune.TuneConfig(
                **own,
                scheduler=scheduler_of(search, before),
                max_concurrent_trials=spec.at_once or None,
                trial_name_creator=_trial_name(search),
                trial_dirname_creator=lambda trial: f"{trial.config[GIVEN][NUMBER]:03d}",
            ),
            run_config=tune.RunConfig(
                name=str(len(where.list_folders(TUNE))),
                storage_path=folder,
                **remote,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=spec.max_failures),
                checkpoint_config=tune.CheckpointConfig(num_to_keep=4),  # donors': PBT warns below
                callbacks=[record, *trackers],
            ),
        ).fit()


def seats_of(search: Search, config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
    """The placement group of a trial: its driver's bundle, and both groups' bundles."""
    cpus = search.spec.driver_cpus
    head = {"CPU": cpus} if cpus else {}
    trial = trial_config(search, config[GIVEN])
    labels = bundle_labels(trial)
    more: dict[str, Any] = {}
    if any(labels):  # one for each bundle; Ray leaves out a head of nothing
        more["bundle_label_selector"] = [*([{}] if head else []), *labels]
    return tune.PlacementGroupFactory([head, *bundles(trial)], strategy="PACK", **more)


def _trial_name(search: Search) -> Any:
    return lambda trial: f"{search.spec.name}-{trial.config[GIVEN][NUMBER]:03d}"


def _members(search: Search, before: Sequence[TrialResult]) -> list[dict[str, Any]]:
    """The configs of a population's members that are not over."""
    known = {result.number: result for result in before}
    members = []
    for number, point in enumerate(population(search)):
        result = known.get(number)
        if result is None:
            members.append({NUMBER: number, POINT: point})
        elif not result.is_over:
            moved = (
                {GENERATION: len(result.moves), DONOR: result.moves[-1].donor}
                if (result.moves)
                else {}
            )
            members.append({NUMBER: number, POINT: result.point, **moved})
    return members


def _still_tune() -> None:
    """Tune's own tables, files and checks, in place of which are ours. It has no other switches."""
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    # A figure may be missing at first: no answer has changed yet, and there is no reflection rate.
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """What a library logs would tear the live table; errors come with the trials' results."""
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
def _in_a_folder_that_stays() -> Iterator[None]:
    """Tune asks for the working directory. A job's is removed and laid down anew where another node
    on the same machine starts a process of it.
    """
    if JOB_MARK not in os.environ:  # here relative paths mean something, a tracker's for one
        yield
        return
    before = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="tandem-tune-") as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            with suppress(FileNotFoundError):
                os.chdir(before)


@contextmanager
def _stopped_like_ctrl_c() -> Iterator[None]:
    """SIGTERM ends a search as Ctrl-C does: Tune ends its trials and comes back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def write_results(
    where: RunDir, search: Search, results: Sequence[TrialResult], wall_s: float
) -> list[TrialResult]:
    """Writes the tables, the configs of the best and the report; returns the best."""
    goals = search.spec.goals
    best = pareto_front(results, goals)
    where.write(RESULTS, to_parquet(table_rows(results)))
    for index, result in enumerate(best):
        named = {"name": f"{search.spec.name}-{result.name}", "storage": search.spec.storage}
        text = search.config(result.point, **named).to_yaml()
        if index == 0:
            where.write(BEST, text)
        if len(goals) > 1:
            where.write(f"{PARETO}/{result.name}.yaml", text)
    if len(goals) > 1:
        where.write(f"{PARETO}.parquet", to_parquet(table_rows(best)))
    summary = {
        "name": search.spec.name,
        "wall_s": wall_s,
        "trials": search.num_trials,
        **{state.replace(" ", "_"): sum(r.status == state for r in results)
           for state in (FINISHED, STOPPED, FAILED)},
        "failures": sum(r.failures for r in results),
        "objectives": search.spec.objectives,
        "best": [
            {"trial": r.name, "values": r.values, "figures": r.figures} for r in best
        ],
    }  # fmt: skip
    where.write_json(SUMMARY, summary)
    where.write(REPORT, render_search_report(search, results, best))
    return best


def print_results(
    search: Search,
    results: Sequence[TrialResult],
    best: Sequence[TrialResult],
    console: Console,
) -> None:
    """How many did what, and the best with their figures."""
    counts = {s: sum(r.status == s for r in results) for s in (FINISHED, STOPPED, FAILED)}
    console.say(f"{len(results)} trials: " + ", ".join(f"{n} {s}" for s, n in counts.items()))
    for error in sorted({r.error for r in results if r.status == FAILED}):
        console.say(f"failed: {error}", "red")
    goals = search.spec.goals
    if not best:
        console.say("no trial came to its end with all objectives", "red")
        console.say(f"report: {search.url}/{REPORT}")
        return
    console.print(_best_table([goal.figure for goal in goals], best[:COLUMNS]))
    if len(best) > COLUMNS:
        more = f"and {len(best) - COLUMNS} more on the front: {search.url}/{PARETO}.parquet"
        console.say(more)
    for what, name in (("train the best with", BEST), ("report", REPORT)):
        console.say(f"{what}: {search.url}/{name}")


def _best_table(figures: Sequence[str], best: Sequence[TrialResult]) -> Table:
    """A column per trial, since a trial may have many settings; objectives first."""
    title = "the best" if len(figures) == 1 else "the Pareto front"
    table = Table(title=title, title_justify="left")
    table.add_column("trial", overflow="fold")
    for result in best:
        table.add_column(result.name, justify="right", overflow="fold")
    for name in figures:
        table.add_row(name, *(shown(result.figures[name]) for result in best))
    table.add_section()
    for name in best[0].values:
        table.add_row(name, *(shown(result.values[name]) for result in best))
    return table
