"""Passes what happens in the coordinator's loop to metrics, recorder, checkpoints, control thread,
Prometheus and the progress view; each has a thread of its own for what takes time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from actors.wire import Evaluation, RankDescription, Report
from orchestrator.loop.command import Reply
from orchestrator.loop.exchange import PairCheckpoint
from orchestrator.loop.recovery import Failure
from orchestrator.loop.resize_rules import Resize, with_sizes
from orchestrator.reporting.progress_view import ProgressView
from orchestrator.reporting.prometheus import Exporter
from orchestrator.reporting.recorder import Recorder
from orchestrator.run_dir.checkpoint_writer import CheckpointWriter
from orchestrator.run_dir.control_thread import ControlThread
from orchestrator.run_dir.metrics import Metrics, Row, held_out


class RunListener:
    """Implements `ports.Listener` for a run.

    Args:
        metrics, recorder, writer, progress, control, exporter: each gets what concerns it.
        on_evaluation_row: called with the row of each evaluation.
    """

    def __init__(
        self,
        metrics: Metrics,
        recorder: Recorder,
        writer: CheckpointWriter,
        progress: ProgressView,
        control: ControlThread,
        exporter: Exporter,
        on_evaluation_row: Callable[[Row], None],
    ) -> None:
        self._metrics, self._recorder, self._writer = metrics, recorder, writer
        self._progress, self._control, self._exporter = progress, control, exporter
        self._on_evaluation_row = on_evaluation_row

    def on_start(self, descriptions: Mapping[str, Sequence[RankDescription]]) -> None:
        """As `ports.Listener`, and so all others."""
        self._progress.started(descriptions)

    def on_interval(self, reports: Sequence[Report], wait_s: float, lag: int) -> None:
        """A group committed an interval."""
        row = self._metrics.add_interval(reports, wait_s, lag)
        self._recorder.record("interval", row)
        self._exporter.interval(reports, row)
        self._progress.interval(row)

    def on_evaluation(self, evaluation: Evaluation, final: bool) -> None:
        """An evaluation came back."""
        row = self._metrics.add_evaluation(evaluation, final)
        self._writer.measured(evaluation.data_version, held_out(row))
        self._recorder.record("evaluation", row)
        self._exporter.evaluation(row)
        self._progress.evaluation(row)
        self._on_evaluation_row(row)

    def on_checkpoint(self, pair: PairCheckpoint) -> None:
        """Both groups' states are in."""
        self._writer.write(pair, self._metrics.until(pair.interval))
        self._exporter.checkpoint(pair.interval)

    def on_failure(self, failure: Failure) -> None:
        """A group failed and is restarted."""
        self._metrics.add_failure(failure)
        self._exporter.failure(failure.group)
        self._progress.failure(failure)

    def on_recovery(self, group: str, restart_s: float, replay_s: float) -> None:
        """A group is where it was."""
        self._exporter.recovery(group, restart_s, replay_s)
        self._progress.recovery(self._metrics.add_recovery(group, restart_s, replay_s))

    def on_drain(self, interval: int, reason: str) -> None:
        """The run will stop."""
        self._control.phase = f"stopping after a checkpoint of interval {interval}"
        self._progress.draining(interval)

    def on_resize(self, resize: Resize) -> None:
        """A group has another number of workers; a resume begins with it."""
        self._metrics.add_resize(resize)
        self._progress.resize(resize)
        self._control.resized(with_sizes(self._control.config, {resize.group: resize.after}))

    def on_reply(self, reply: Reply) -> None:
        """A command has a reply."""
        self._control.reply(reply)

    def on_warning(self, message: str) -> None:
        """Something that the run survives."""
        self._progress.warning(message)
