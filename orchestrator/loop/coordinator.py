"""The loop of a run: submits intervals on committed inputs, commits what comes back, restarts what
died, catches up, ends.

        +--> schedule.next_interval(data) ----> submit ----+
        |    schedule.next_interval(memory) --> submit --+ |        lockstep: i adopts v(i-1)
        |                                                v v        async: the newest, within bounds
        |    cluster.poll ----- Committed -> journal, ring -> listener.on_interval
        |                                +-> both groups' checkpoints -> listener.on_checkpoint
        |                 ----- Failed, late beat, deadline -> restarts: the peer goes on
        |                 ----- Restarted -> restarts: a replay, compared by checksum
        +--               ----- Evaluated -> listener.on_evaluation

Never blocks longer than a tick and touches no file: listeners hand work to their own threads. Knows
the groups only through `ClusterPort`, so that tests drive it with scripted events.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from actors.settings.run import DATA, GROUPS, MEMORY, peer_of
from actors.wire import Evaluation, Order
from orchestrator.errors import InterruptedRunError
from orchestrator.loop import phases
from orchestrator.loop.command import Command
from orchestrator.loop.command_handler import CommandHandler
from orchestrator.loop.drain import Drain, plan_drain
from orchestrator.loop.evaluation_schedule import EvaluationSchedule
from orchestrator.loop.events import (
    Committed,
    Evaluated,
    Failed,
    Prepared,
    Resized,
    Restarted,
)
from orchestrator.loop.exchange import (
    GroupCheckpoint,
    PairCheckpoint,
    Pairing,
    RangeLog,
    Ring,
    Tally,
    Version,
)
from orchestrator.loop.group_state import GroupState
from orchestrator.loop.phases import Finished, Resizing, Restarting, Training
from orchestrator.loop.ports import ClusterPort, Listener
from orchestrator.loop.recovery import Journal
from orchestrator.loop.restarts import Restarts
from orchestrator.loop.schedule import (
    CatchUp,
    GroupProgress,
    NextInterval,
    Plan,
    is_done,
    next_interval,
)
from orchestrator.settings.config import Config, profiled_intervals
from orchestrator.settings.file_names import PROFILES

TICK_S = 0.2  # longest wait for an event; how late Ctrl-C may be noticed
BEAT_EVERY_S = 2.0


@dataclass(frozen=True)
class TrainedPair:
    """What a run ends with: the newest version of each layer, and what was measured of them."""

    data: Version
    memory: Version
    catch_up: CatchUp
    final_evaluation: Evaluation


def new_groups() -> dict[str, GroupState]:
    """The state of both groups before a run."""
    return {group: GroupState() for group in GROUPS}


class Coordinator:
    """Runs both groups to the end.

    Args:
        config: the run.
        cluster: the started groups.
        listener: notified of every interval and evaluation.
        stop_requested: asked once a tick; a reason ends the run.
        resume: the pair that the groups were restored from.
        clock: monotonic seconds.
        new_commands: those that came since it was last called; asked once a tick.
        groups: where the state of each group is kept, for the status to read.
    """

    def __init__(
        self,
        config: Config,
        cluster: ClusterPort,
        listener: Listener,
        stop_requested: Callable[[], str | None],
        resume: PairCheckpoint | None = None,
        clock: Callable[[], float] = time.monotonic,
        new_commands: Callable[[], Sequence[Command]] = tuple,
        groups: Mapping[str, GroupState] | None = None,
    ) -> None:
        self._config = config
        self._cluster = cluster
        self._listener = listener
        self._stop_requested = stop_requested
        self._clock = clock
        self._plan = Plan.of(config.intervals, config.exchange, config.checkpoints.every)
        self._groups = groups or new_groups()
        self._catch_up = CatchUp()
        self._next_beat = 0.0
        self._trained = RangeLog()  # for the memory's mix
        self._pairing = Pairing()
        self._profiled = profiled_intervals(config.profile)
        self._drain: Drain | None = None
        self.ring = Ring(config.retention.newest)
        self._restarts = Restarts(
            config, self._groups, self.ring, cluster, listener, self._is_done, clock
        )
        self._is_ending = False
        self.max_lag = 0
        self._resumed = resume
        done = resume.interval if resume is not None else 0
        self._evaluations = EvaluationSchedule(config, self._plan, cluster, listener, done)
        self._commands = CommandHandler(
            config, self._plan, self._groups, cluster, listener, new_commands, clock
        )
        if resume is not None:
            self._resume(resume)

    def _resume(self, pair: PairCheckpoint) -> None:
        self._catch_up = CatchUp(before=pair.tally.agreement_before)
        self.max_lag = pair.tally.max_lag
        for group, state in self._groups.items():
            saved = pair.groups[group]
            state.committed, state.adopted = pair.interval, max(0, saved.peer_version)
            state.journal = Journal(saved)

    def run(self) -> TrainedPair:
        """Trains until both groups are done and the final pair is evaluated.

        Raises:
            TandemError: the first cause of a group's failure, or the reason for the stop.
        """
        for group in GROUPS:
            state = self._groups[group]
            self._publish(self._cluster.first_version(group))
            state.phase = phases.on_first_version(state.phase, self._is_done(group), self._clock())
        if self._resumed is not None:  # the interrupted run counted these two versions already
            self.ring.num_published = self._resumed.tally.num_published
            self.ring.num_bytes = self._resumed.tally.num_bytes
        else:
            self._evaluations.keep_start(self.ring)
        while not all(isinstance(state.phase, Finished) for state in self._groups.values()):
            self._submit_what_can_start()
            assert self._drain or any(p.is_busy for p in self._progress.values()), (
                f"neither group can go on: {self._progress}"
            )
            for event in self._turn():
                self._evaluations.take(event)
        self._commands.close()
        self._is_ending = True
        final = self._evaluations.final(self.ring, self._turn, self._clock)
        return TrainedPair(*self._final_pair, self._catch_up, final)

    @property
    def _final_pair(self) -> tuple[Version, Version]:
        return self.ring.newest(DATA), self.ring.newest(MEMORY)

    @property
    def _progress(self) -> dict[str, GroupProgress]:
        return {group: state.progress for group, state in self._groups.items()}

    def _is_done(self, group: str) -> bool:
        return is_done(group, self._groups[group].committed, self._plan, self._catch_up)

    def _submit_what_can_start(self) -> None:
        for group in GROUPS:
            step = next_interval(group, self._progress, self._plan, self._catch_up)
            if step is not None and (self._drain is None or step.interval <= self._drain.interval):
                self._submit(step)

    def _submit(self, step: NextInterval) -> None:
        state, now = self._groups[step.group], self._clock()
        before = state.adopted
        drains = self._drain is not None and step.interval == self._drain.interval
        order = Order(
            run=self._config.name,
            incarnation=state.incarnation,
            interval=step.interval,
            num_steps=self._config.group(step.group).steps_per_interval,
            measure=step.measure,
            publish=step.publish,
            exact=step.exact,
            checkpoint=step.checkpoint
            or drains
            or self._commands.need_checkpoint(step.group, step.interval, step.publish),
            ranges=self._trained.since(before, step.peer_version) if step.group == MEMORY else (),
            profile=f"{self._config.run_url}/{PROFILES}" if step.interval in self._profiled
            else None,
            told=self._commands.take_told(step.group, step.interval),
            **self._commands.take_lessons(step.interval),
        )  # fmt: skip
        waited_s = now - state.committed_at if state.committed_at is not None else 0.0
        state.adopted = step.peer_version
        entry = state.journal.submit(order, step.peer_version, waited_s)
        self._restarts.send(step.group, entry)

    def _turn(self) -> list[Evaluated]:
        """One wait for events, and all that follows from them; returns the evaluations."""
        evaluated: list[Evaluated] = []
        self._check_stop()
        self._commands.handle_new(stopping=self._drain is not None)
        for event in self._cluster.poll(TICK_S):
            if isinstance(event, Failed):
                self._fail(event)
            elif isinstance(event, Restarted):
                if self._restarts.on_restarted(event):
                    self._commands.complete_resize(event.group)
            elif isinstance(event, Prepared):
                self._commands.on_prepared(event)
            elif isinstance(event, Resized):
                self._commands.on_resized(event)
            elif isinstance(event, Committed):
                self._on_committed(event)
            elif isinstance(event, Evaluated):
                evaluated.append(event)
        now = self._clock()
        if now >= self._next_beat:
            self._next_beat = now + BEAT_EVERY_S
            for late in self._cluster.late_beats():
                # Another rank may have been named too.
                if not isinstance(self._groups[late.group].phase, Restarting | Resizing):
                    self._fail(late)
        self._restarts.watch(self._final_pair if self._is_ending else ())
        return evaluated

    def _fail(self, event: Failed) -> None:
        """Restarts a group that failed, unless it has nothing left to do: then it is restarted when
        a version of it turns out to be lost.
        """
        if not isinstance(self._groups[event.group].phase, Finished):
            self._restarts.fail(event)

    def _check_stop(self) -> None:
        """Begins to stop where that was asked for, and ends the run when there is no more time."""
        if self._drain is not None:
            if self._clock() > self._drain.until:
                limit_s = self._config.recovery.drain_s
                raise InterruptedRunError(self._drain.too_late(limit_s))
            return
        if (reason := self._stop_requested()) is None:
            return
        now = self._clock()
        self._drain = plan_drain(self._config, self._plan, self._progress, reason, now)
        if self._drain is None:
            raise InterruptedRunError(reason)
        self._listener.on_drain(self._drain.interval, reason)

    def _on_committed(self, event: Committed) -> None:
        """An interval came back: for the first time, or again in a replay."""
        state = self._groups[event.group]
        if event.reports[0].incarnation != state.incarnation:
            return  # of processes that were given up
        if event.interval > state.committed:
            self._commit(event)
            return
        self._restarts.on_replayed(event)

    def _commit(self, event: Committed) -> None:
        state, now = self._groups[event.group], self._clock()
        expected = state.committed + 1
        assert event.interval == expected, (
            f"{event.group}: interval {event.interval} came back, expected {expected}"
        )
        training = state.phase
        assert isinstance(training, Training), f"{event.group}: a commit while {training.label}"
        agreement = event.reports[0].agreement
        if event.group == MEMORY and agreement is not None:
            final = state.adopted == self._plan.intervals
            self._catch_up = self._catch_up.measured(agreement, final)
        state.committed, state.committed_at = event.interval, now
        state.phase = phases.on_commit(training, self._is_done(event.group), now)
        state.pace.add(now - training.since)
        if self._config.recovers:
            state.journal.commit(event.version, event.checkpoint)
        else:
            state.journal = Journal()
        if event.version is not None:
            self._publish(event.version)
        for group in GROUPS:
            self.ring.let_go(group, self._groups[peer_of(group)].journal.adopted)
        behind = self._plan.lag(event.interval, event.reports[0].peer_version)
        self.max_lag = max(self.max_lag, behind)
        self._listener.on_interval(event.reports, training.entry.waited_s, behind)
        if event.checkpoint is not None:
            self._save(event.checkpoint)
        self._commands.told_in(event.group, event.interval)
        self._commands.taught_in()
        self._commands.at_boundary(event.checkpoint)
        self._evaluations.start_if_due(min(p.committed for p in self._progress.values()), self.ring)

    def _publish(self, version: Version) -> None:
        self.ring.commit(version)
        self._groups[version.group].published = version.number
        if version.group == DATA:
            self._trained.add(version)
        self._groups[version.group].told = version.headers[0].told
        self._groups[version.group].lessons = version.headers[0].lessons

    def _save(self, checkpoint: GroupCheckpoint) -> None:
        """Keeps a group's checkpoint until the other group's of the same interval is in; one that
        only a resize asked for has no counterpart.
        """
        if self._commands.is_for_resize_alone(checkpoint):
            return
        if (groups := self._pairing.add(checkpoint)) is None:
            return
        interval = checkpoint.interval
        tally = Tally(
            agreement_before=self._catch_up.before,
            max_lag=self.max_lag,
            num_published=self.ring.num_published,
            num_bytes=self.ring.num_bytes,
        )
        self._listener.on_checkpoint(PairCheckpoint(interval, groups, tally))
        if self._drain is not None and interval == self._drain.interval:
            raise InterruptedRunError(self._drain.reason)
