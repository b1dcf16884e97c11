"""The loop of a run: submits intervals on committed inputs, commits what comes back, evaluates,
catches up, ends.

        +--> schedule.next_interval(data) ----> submit ----+
        |    schedule.next_interval(memory) --> submit --+ |        lockstep: i adopts v(i-1)
        |                                                v v        async: the newest, within bounds
        |    cluster.poll ----- Committed -> ring.commit -> listener.on_interval
        |                                +-> both groups' checkpoints -> listener.on_checkpoint
        |                 ----- Evaluated -----------------> listener.on_evaluation
        +--               ----- Failed, late beat, deadline -> raise: the first cause ends the run

Never blocks longer than a tick and touches no file: listeners hand work to their own threads. Knows
Ray only through `Cluster`, so that tests drive it with scripted events.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from actors.ranges import merge_ranges
from actors.spec import DATA, GROUPS, MEMORY, peer_of
from actors.wire import Description, Evaluation, Order, Range, Report
from orchestrator.config import Config, profiled_intervals
from orchestrator.errors import GroupFailedError, InterruptedRunError
from orchestrator.events import Committed, Evaluated, Event, Failed
from orchestrator.exchange import (
    GroupCheckpoint,
    PairCheckpoint,
    Ring,
    Tally,
    Version,
    kept_versions,
)
from orchestrator.run_dir import PROFILES
from orchestrator.schedule import CatchUp, Next, Plan, Progress, finished, next_interval

TICK_S = 0.2  # longest wait for an event; how late Ctrl-C may be noticed
BEAT_EVERY_S = 2.0
QUEUED_EVALUATIONS = 2  # more would keep old versions alive in the store


class ClusterPort(Protocol):
    """What the coordinator asks of the two groups."""

    def first_version(self, group: str) -> Version:
        """The group's version 0."""

    def submit(self, group: str, order: Order, peer: Version) -> None:
        """Starts a group's next interval."""

    def evaluate(self, data: Version, memory: Version, final: bool) -> None:
        """Starts an evaluation of a committed pair."""

    def poll(self, timeout_s: float) -> Sequence[Event]:
        """What happened, waiting at most `timeout_s` for something."""

    def late_beats(self) -> Sequence[Failed]:
        """Ranks whose heartbeat is overdue."""

    @property
    def evaluations_running(self) -> int:
        """Evaluations that have not come back."""


class Listener(Protocol):
    """Who is told what happens; must return at once."""

    def on_start(self, descriptions: Mapping[str, Sequence[Description]]) -> None:
        """Both groups are ready."""

    def on_interval(self, reports: Sequence[Report], wait_s: float, lag: int) -> None:
        """A group committed an interval, before which it had waited `wait_s`."""

    def on_evaluation(self, evaluation: Evaluation, final: bool) -> None:
        """An evaluation came back."""

    def on_checkpoint(self, pair: PairCheckpoint) -> None:
        """Both groups' states after one interval are in."""

    def on_warning(self, message: str) -> None:
        """Something happened that the run survives."""


@dataclass
class GroupState:
    """What the coordinator knows of one group."""

    progress: Progress = field(default_factory=Progress)
    submitted_at: float = 0.0
    idle_since: float | None = None  # monotonic time at which the last interval was committed
    lengths_s: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """How the run ended."""

    data: Version
    memory: Version
    catch_up: CatchUp
    final_evaluation: Evaluation


class Coordinator:
    """Runs both groups to the end.

    Args:
        config: the run.
        cluster: the started groups.
        listener: told about every interval and evaluation.
        stop_requested: asked once a tick; a reason ends the run.
        resume: the pair that the groups were restored from.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        config: Config,
        cluster: ClusterPort,
        listener: Listener,
        stop_requested: Callable[[], str | None],
        resume: PairCheckpoint | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._cluster = cluster
        self._listener = listener
        self._stop_requested = stop_requested
        self._clock = clock
        exchange = config.exchange
        self._plan = Plan.of(config.intervals, exchange, config.checkpoints.every)
        self._groups = {group: GroupState() for group in GROUPS}
        self._catch_up = CatchUp()
        self._next_beat = 0.0
        self._evaluated: set[int] = set()
        self._data_ranges: dict[int, tuple[Range, ...]] = {}  # by version, for the memory's mix
        self._saved: dict[str, dict[int, GroupCheckpoint]] = {group: {} for group in GROUPS}
        self._profiled = profiled_intervals(config.profile)
        self.ring = Ring(kept_versions(exchange.staleness))
        self.max_lag = 0
        self._resumed = resume
        if resume is not None:
            self._resume(resume)

    def _resume(self, pair: PairCheckpoint) -> None:
        self._catch_up = CatchUp(before=pair.tally.agreement_before)
        self.max_lag = pair.tally.max_lag
        self._evaluated = set(range(pair.interval + 1))
        for group, state in self._groups.items():
            saved = pair.groups[group]
            adopted = max(0, saved.peer_version)
            state.progress = Progress(pair.interval, False, pair.interval, adopted)

    def run(self) -> Outcome:
        """Trains until both groups are done and the final pair is evaluated.

        Raises:
            TandemError: the first cause of a group's failure, or the reason for the stop.
        """
        for group in GROUPS:
            self._publish(self._cluster.first_version(group))
        if self._resumed is not None:  # the two that come again were counted then
            self.ring.num_published = self._resumed.tally.num_published
            self.ring.num_bytes = self._resumed.tally.num_bytes
        while not finished(self._progress, self._plan, self._catch_up):
            self._submit_what_can_start()
            self._turn()
        return self._evaluate_final()

    @property
    def _progress(self) -> dict[str, Progress]:
        return {group: state.progress for group, state in self._groups.items()}

    def _submit_what_can_start(self) -> None:
        for group in GROUPS:
            if (
                step := next_interval(group, self._progress, self._plan, self._catch_up)
            ) is not None:
                self._submit(step)

    def _submit(self, step: Next) -> None:
        state, now = self._groups[step.group], self._clock()
        before = state.progress.adopted
        order = Order(
            run=self._config.name,
            incarnation=0,
            interval=step.interval,
            num_steps=self._config.group(step.group).steps_per_interval,
            measure=step.measure,
            publish=step.publish,
            exact=step.exact,
            checkpoint=step.checkpoint,
            ranges=self._ranges_since(before, step.peer_version) if step.group == MEMORY else (),
            profile=f"{self._config.run_url}/{PROFILES}" if step.interval in self._profiled
            else None,
        )  # fmt: skip
        adopted = self.ring.get(peer_of(step.group), step.peer_version)
        self._cluster.submit(step.group, order, adopted)
        state.progress = replace(state.progress, running=True, adopted=step.peer_version)
        state.submitted_at = now

    def _ranges_since(self, before: int, version: int) -> tuple[Range, ...]:
        """What the data group trained on between two of its versions."""
        newer = [n for n in sorted(self._data_ranges) if before < n <= version]
        ranges = merge_ranges(r for n in newer for r in self._data_ranges[n])
        for number in [n for n in self._data_ranges if n <= version]:
            del self._data_ranges[number]
        return ranges

    def _turn(self) -> None:
        """One wait for events, and all that follows from them."""
        if reason := self._stop_requested():
            raise InterruptedRunError(reason)
        for event in self._cluster.poll(TICK_S):
            if isinstance(event, Failed):
                raise event.cause
            if isinstance(event, Committed):
                self._commit(event)
            elif isinstance(event, Evaluated):
                self._on_evaluated(event)
        now = self._clock()
        if now >= self._next_beat:
            self._next_beat = now + BEAT_EVERY_S
            for late in self._cluster.late_beats():
                raise late.cause
        for group, state in self._groups.items():
            if state.progress.running and now - state.submitted_at > (
                limit := self._deadline_s(state)
            ):
                raise GroupFailedError(
                    f"{group}: interval {state.progress.committed + 1} did not end after "
                    f"{now - state.submitted_at:.0f} s "
                    f"(deadline {limit:.0f} s); raise deadlines.interval_factor or "
                    "interval_floor_s, or look for what hangs"
                )

    def _deadline_s(self, state: GroupState) -> float:
        deadlines = self._config.deadlines
        if not state.lengths_s:
            return deadlines.first_interval_s
        return max(
            deadlines.interval_floor_s,
            deadlines.interval_factor * statistics.median(state.lengths_s),
        )

    def _commit(self, event: Committed) -> None:
        state, now = self._groups[event.group], self._clock()
        expected = state.progress.committed + 1
        assert event.interval == expected, (
            f"{event.group}: interval {event.interval} came back, expected {expected}"
        )
        state.progress = replace(state.progress, committed=event.interval, running=False)
        state.lengths_s.append(now - state.submitted_at)
        if event.version is not None:
            self._publish(event.version)
        waited = state.submitted_at - state.idle_since if state.idle_since is not None else 0.0
        state.idle_since = now
        behind = self._plan.lag(event.interval, event.reports[0].peer_version)
        self.max_lag = max(self.max_lag, behind)
        self._listener.on_interval(event.reports, waited, behind)
        if event.group == MEMORY and event.reports[0].agreement is not None:
            if state.progress.adopted == self._plan.intervals:
                after = (*self._catch_up.after, event.reports[0].agreement)
                self._catch_up = replace(self._catch_up, after=after)
            else:
                self._catch_up = replace(self._catch_up, before=event.reports[0].agreement)
        if event.checkpoint is not None:
            self._save(event.checkpoint)
        self._evaluate_if_due()

    def _publish(self, version: Version) -> None:
        self.ring.commit(version)
        state = self._groups[version.group]
        state.progress = replace(state.progress, published=version.number)
        if version.group == DATA:
            self._data_ranges[version.number] = version.headers[0].ranges

    def _save(self, checkpoint: GroupCheckpoint) -> None:
        """Keeps a group's checkpoint until the other's of the same interval is in."""
        interval = checkpoint.interval
        self._saved[checkpoint.group][interval] = checkpoint
        if any(interval not in saved for saved in self._saved.values()):
            return
        groups = {group: self._saved[group].pop(interval) for group in GROUPS}
        tally = Tally(
            agreement_before=self._catch_up.before,
            max_lag=self.max_lag,
            num_published=self.ring.num_published,
            num_bytes=self.ring.num_bytes,
        )
        self._listener.on_checkpoint(PairCheckpoint(interval, groups, tally))

    def _evaluate_if_due(self) -> None:
        """Starts an evaluation once both versions of an interval that is due are committed."""
        every = self._config.evaluation.every
        interval = min(p.committed for p in self._progress.values())
        if not every or interval % every or interval >= self._plan.intervals:
            return  # the final evaluation follows the catch-up
        version = self._plan.version_at(interval)
        if version == 0 or version in self._evaluated:
            return
        self._evaluated.add(version)
        if self._cluster.evaluations_running >= QUEUED_EVALUATIONS:
            self._listener.on_warning(
                f"evaluation of interval {interval} skipped: the last ones are still running"
            )
            return
        self._cluster.evaluate(
            self.ring.get(DATA, version), self.ring.get(MEMORY, version), final=False
        )

    def _on_evaluated(self, event: Evaluated) -> None:
        if event.evaluation is None:
            self._listener.on_warning(f"an evaluation failed and was left out: {event.cause}")
        else:
            self._listener.on_evaluation(event.evaluation, final=False)

    def _evaluate_final(self) -> Outcome:
        data, memory = self.ring.newest(DATA), self.ring.newest(MEMORY)
        earlier = (
            self._cluster.evaluations_running
        )  # they come back in the order they were asked for
        self._cluster.evaluate(data, memory, final=True)
        deadline = self._clock() + self._config.deadlines.evaluation_s
        while True:
            if reason := self._stop_requested():
                raise InterruptedRunError(reason)
            for event in self._cluster.poll(TICK_S):
                if not isinstance(event, Evaluated):
                    continue  # a rank that dies now has nothing left to do
                if earlier:
                    earlier -= 1
                    self._on_evaluated(event)
                    continue
                if event.evaluation is None:
                    raise GroupFailedError(f"evaluator: the final evaluation failed: {event.cause}")
                self._listener.on_evaluation(event.evaluation, final=True)
                return Outcome(data, memory, self._catch_up, event.evaluation)
            if self._clock() > deadline:
                raise GroupFailedError(
                    "evaluator: the final evaluation did not end after "
                    f"{self._config.deadlines.evaluation_s:g} s; "
                    "raise deadlines.evaluation_s or lower evaluation.final_windows and "
                    "final_probes"
                )
