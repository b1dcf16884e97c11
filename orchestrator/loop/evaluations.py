"""Held-out evaluations of committed pairs: version 0, which is due, how many may wait, the final
one.

Never on the path of a group: an evaluation that is late or fails is a warning, but for the final
one, which is tried again where its process died or a snapshot was lost. Called by `coordinator`.
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


class Evaluations:
    """Starts what is due and takes what comes back.

    Args:
        config, plan: of the run.
        evaluator: asked.
        listener: told.
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
        """Keeps version 0, what both layers are before training, to be evaluated beside it."""
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
        """One of those during the run came back."""
        self._start_runs = False  # they come back in the order of asking
        if event.evaluation is None:
            self._listener.on_warning(f"an evaluation failed and was left out: {event.cause}")
        else:
            self._listener.on_evaluation(event.evaluation, final=False)

    def final(
        self,
        ring: Ring,
        poll: Callable[[], Sequence[Event]],
        clock: Callable[[], float],
    ) -> Evaluation:
        """Evaluates the newest pair and waits for it; first for what is lost of it.

        Args:
            ring: holds the pair.
            poll: what happened, after a short wait; has what the ring has lost published again.
            clock: monotonic seconds.

        Raises:
            GroupFailedError: it failed or did not end in time.
        """
        earlier = self._evaluator.evaluations_running  # they come back in the order of asking
        limit_s, tries, is_asked, deadline = self._config.deadlines.evaluation_s, 0, False, 0.0
        while True:
            pair = ring.newest(DATA), ring.newest(MEMORY)
            if not is_asked and not any(ring.is_lost(v.group, v.number) for v in pair):
                self._evaluator.evaluate(*pair, final=True)
                tries, is_asked, deadline = tries + 1, True, clock() + limit_s
            for event in poll():
                if not isinstance(event, Evaluated):
                    continue
                if earlier:
                    earlier -= 1
                    self.take(event)
                    continue
                if event.evaluation is not None:
                    self._listener.on_evaluation(event.evaluation, final=True)
                    return event.evaluation
                if not (event.died or event.lost) or tries == FINAL_TRIES:
                    away = isinstance(event.cause, StorageError)
                    raise (StorageError if away else GroupFailedError)(
                        f"evaluator: the final evaluation failed: {event.cause}; {self._way_on}"
                    )
                for group in event.lost:
                    ring.lose(group, ring.newest(group).number)
                what = "snapshots were lost before" if event.lost else "the evaluator died in"
                self._listener.on_warning(
                    f"{what} the final evaluation ({event.cause}); try {tries + 1} of {FINAL_TRIES}"
                )
                is_asked = False
            if is_asked and clock() > deadline:
                raise GroupFailedError(
                    f"evaluator: the final evaluation did not end after {limit_s:g} s; "
                    "raise deadlines.evaluation_s or lower evaluation.final_windows and "
                    f"final_probes; {self._way_on}"
                )

    @property
    def _way_on(self) -> str:
        return f"go on with: {resume_command(self._config.run_url)}"
