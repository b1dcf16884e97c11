"""`train(config) -> RunResult`: a whole run, from an empty directory to the exports. What the job,
Tune and notebooks call.

Order matters: everything that can be wrong with the input is checked before the run directory
exists, so that a bad config never leaves a half-made run. Ray is imported only for a run on Ray,
torch only for a run in this process.
"""

from __future__ import annotations

import json
import shlex
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from actors.corpus.corpus import build_tokenizer
from actors.corpus.general_text import shown_general_text
from actors.corpus.inventory import Inventory, take_inventory
from actors.lessons.lesson_files import read_exam
from actors.machine.host_memory import ByteArray
from actors.settings.run import DATA, MEMORY
from actors.sources.corpus_files import CorpusMarks
from actors.tokenizers.tokenizer import Tokenizer
from actors.wire import ConfigError, RankDescription, StorageError, Taught, one_line
from orchestrator.console import Console
from orchestrator.errors import InterruptedRunError
from orchestrator.loop.coordinator import Coordinator, new_groups
from orchestrator.loop.exchange import GroupCheckpoint
from orchestrator.loop.group_state import GroupState
from orchestrator.reporting.listener import RunListener
from orchestrator.reporting.progress_view import ProgressView
from orchestrator.reporting.prometheus import Exporter, to_nowhere, to_ray
from orchestrator.reporting.recorder import Recorder
from orchestrator.reporting.report import render_report
from orchestrator.reporting.summary import summarise, summarise_failure
from orchestrator.reporting.taught import judged, taught_json
from orchestrator.reporting.taught_report import taught_page
from orchestrator.reporting.trackers import check_installed, start_trackers
from orchestrator.run_dir.checkpoint_writer import CheckpointWriter
from orchestrator.run_dir.checkpoints import Restored, load, remove_unfinished, stored_part
from orchestrator.run_dir.control_thread import ControlThread, refresh_every_s
from orchestrator.run_dir.corpus_record import refuse_changed_corpus, write_record
from orchestrator.run_dir.metrics import Metrics, Row, held_out
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.run_dir.run_status import RunStatus, is_finished
from orchestrator.run_dir.saved_config import saved_config
from orchestrator.run_dir.status import Driver, Pulse, look, status_of, steps_of
from orchestrator.runtime import Groups, Runtime
from orchestrator.settings.config import Config, changed_keys
from orchestrator.settings.file_names import (
    CONFIG,
    EXPORT,
    REPORT,
    SUMMARY,
    TAUGHT,
    TOKENIZER,
    resume_command,
)
from orchestrator.start_check import look_at_weights
from orchestrator.stop_signals import StopFlag, stop_signals

if TYPE_CHECKING:
    from orchestrator.nodes.placement import Seats


@dataclass(frozen=True)
class RunResult:
    """What a run left behind.

    Attributes:
        status: FINISHED or UNREFLECTED.
        path: the run directory.
        summary: `summary.json`.
    """

    status: RunStatus
    path: str
    summary: dict[str, Any]


def train(
    config: Config,
    console: Console | None = None,
    seats: Seats | None = None,
    verbose: bool = False,
    started_at: float | None = None,
    resume: bool = False,
    on_evaluation: Callable[[Row], None] | None = None,
    in_process: bool = False,
) -> RunResult:
    """Runs `config` to its end and returns what it left behind.

    Args:
        config: the run.
        console: where progress is shown; default: nowhere.
        seats: a placement group with `placement.bundles(config)`, e.g. a Tune trial's; default:
            made and removed.
        verbose: let Ray's own messages through.
        started_at: time.time() at which the command began, for `first_step_s`; default: now.
        resume: go on with an interrupted run of that name from its newest checkpoint; from the
            beginning where it has none yet.
        on_evaluation: receives the figures of each evaluation, as `evaluations.json` holds them.
        in_process: train in this process, without Ray, with the same bits: for a breakpoint in a
            step, for notebooks and tests. Both groups take turns; what a trainer raises ends the
            run as it is, with its traceback.

    Raises:
        ConfigError: what is wrong with the input, no run directory is left; or the run to resume
            is running; or a run in this process has settings that need several.
        StorageError: storage is away at the start, or for too long at the end.
        CheckpointError: the run to resume has checkpoints, and none of them is sound.
        InterruptedRunError: SIGINT or SIGTERM; the summary says so.
        TandemError: the first cause of a failed run; the summary says so.
    """
    began = time.time() if started_at is None else started_at
    check_installed(config.trackers)
    runtime = _runtime(config, seats, verbose, in_process)
    with (
        ProgressView(config, console or Console(quiet=True)) as progress,
        stop_signals(resume_command(config.run_url, in_process)) as stop_requested,
    ):
        run_dir = RunDir(config.run_url, config.deadlines.storage_s, progress.warning)
        going_on = resume and run_dir.exists(CONFIG)
        if going_on:
            refuse_other_run(run_dir, config)
            refuse_running(run_dir)
        else:  # what a run teaches lies in its directory before it begins
            run_dir.refuse_existing(CONFIG if config.teach.is_on else "")
        look_at_weights(config.data.layer.pretrained)
        progress.phase(runtime.starting)
        with ThreadPoolExecutor(1) as pool:  # BPE training and Ray's start take about the same time
            reading = pool.submit(
                _Corpus.read, config, run_dir if going_on else None, progress.warning
            )
            with runtime.session(config, progress.says, progress.warning):
                stop_requested.arm()
                corpus = reading.result()
                progress.corpus(corpus.inventory)
                restored = load(run_dir, progress.warning, runtime.store) if going_on else None
                if going_on:
                    progress.resuming(restored.pair.interval if restored else 0)
                receive = on_evaluation or (lambda row: None)
                job = _Job(
                    config, run_dir, corpus, progress, runtime, stop_requested, began, receive
                )
                return job.run(restored)


def _runtime(config: Config, seats: Seats | None, verbose: bool, in_process: bool) -> Runtime:
    """Where the groups will be. Raises: ConfigError where they can't be there."""
    if in_process:
        assert seats is None, "a run in one process takes no placement group"
        from orchestrator.in_process.runtime import InProcessRuntime

        return InProcessRuntime(config)
    from orchestrator.processes.ray_runtime import RayRuntime

    return RayRuntime(seats, verbose)


def refuse_other_run(run_dir: RunDir, config: Config) -> None:
    """Raises: ConfigError where the run is finished, was started with another config, or trained by
    settings that are gone.
    """
    if run_dir.exists(SUMMARY):
        status = str(json.loads(run_dir.read(SUMMARY)).get("status", ""))
        if is_finished(status):
            raise ConfigError(
                f"run {run_dir.url} is {status}: there is nothing to resume; train on from its "
                "exports under another name=…"
            )
    before = saved_config(run_dir, goes_on=True)
    if changed := changed_keys(before, config):
        lines = "; ".join(f"{key}: was {old!r}, now {new!r}" for key, old, new in changed)
        raise ConfigError(
            f"run {run_dir.url} can't be resumed with another config ({lines}); set them back, or "
            "start under another name=…"
        )


def refuse_running(run_dir: RunDir) -> None:
    """Raises: ConfigError where a driver of the run is alive."""
    seen = look(run_dir)
    if seen.state == RunStatus.RUNNING:
        driver = seen.status["driver"]
        raise ConfigError(
            f"run {run_dir.url} is running (process {driver['pid']} on {driver['host']}, heard of "
            f"{seen.age_s:.0f} s ago); stop it first: tandem stop {shlex.quote(run_dir.url)}"
        )


@dataclass(frozen=True)
class _Corpus:
    """What the driver knows of the corpus before anything starts."""

    tokenizer: Tokenizer
    marks: CorpusMarks
    inventory: Inventory

    @classmethod
    def read(cls, config: Config, resumed: RunDir | None, warn: Callable[[str], None]) -> _Corpus:
        """Reads it; of a resumed run it must be the one with which that began.

        Raises:
            ConfigError: it can't be read, or is another one.
        """
        marks = CorpusMarks.of(config.corpus)
        if resumed is not None:
            refuse_changed_corpus(resumed, config, marks, warn)
        if resumed is not None and resumed.exists(TOKENIZER):
            tokenizer = Tokenizer.from_json(resumed.read(TOKENIZER))
        else:
            tokenizer = build_tokenizer(config)
        shown_general_text(config, tokenizer)  # shows its faults before a worker starts
        return cls(tokenizer, marks, take_inventory(config, tokenizer))


@dataclass(frozen=True)
class _Job:
    """One run in a session that is there."""

    config: Config
    run_dir: RunDir
    corpus: _Corpus
    progress: ProgressView
    runtime: Runtime
    stop_requested: StopFlag
    began: float
    on_evaluation: Callable[[Row], None]

    def run(self, restored: Restored | None) -> RunResult:
        """From the groups' start to the summary."""
        reason, tokenizer_json = self.stop_requested.reason, self.corpus.tokenizer.to_json()
        with self.runtime.groups(
            self.config, tokenizer_json, self._stored_part, reason, self.progress.waiting
        ) as groups:
            self.progress.phase("starting both groups")
            descriptions = groups.start(reason, restored.pair.groups if restored else None)
            self.runtime.refuse_too_large(self.config, descriptions)
            write_record(self.run_dir, self.corpus.marks, self.corpus.inventory)
            self.run_dir.write(CONFIG, self.config.to_yaml(self.config.run_url))
            self.run_dir.write(TOKENIZER, tokenizer_json)
            self.run_dir.remove(SUMMARY)  # an interrupted run's; this one has none yet
            remove_unfinished(self.run_dir)
            metrics = Metrics.resumed(restored.rows) if restored else Metrics(self.began)
            return self._train(groups, descriptions, metrics, restored)

    def _stored_part(self, saved: GroupCheckpoint, index: int) -> ByteArray | None:
        return stored_part(self.run_dir, saved, index)

    def _train(
        self,
        groups: Groups,
        descriptions: Mapping[str, Sequence[RankDescription]],
        metrics: Metrics,
        restored: Restored | None,
    ) -> RunResult:
        config, run_dir, warn = self.config, self.run_dir, self.progress.warning
        recorder = Recorder(run_dir, metrics, warn, start_trackers(config, warn))
        ended, message = RunStatus.FAILED, "the driver failed"
        pair = restored.pair if restored else None
        newest = pair.interval if pair else None
        writer = CheckpointWriter(run_dir, config.checkpoints, warn, self.runtime.store, newest)
        exporter = Exporter(config, warn, to_ray if self.runtime.has_metrics else to_nowhere)
        for row in metrics.evaluations:
            writer.measured(row["data_version"], held_out(row))
        group_states = new_groups()
        control = self._control(groups, group_states, metrics, writer)
        try:
            listener = RunListener(
                metrics, recorder, writer, self.progress, control, exporter, self.on_evaluation
            )
            listener.on_start(descriptions)
            notice = self.runtime.notice(groups, config)

            def reason() -> str | None:
                return self.stop_requested.reason() or notice() or control.stop_reason()

            coordinator = Coordinator(
                self.runtime.loop_config(config),
                groups,
                listener,
                reason,
                pair,
                new_commands=control.commands,
                groups=group_states,
            )
            outcome = coordinator.run()
            control.phase = "exporting"
            self.progress.phase("exporting")
            digests = groups.export(run_dir.path(EXPORT))
            ended = RunStatus.FINISHED
        except KeyboardInterrupt as err:  # now, without a summary
            ended, message = RunStatus.INTERRUPTED, str(err) or "interrupted"
            raise
        except Exception as err:  # the border: whatever it is, its cause is kept
            ended = (
                RunStatus.INTERRUPTED if isinstance(err, InterruptedRunError) else RunStatus.FAILED
            )
            message = one_line(err)
            wall_s = time.time() - metrics.started_at
            summary = summarise_failure(config, metrics, ended, message, wall_s)
            try:
                run_dir.write_json(SUMMARY, summary)
            except (ConfigError, StorageError) as unwritten:  # must not hide the first cause
                warn(f"{unwritten}; the summary of this run is not written")
            raise
        finally:
            writer.close()
            recorder.close(ended)
            exporter.close()
            if ended != RunStatus.FINISHED:
                control.close(ended, message)
        ended, message = RunStatus.FAILED, "its results could not be written"
        try:
            wall_s = time.time() - metrics.started_at
            summary = summarise(config, metrics, coordinator, outcome, digests, wall_s)
            summary["checkpoints"] = {"written": writer.num_written, "bytes": writer.num_bytes}
            patience_s = config.deadlines.storage_s
            taught = outcome.final_evaluation.taught
            if taught is None:
                report = render_report(control.config, summary, metrics)
            else:
                report = self._report_taught(taught, summary, control.config, metrics)
            run_dir.write(REPORT, report, patience_s)
            last = json.dumps(summary, indent=2, ensure_ascii=False) + "\n"
            run_dir.write(SUMMARY, last, patience_s)  # who finds it finds the rest
            ended = RunStatus(summary["status"])
            message = f"the run is {ended.replace('_', ' ')}"
        finally:
            control.close(ended, message)
        return RunResult(ended, run_dir.url, summary)

    def _report_taught(
        self, taught: Taught, summary: dict[str, Any], config: Config, metrics: Metrics
    ) -> str:
        """Writes `taught.json` and returns the page about it; the summary's verdict becomes that of
        what was taught.
        """
        written = taught_json(taught, read_exam(config.teach).facts, summary, summary["wall_s"])
        summary |= judged(written["figures"], summary)
        written["reflected"] = {"verdict": summary["reflects_final_verdict"],
                                "reason": summary["reflects_final_reason"]}  # fmt: skip
        self.run_dir.write_json(TAUGHT, written)
        return taught_page(written, config, metrics)

    def _control(
        self,
        groups: Groups,
        group_states: Mapping[str, GroupState],
        metrics: Metrics,
        writer: CheckpointWriter,
    ) -> ControlThread:
        """The thread that refreshes the run's status and reads its mailbox."""

        def status(config: Config, driver: Driver, pulse: Pulse) -> dict[str, Any]:
            written = {
                "written": writer.num_written,
                "bytes": writer.num_bytes,
                "last_interval": writer.last_interval,
            }
            states = {group: state.phase.label for group, state in group_states.items()}
            told, lessons = group_states[MEMORY].told, group_states[DATA].lessons
            places = groups.places()
            self.progress.steps(steps_of(places))
            return status_of(config, metrics, places, written, driver, pulse, states, told, lessons)

        driver = Driver.here(uuid.uuid4().hex, refresh_every_s(self.run_dir.url), groups.in_process)
        return ControlThread(
            RunDir(self.run_dir.url),  # without patience: it tries again by itself
            self.config,
            driver,
            status,
            lambda: writer.last_interval,
            self.progress.warning,
        )
