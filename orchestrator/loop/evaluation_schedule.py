"""When committed pairs are evaluated on held-out text: version 0, every so many intervals, at most
so many at once, and the final pair.

No group waits for an evaluation. One that is late or fails is a warning, but for the final one,
which is tried again where its process died or a snapshot was lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from actors.settings.run import DATA, MEMORY
from actors.wire import Evaluation, StorageError
from orchestrator.errors import GroupFailedError
from orchestrator.loop.events import Evaluated, Event
from orchestrator.loop.exchange import Ring, Version
from orchestrator.loop.ports import ClusterPort, Listener
from orchestrator.loop.schedule import Plan
from orchestrator.settings.config import Config
from orchestrator.settings.file_names import resume_command

QUEUED_EVALUATIONS = 2  # more would keep old versions alive in the store
FINAL_TRIES = 3  # of the final evaluation, where the evaluator's process dies


class EvaluationSchedule:
    """Starts evaluations that are due and takes their results.

    Args:
        config, plan: of the run.
        evaluator: the cluster, of which only `evaluate`, `evaluations_running` and
            `in_process` are used.
        listener: notified of results and warnings.
        until: interval up to which a resumed run was evaluated before.
    """

    def __init__(
        self,
        config: Config,
        plan: Plan,
        evaluator: ClusterPort,
        listener: Listener,
        until: int,
    ) -> None:
        self._config, self._plan = config, plan
        self._evaluator, self._listener = evaluator, listener
        self._newest = until
        self._start: tuple[Version, Version] | None = None
        self._start_runs = False

    def keep_start(self, ring: Ring) -> None:
        """Keeps version 0, both layers before training, to be evaluated while they train."""
        if self._config.evaluation.every:
            self._start = ring.newest(DATA), ring.newest(MEMORY)

    def _evaluate_start(self, interval: int) -> None:
        """Not before both groups' first interval: until then the evaluator's start, some seconds of
        imports, would slow theirs.
        """
        if self._start is None or interval < 1:
            return
        (data, memory), self._start, self._start_runs = self._start, None, True
        self._evaluator.evaluate(data, memory, final=False)

    def start_if_due(self, interval: int, ring: Ring) -> None:
        """Starts an evaluation of the pair of an interval that both groups have committed."""
        self._evaluate_start(interval)
        every = self._config.evaluation.every
        if not every or interval % every or interval >= self._plan.intervals:
            return  # the final evaluation follows the catch-up
        version = self._plan.version_at(interval)
        if version <= self._newest:
            return
        self._newest = version
        if self._evaluator.evaluations_running - self._start_runs >= QUEUED_EVALUATIONS:
            self._listener.on_warning(
                f"evaluation of interval {interval} skipped: the last ones are still running"
            )
            return
        self._evaluator.evaluate(ring.get(DATA, version), ring.get(MEMORY, version), final=False)

    def take(self, event: Evaluated) -> None:
        """An evaluation during the run came back."""
        self._start_runs = False  # they come back in the order in which they were started
        if event.evaluation is None:
            self._listener.on_warning(f"an evaluation failed and was left out: {event.cause}")
        else:
            self._report(event.evaluation, final=False)

    def _report(self, evaluation: Evaluation, final: bool) -> None:
        for warning in evaluation.warnings:
            self._listener.on_warning(warning)
        self._listener.on_evaluation(evaluation, final)

    def final(
        self,
        ring: Ring,
        poll: Callable[[], Sequence[Event]],
        clock: Callable[[], float],
    ) -> Evaluation:
        """Evaluates the newest pair and waits for the result; first for snapshots of it that were
        lost.

        Args:
            ring: holds the pair.
            poll: waits a moment and returns evaluations that came back; has lost versions published
                again.
            clock: monotonic seconds.

        Raises:
            GroupFailedError: it failed or did not end in time.
        """
        # Evaluations come back in the order in which they were started.
        earlier = self._evaluator.evaluations_running
        limit_s, tries, is_running, deadline = self._config.deadlines.evaluation_s, 0, False, 0.0
        while True:
            pair = ring.newest(DATA), ring.newest(MEMORY)
            if not is_running and not any(ring.is_lost(v.group, v.number) for v in pair):
                self._evaluator.evaluate(*pair, final=True)
                tries, is_running, deadline = tries + 1, True, clock() + limit_s
            for event in poll():
                if not isinstance(event, Evaluated):
                    continue
                if earlier:
                    earlier -= 1
                    self.take(event)
                    continue
                if event.evaluation is not None:
                    self._report(event.evaluation, final=True)
                    return event.evaluation
                if not (event.died or event.lost) or tries == FINAL_TRIES:
                    is_storage = isinstance(event.cause, StorageError)
                    raise (StorageError if is_storage else GroupFailedError)(
                        f"evaluator: the final evaluation failed: {event.cause}; {self._then}"
                    )
                for group in event.lost:
                    ring.lose(group, ring.newest(group).number)
                what = "snapshots were lost before" if event.lost else "the evaluator died in"
                self._listener.on_warning(
                    f"{what} the final evaluation ({event.cause}); try {tries + 1} of {FINAL_TRIES}"
                )
                is_running = False
            if is_running and clock() > deadline:
                raise GroupFailedError(
                    f"evaluator: the final evaluation did not end after {limit_s:g} s; "
                    "raise deadlines.evaluation_s or lower evaluation.final_windows and "
                    f"final_probes; {self._then}"
                )

    @property
    def _then(self) -> str:
        return f"go on with: {resume_command(self._config.run_url, self._evaluator.in_process)}"
