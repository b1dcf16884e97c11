"""The loop of a run: submits intervals on committed inputs, commits what comes back, restarts what
died, catches up, ends.

        +--> schedule.next_interval(data) ----> submit ----+
        |    schedule.next_interval(memory) --> submit --+ |        lockstep: i adopts v(i-1)
        |                                                v v        async: the newest, within bounds
        |    cluster.poll ----- Committed -> journal, ring -> listener.on_interval
        |                                +-> both groups' checkpoints -> listener.on_checkpoint
        |                 ----- Failed, late beat, deadline -> restarts: the peer goes on
        |                 ----- Restarted -> restarts: its orders again, compared by checksum
        +--               ----- Evaluated -> listener.on_evaluation

Never blocks longer than a tick and touches no file: listeners hand work to their own threads. Knows
Ray only through `Cluster`, so that tests drive it with scripted events.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from actors.settings.run import DATA, GROUPS, MEMORY, peer_of
from actors.wire import Evaluation, Order
from orchestrator.errors import InterruptedRunError
from orchestrator.loop.command import Command
from orchestrator.loop.commands import Commands
from orchestrator.loop.drain import Drain, plan_drain
from orchestrator.loop.evaluations import Evaluations
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
from orchestrator.loop.ports import ClusterPort, Listener
from orchestrator.loop.recovery import Entry, Journal
from orchestrator.loop.restarts import Restarts
from orchestrator.loop.schedule import (
    CatchUp,
    Next,
    Plan,
    Progress,
    finished,
    is_done,
    next_interval,
)
from orchestrator.settings.config import Config, profiled_intervals
from orchestrator.settings.file_names import PROFILES

TICK_S = 0.2  # longest wait for an event; how late Ctrl-C may be noticed
BEAT_EVERY_S = 2.0


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
        heard: commands that came since it was last called; asked once a tick.
    """

    def __init__(
        self,
        config: Config,
        cluster: ClusterPort,
        listener: Listener,
        stop_requested: Callable[[], str | None],
        resume: PairCheckpoint | None = None,
        clock: Callable[[], float] = time.monotonic,
        heard: Callable[[], Sequence[Command]] = tuple,
    ) -> None:
        self._config = config
        self._cluster = cluster
        self._listener = listener
        self._stop_requested = stop_requested
        self._clock = clock
        self._plan = Plan.of(config.intervals, config.exchange, config.checkpoints.every)
        self._groups = {group: GroupState() for group in GROUPS}
        self._catch_up = CatchUp()
        self._next_beat = 0.0
        self._trained = RangeLog()  # for the memory's mix
        self._pairing = Pairing()
        self._profiled = profiled_intervals(config.profile)
        self._drain: Drain | None = None
        self.ring = Ring(config.retention.newest)
        self._restarts = Restarts(config, self._groups, self.ring, cluster, listener, clock)
        self._is_ending = False
        self.max_lag = 0
        self._resumed = resume
        done = resume.interval if resume is not None else 0
        self._evaluations = Evaluations(config, self._plan, cluster, listener, done)
        self._commands = Commands(config, self._plan, self._groups, cluster, listener, heard, clock)
        if resume is not None:
            self._resume(resume)

    def _resume(self, pair: PairCheckpoint) -> None:
        self._catch_up = CatchUp(before=pair.tally.agreement_before)
        self.max_lag = pair.tally.max_lag
        for group, state in self._groups.items():
            saved = pair.groups[group]
            adopted = max(0, saved.peer_version)
            state.progress = Progress(pair.interval, False, pair.interval, adopted)
            state.recovery.journal = Journal(saved)

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
        else:
            self._evaluations.keep_start(self.ring)
        while not finished(self._progress, self._plan, self._catch_up):
            self._submit_what_can_start()
            assert self._drain or any(p.running for p in self._progress.values()), (
                f"neither group can go on: {self._progress}"
            )
            for event in self._turn():
                self._evaluations.take(event)
        self._commands.end()
        self._is_ending = True
        final = self._evaluations.final(self.ring, self._turn, self._clock)
        return Outcome(*self._final_pair, self._catch_up, final)

    @property
    def _final_pair(self) -> tuple[Version, Version]:
        return self.ring.newest(DATA), self.ring.newest(MEMORY)

    @property
    def _progress(self) -> dict[str, Progress]:
        return {group: state.progress for group, state in self._groups.items()}

    def _submit_what_can_start(self) -> None:
        for group in GROUPS:
            step = next_interval(group, self._progress, self._plan, self._catch_up)
            if step is not None and (self._drain is None or step.interval <= self._drain.interval):
                self._submit(step)

    def _submit(self, step: Next) -> None:
        state, now = self._groups[step.group], self._clock()
        before = state.progress.adopted
        drains = self._drain is not None and step.interval == self._drain.interval
        order = Order(
            run=self._config.name,
            incarnation=state.recovery.incarnation,
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
        )  # fmt: skip
        state.waited_s = now - state.idle_since if state.idle_since is not None else 0.0
        state.progress = replace(state.progress, running=True, adopted=step.peer_version)
        state.recovery.journal.submit(order, step.peer_version)
        self._restarts.send(step.group, Entry(order, step.peer_version))

    def _turn(self) -> list[Evaluated]:
        """One wait for events, and all that follows from them; returns the evaluations."""
        evaluated: list[Evaluated] = []
        self._heed_stop()
        self._commands.hear(stopping=self._drain is not None)
        for event in self._cluster.poll(TICK_S):
            if isinstance(event, Failed):
                self._fail(event)
            elif isinstance(event, Restarted):
                if self._restarts.ready(event):
                    self._commands.stood(event.group)
            elif isinstance(event, Prepared):
                self._commands.prepared(event)
            elif isinstance(event, Resized):
                self._commands.switched(event)
            elif isinstance(event, Committed):
                self._take(event)
            elif isinstance(event, Evaluated):
                evaluated.append(event)
        now = self._clock()
        if now >= self._next_beat:
            self._next_beat = now + BEAT_EVERY_S
            for late in self._cluster.late_beats():
                if not self._groups[late.group].recovery.restarting:  # another rank was named too
                    self._fail(late)
        self._restarts.watch(self._final_pair if self._is_ending else ())
        return evaluated

    def _fail(self, event: Failed) -> None:
        """Restarts a group that failed, unless it has nothing left to do: then it is restarted when
        a version of it turns out to be lost.
        """
        if not is_done(event.group, self._progress, self._plan, self._catch_up):
            self._restarts.fail(event)

    def _heed_stop(self) -> None:
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

    def _take(self, event: Committed) -> None:
        """An interval came back: for the first time, or again in a replay."""
        state = self._groups[event.group]
        if event.reports[0].incarnation != state.recovery.incarnation:
            return  # of processes that were given up
        if event.interval > state.progress.committed:
            self._commit(event)
            return
        self._restarts.replayed(event)

    def _commit(self, event: Committed) -> None:
        state, now = self._groups[event.group], self._clock()
        expected = state.progress.committed + 1
        assert event.interval == expected, (
            f"{event.group}: interval {event.interval} came back, expected {expected}"
        )
        state.progress = replace(state.progress, committed=event.interval, running=False)
        state.lengths_s.append(now - state.submitted_at)
        state.idle_since, state.is_warm = now, True
        if self._config.recovers:
            state.recovery.journal.commit(event.version, event.checkpoint)
        else:
            state.recovery.journal = Journal()
        if event.version is not None:
            self._publish(event.version)
        for group in GROUPS:
            self.ring.let_go(group, self._groups[peer_of(group)].recovery.journal.adopted)
        behind = self._plan.lag(event.interval, event.reports[0].peer_version)
        self.max_lag = max(self.max_lag, behind)
        self._listener.on_interval(event.reports, state.waited_s, behind)
        agreement = event.reports[0].agreement
        if event.group == MEMORY and agreement is not None:
            final = state.progress.adopted == self._plan.intervals
            self._catch_up = self._catch_up.measured(agreement, final)
        if event.checkpoint is not None:
            self._save(event.checkpoint)
        self._commands.at_boundary(event.checkpoint)
        self._evaluations.start_if_due(min(p.committed for p in self._progress.values()), self.ring)

    def _publish(self, version: Version) -> None:
        self.ring.commit(version)
        state = self._groups[version.group]
        state.progress = replace(state.progress, published=version.number)
        if version.group == DATA:
            self._trained.add(version)

    def _save(self, checkpoint: GroupCheckpoint) -> None:
        """Keeps a group's checkpoint until the other's of the same interval is in; one that a
        resize asked for has no other.
        """
        if self._commands.asked_alone(checkpoint):
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
