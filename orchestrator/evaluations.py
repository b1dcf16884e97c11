"""Held-out evaluations of committed pairs: which is due, how many may wait, and the final one.

Never on the path of a group: an evaluation that is late or fails is a warning, but for the final
one, which is tried again where its process died. Called by `coordinator`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from actors.spec import DATA, MEMORY
from actors.wire import Evaluation
from orchestrator.config import Config
from orchestrator.errors import GroupFailedError
from orchestrator.events import Evaluated, Event
from orchestrator.exchange import Ring
from orchestrator.ports import ClusterPort, Listener
from orchestrator.schedule import Plan

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

    def start_if_due(self, interval: int, ring: Ring) -> None:
        """Starts an evaluation of the pair of an interval that both groups have committed."""
        every = self._config.evaluation.every
        if not every or interval % every or interval >= self._plan.intervals:
            return  # the final evaluation follows the catch-up
        version = self._plan.version_at(interval)
        if version <= self._newest:
            return
        self._newest = version
        if self._evaluator.evaluations_running >= QUEUED_EVALUATIONS:
            self._listener.on_warning(
                f"evaluation of interval {interval} skipped: the last ones are still running"
            )
            return
        self._evaluator.evaluate(ring.get(DATA, version), ring.get(MEMORY, version), final=False)

    def take(self, event: Evaluated) -> None:
        """One of those during the run came back."""
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
        """Evaluates the newest pair and waits for it.

        Args:
            ring: holds the pair.
            poll: what happened, after a short wait.
            clock: monotonic seconds.

        Raises:
            GroupFailedError: it failed or did not end in time.
        """
        pair = ring.newest(DATA), ring.newest(MEMORY)
        earlier = self._evaluator.evaluations_running  # they come back in the order of asking
        self._evaluator.evaluate(*pair, final=True)
        limit_s, tries = self._config.deadlines.evaluation_s, 1
        deadline = clock() + limit_s
        while True:
            for event in poll():
                if not isinstance(event, Evaluated):
                    continue  # a rank that dies now has nothing left to do
                if earlier:
                    earlier -= 1
                    self.take(event)
                    continue
                if event.evaluation is not None:
                    self._listener.on_evaluation(event.evaluation, final=True)
                    return event.evaluation
                if not event.died or tries == FINAL_TRIES:
                    raise GroupFailedError(f"evaluator: the final evaluation failed: {event.cause}")
                tries += 1
                self._listener.on_warning(
                    f"the evaluator died in the final evaluation ({event.cause}); try {tries} of "
                    f"{FINAL_TRIES}"
                )
                self._evaluator.evaluate(*pair, final=True)
                deadline = clock() + limit_s
            if clock() > deadline:
                raise GroupFailedError(
                    f"evaluator: the final evaluation did not end after {limit_s:g} s; "
                    "raise deadlines.evaluation_s or lower evaluation.final_windows and "
                    "final_probes"
                )
