"""The loop of a run: submits intervals on committed inputs, commits what comes back, restarts what
died, catches up, ends.

        +--> schedule.next_interval(data) ----> submit ----+
        |    schedule.next_interval(memory) --> submit --+ |        lockstep: i adopts v(i-1)
        |                                                v v        async: the newest, within bounds
        |    cluster.poll ----- Committed -> journal, ring -> listener.on_interval
        |                                +-> both groups' checkpoints -> listener.on_checkpoint
        |                 ----- Failed, late beat, deadline -> cluster.restart, the peer goes on
        |                 ----- Restarted -> the journal's orders again, compared by checksum
        +--               ----- Evaluated -> listener.on_evaluation

Never blocks longer than a tick and touches no file: listeners hand work to their own threads. Knows
Ray only through `Cluster`, so that tests drive it with scripted events.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from actors.spec import DATA, GROUPS, MEMORY, peer_of
from actors.wire import Evaluation, Order, SnapshotError
from orchestrator.command import Command
from orchestrator.commands import Commands
from orchestrator.config import Config, profiled_intervals
from orchestrator.drain import Drain, plan_drain
from orchestrator.errors import GroupFailedError, InterruptedRunError
from orchestrator.evaluations import Evaluations
from orchestrator.events import (
    Committed,
    Evaluated,
    Event,
    Failed,
    Prepared,
    Resized,
    Restarted,
)
from orchestrator.exchange import (
    GroupCheckpoint,
    PairCheckpoint,
    Pairing,
    RangeLog,
    Ring,
    Tally,
    Version,
)
from orchestrator.group_state import GroupState
from orchestrator.ports import ClusterPort, Listener
from orchestrator.recovery import Entry, Failure, Journal, refuse_if_gone, refuse_restart
from orchestrator.run_dir import PROFILES, resume_command
from orchestrator.schedule import CatchUp, Next, Plan, Progress, finished, next_interval

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
        self._refetched: set[tuple[str, int]] = set()  # versions of which a second copy was made
        self.ring = Ring(config.retention.newest)
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
        while not finished(self._progress, self._plan, self._catch_up):
            self._submit_what_can_start()
            self._turn()
        self._commands.end()
        final = self._evaluations.final(self.ring, self._poll, self._clock)
        return Outcome(self.ring.newest(DATA), self.ring.newest(MEMORY), self._catch_up, final)

    def _poll(self) -> Sequence[Event]:
        if reason := self._stop_requested():
            raise InterruptedRunError(reason)
        return self._cluster.poll(TICK_S)

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
        self._send(step.group, Entry(order, step.peer_version))

    def _send(self, group: str, entry: Entry) -> None:
        """Gives a group an order, with its own incarnation on it."""
        state = self._groups[group]
        if self.ring.is_lost(peer_of(group), entry.peer_version):
            state.recovery.waiting = entry
            peer, then = peer_of(group), f"go on with: {resume_command(self._config.run_url)}"
            journal = self._groups[peer].recovery.journal
            refuse_if_gone(peer, entry.peer_version, journal, then)
            return
        state.recovery.sent, state.submitted_at = entry, self._clock()
        order = replace(entry.order, incarnation=state.recovery.incarnation)
        self._cluster.submit(group, order, self.ring.get(peer_of(group), entry.peer_version))

    def _turn(self) -> None:
        """One wait for events, and all that follows from them."""
        self._heed_stop()
        self._commands.hear(stopping=self._drain is not None)
        for event in self._cluster.poll(TICK_S):
            if isinstance(event, Failed):
                self._fail(event)
            elif isinstance(event, Restarted):
                self._stand(event)
            elif isinstance(event, Prepared):
                self._commands.prepared(event)
            elif isinstance(event, Resized):
                self._commands.switched(event)
            elif isinstance(event, Committed):
                self._take(event)
            elif isinstance(event, Evaluated):
                self._evaluations.take(event)
        now = self._clock()
        if now >= self._next_beat:
            self._next_beat = now + BEAT_EVERY_S
            for late in self._cluster.late_beats():
                self._fail(late)
        for group, state in self._groups.items():
            gone_s, limit_s = now - state.submitted_at, state.deadline_s(self._config.deadlines)
            if state.progress.running and state.recovery.is_at_work and gone_s > limit_s:
                cause = GroupFailedError(
                    f"{group}: interval {state.progress.committed + 1} did not end after "
                    f"{gone_s:.0f} s (deadline {limit_s:.0f} s); raise deadlines.interval_factor "
                    "or interval_floor_s, or look for what hangs"
                )
                self._fail(Failed(group, 0, cause))

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

    def _fail(self, event: Failed) -> None:
        """Begins to restart a group that failed, or raises the cause."""
        group, state, now = event.group, self._groups[event.group], self._clock()
        recovery = state.recovery
        if group == DATA and state.progress.committed >= self._plan.intervals:
            return  # it has nothing left to do, and its versions are in the ring
        refuse_restart(
            event.cause,
            recovery.failures,
            self._config.recovery.max_failures if self._config.recovers else 0,
            f"go on with: {resume_command(self._config.run_url)}",
        )
        refetch = self._to_refetch(event)
        if event.missing_input and recovery.sent is not None:
            self.ring.lose(peer_of(group), recovery.sent.peer_version)
        failure = Failure(
            group=group,
            rank=event.rank,
            interval=state.progress.committed + 1,
            cause=str(event.cause),
            incarnation=recovery.incarnation,
            replayed=len(recovery.journal.again()),
        )
        recovery.fail(failure, now)
        state.progress = replace(state.progress, running=True)
        self._cluster.restart(group, recovery.incarnation, recovery.journal.checkpoint, refetch)
        self._listener.on_failure(failure)

    def _to_refetch(self, event: Failed) -> Version | None:
        """The version whose bytes a group found bad, where that is why it failed.

        Raises: the cause where it was fetched again before.
        """
        sent = self._groups[event.group].recovery.sent
        if not isinstance(event.cause, SnapshotError) or sent is None:
            return None
        version = self.ring.get(peer_of(event.group), sent.peer_version)
        if (version.group, version.number) in self._refetched:
            raise event.cause
        self._refetched.add((version.group, version.number))
        return version

    def _stand(self, event: Restarted) -> None:
        """A group's new processes stand: it is given its journal again."""
        recovery = self._groups[event.group].recovery
        if event.incarnation != recovery.incarnation:
            return
        if event.refetched is not None:
            self.ring.replace(event.refetched)
        if event.lost_node:
            for number in self.ring.numbers(event.group):
                self.ring.lose(event.group, number)
        recovery.stand(self._clock())
        if event.published is not None:
            self._replace(event.published)
        self._replay(event.group)
        self._commands.stood(event.group)

    def _replace(self, version: Version) -> None:
        """Another copy of a version is there: whoever waited for it goes on."""
        self.ring.replace(version)
        recovery = self._groups[peer_of(version.group)].recovery
        entry = recovery.waiting
        if entry is not None and entry.peer_version == version.number:
            recovery.waiting = None
            self._send(peer_of(version.group), entry)

    def _replay(self, group: str) -> None:
        """Gives a group the next order of its journal; after the last one it is where it was."""
        state, now = self._groups[group], self._clock()
        recovery = state.recovery
        entry = recovery.next_again()
        if entry is None or entry == recovery.journal.in_flight:
            restart_s = recovery.stood_at - recovery.failed_at
            self._listener.on_recovery(group, restart_s, now - recovery.stood_at)
        if entry is None:
            state.progress = replace(state.progress, running=False)
        else:
            self._send(group, entry)

    def _take(self, event: Committed) -> None:
        """An interval came back: for the first time, or again in a replay."""
        state = self._groups[event.group]
        if event.reports[0].incarnation != state.recovery.incarnation:
            return  # of processes that were given up
        if event.interval > state.progress.committed:
            self._commit(event)
            return
        if state.recovery.differs(event.version):
            message = (
                f"{event.group}: interval {event.interval}, done again, did not end with the bytes "
                "of the first time; the first ones stay in force"
            )
            if not self._config.group(event.group).workers.gpus:
                raise GroupFailedError(
                    f"{message}. On CPUs that must not be: look for a faulty machine, or for nodes "
                    "with different processors or libraries"
                )
            self._listener.on_warning(message)
        elif event.version is not None and self.ring.is_lost(event.group, event.interval):
            self._replace(event.version)
        self._replay(event.group)

    def _commit(self, event: Committed) -> None:
        state, now = self._groups[event.group], self._clock()
        expected = state.progress.committed + 1
        assert event.interval == expected, (
            f"{event.group}: interval {event.interval} came back, expected {expected}"
        )
        state.progress = replace(state.progress, committed=event.interval, running=False)
        state.lengths_s.append(now - state.submitted_at)
        state.idle_since = now
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
