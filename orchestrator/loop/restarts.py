"""Restarts a group that failed, replays its intervals since its checkpoint, and has versions that
were lost published again.

    Failed        -> refused, or cluster.restart
    Restarted     -> the orders of its journal, one by one; after the last the group is where it was
    version lost  -> the group that adopts it waits; the other one publishes it in the replay that
                     is under way, or is restarted so that it does
    every tick    -> each group's phase is compared with its deadline, in `_check_deadlines`

A deadline that ends the run says how to resume. Touches no file and never blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from actors.settings.run import peer_of
from actors.wire import SnapshotError
from orchestrator.errors import GroupFailedError
from orchestrator.loop import phases
from orchestrator.loop.deadlines import deadline_s
from orchestrator.loop.events import Committed, Failed, Restarted
from orchestrator.loop.exchange import Ring, Version
from orchestrator.loop.group_state import GroupState
from orchestrator.loop.phases import (
    Finished,
    Idle,
    Replay,
    Replaying,
    Resizing,
    Restarting,
    Starting,
    Training,
    WaitingForSnapshot,
)
from orchestrator.loop.ports import ClusterPort, Listener
from orchestrator.loop.recovery import Entry, Failure, refuse_if_gone, refuse_restart
from orchestrator.settings.config import Config
from orchestrator.settings.file_names import resume_command

VersionKey = tuple[str, int]  # group and number
FINAL_EVALUATION = "the final evaluation"


class Restarts:
    """Sends orders, and restores groups and versions.

    Args:
        config: the run.
        groups: of the coordinator.
        ring: of the coordinator.
        cluster: asked to restart.
        listener: notified of failures and recoveries.
        is_done: whether a group has nothing left to do.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        config: Config,
        groups: Mapping[str, GroupState],
        ring: Ring,
        cluster: ClusterPort,
        listener: Listener,
        is_done: Callable[[str], bool],
        clock: Callable[[], float],
    ) -> None:
        self._config, self._groups, self._ring = config, groups, ring
        self._cluster, self._listener = cluster, listener
        self._is_done, self._clock = is_done, clock
        self._refetched: set[VersionKey] = set()  # versions of which a second copy was made
        # Versions that the final evaluation needs and that are lost: since when it waits for each,
        # or when their group last replayed an interval.
        self._evaluation_waits: dict[VersionKey, float] = {}

    @property
    def _then(self) -> str:
        return f"go on with: {resume_command(self._config.run_url, self._cluster.in_process)}"

    def send(self, group: str, entry: Entry, replay: Replay | None = None) -> None:
        """Sends a group an order, with its present incarnation on it; where the version that it
        adopts is lost, the group waits for that.

        Args:
            group: to whom.
            entry: the interval.
            replay: what is to be replayed after it; None where it was not committed before.
        """
        state, peer = self._groups[group], peer_of(group)
        if self._ring.is_lost(peer, entry.peer_version):
            state.phase = phases.on_input_lost(state.phase, entry, replay, self._clock())
            journal = self._groups[peer].journal
            refuse_if_gone(peer, entry.peer_version, journal, self._then)
            return
        state.phase = phases.on_submit(state.phase, entry, replay, self._clock())
        order = replace(entry.order, incarnation=state.incarnation)
        self._cluster.submit(group, order, self._ring.get(peer, entry.peer_version))

    def fail(self, event: Failed) -> None:
        """Begins to restart a group that failed. Raises: the cause where it may not be."""
        self._refuse(event)
        refetch = self._to_refetch(event)
        sent = phases.last_sent(self._groups[event.group].phase)
        if event.missing_input and sent is not None:
            self._ring.lose(peer_of(event.group), sent.peer_version)
        self._restart(event, refetch)

    def _refuse(self, event: Failed) -> None:
        refuse_restart(
            event.cause,
            self._groups[event.group].failures,
            self._config.recovery.max_failures if self._config.recovers else 0,
            self._then,
        )

    def _restart(self, event: Failed, refetch: Version | None) -> None:
        group, state = event.group, self._groups[event.group]
        journal = state.journal
        failure = Failure(
            group=group,
            rank=event.rank,
            interval=state.committed + 1,
            cause=str(event.cause),
            incarnation=state.incarnation,
            replayed=len(journal.to_replay()),
        )
        state.failures.append(failure)
        state.phase = phases.on_failure(state.phase, self._clock())
        state.pace.is_warm = False
        publish = self._ring.is_lost(group, journal.start)  # the replay publishes the later ones
        self._cluster.restart(group, state.incarnation, journal.checkpoint, refetch, publish)
        self._listener.on_failure(failure)

    def _to_refetch(self, event: Failed) -> Version | None:
        """The version whose bytes a group found bad, where that is why it failed.

        Raises: the cause where it was fetched again before.
        """
        sent = phases.last_sent(self._groups[event.group].phase)
        if not isinstance(event.cause, SnapshotError) or sent is None:
            return None
        version = self._ring.get(peer_of(event.group), sent.peer_version)
        if (version.group, version.number) in self._refetched:
            raise event.cause
        self._refetched.add((version.group, version.number))
        return version

    def on_restarted(self, event: Restarted) -> bool:
        """A group's new processes are ready: begins to replay its journal.

        Returns whether a resize is complete with that: the group failed in the midst of one.
        """
        state = self._groups[event.group]
        if event.incarnation != state.incarnation:
            return False  # these were given up meanwhile
        restarting = state.phase
        assert isinstance(restarting, Restarting), f"{event.group} restarted: {restarting.label}"
        if event.refetched is not None:
            self._ring.replace(event.refetched)
        if event.lost_node:
            for number in self._ring.numbers(event.group):
                self._ring.lose(event.group, number)
        ready_at = self._clock()
        if event.published is not None:
            self._replace(event.published)
        entries = tuple(state.journal.to_replay())
        self._send_next(event.group, Replay(entries, restarting.since, ready_at))
        return restarting.in_resize

    def _replace(self, version: Version) -> None:
        """Another copy of a version is there: a peer that waited for it goes on."""
        self._ring.replace(version)
        peer = peer_of(version.group)
        phase = self._groups[peer].phase
        if isinstance(phase, WaitingForSnapshot) and phase.entry.peer_version == version.number:
            self.send(peer, phase.entry, phase.replay)

    def _send_next(self, group: str, replay: Replay) -> None:
        """Sends a group the next order of its replay; after the last one it is where it was."""
        state, now = self._groups[group], self._clock()
        entry = replay.entries[0] if replay.entries else None
        rest = replace(replay, entries=replay.entries[1:])
        is_recovered = entry is None or entry == state.journal.in_flight
        if is_recovered:
            restart_s = replay.ready_at - replay.failed_at
            self._listener.on_recovery(group, restart_s, now - replay.ready_at)
        if entry is None:
            state.phase = phases.on_recovered(state.phase, self._is_done(group), now)
        else:
            self.send(group, entry, None if is_recovered else rest)

    def on_replayed(self, event: Committed) -> None:
        """An interval came back that was committed before: compares it and sends the next.

        Raises: GroupFailedError where its bytes differ, on CPUs.
        """
        group, lost = event.group, self._ring.is_lost(event.group, event.interval)
        state, peer = self._groups[group], self._groups[peer_of(group)]
        replaying = state.phase
        assert isinstance(replaying, Replaying), f"{group} replayed while {replaying.label}"
        state.pace.is_warm = True
        if not replaying.entry.is_same_as(event.version):
            message = (
                f"{group}: interval {event.interval}, done again, did not end with the bytes of "
                f"the first time; {'these are used, since the first ones are lost' if lost else ''}"
                f"{'' if lost else 'the first ones stay in force'}"
            )
            if not self._config.group(group).workers.gpus:
                raise GroupFailedError(
                    f"{message}. On CPUs that must not be: look for a faulty machine, or for nodes "
                    "with different processors or libraries"
                )
            self._listener.on_warning(message)
        if event.version is not None and lost:
            self._replace(event.version)
        now = self._clock()
        peer.phase = phases.on_peer_replayed(peer.phase, now)
        for key in self._evaluation_waits:
            if key[0] == group:
                self._evaluation_waits[key] = now
        self._send_next(group, replaying.replay)

    def watch(self, final: Iterable[Version] = ()) -> None:
        """Compares every wait with its deadline, and has versions that were lost published again.

        Args:
            final: the pair that the final evaluation needs.

        Raises: GroupFailedError where a restart would not help.
        """
        now = self._clock()
        lost = [(v.group, v.number) for v in final if self._ring.is_lost(v.group, v.number)]
        self._evaluation_waits = {key: self._evaluation_waits.get(key, now) for key in lost}
        self._check_deadlines(now)
        self._publish_again()

    def _check_deadlines(self, now: float) -> None:
        """Every wait for a group, and its deadline: an interval that is late is a failure of its
        group, everything else ends the run.
        """
        deadlines = self._config.deadlines
        for group, state in self._groups.items():
            phase = state.phase
            limit_s, waited_s = deadline_s(phase, state.pace, deadlines), now - phase.since
            if limit_s is None or waited_s <= limit_s:
                continue
            match phase:
                case Training() | Replaying():
                    cause = GroupFailedError(_too_long(group, state, waited_s, limit_s))
                    self.fail(Failed(group, 0, cause))
                case WaitingForSnapshot():
                    key, who = _lost_input(group, phase)
                    raise GroupFailedError(self._came_no_nearer(key, who, waited_s))
                case Starting() | Restarting() | Resizing():
                    why = _not_ready(group, state, waited_s, limit_s)
                    raise GroupFailedError(f"{why}; {self._then}")
                case Idle() | Finished():
                    raise AssertionError(f"{phase.label} has no deadline")
        for key, since in self._evaluation_waits.items():
            if now - since > deadlines.snapshot_s:
                raise GroupFailedError(self._came_no_nearer(key, FINAL_EVALUATION, now - since))

    def _came_no_nearer(self, key: VersionKey, who: str, waited_s: float) -> str:
        group, number = key
        return (
            f"{group}: version {number}, which {who} needs, is on no node any more and "
            f"came no nearer for {waited_s:.0f} s (deadlines.snapshot_s "
            f"{self._config.deadlines.snapshot_s:g}); raise it where new nodes or the intervals "
            f"that are done again take longer; {self._then}"
        )

    def _publish_again(self) -> None:
        """Restarts groups that would not publish again what is needed of them."""
        needed = dict.fromkeys(self._evaluation_waits, FINAL_EVALUATION)
        for group, state in self._groups.items():
            if isinstance(state.phase, WaitingForSnapshot):
                key, who = _lost_input(group, state.phase)
                needed[key] = who
        for (group, number), who in needed.items():
            state = self._groups[group]
            if phases.will_publish(state.phase, number):
                continue
            refuse_if_gone(group, number, state.journal, self._then)
            start = state.journal.start
            cause = GroupFailedError(
                f"{group}: version {number}, which {who} needs, is on no node any more; it is "
                f"published again from interval {start} on"
            )
            event = Failed(group, 0, cause)
            self._refuse(event)
            for later in self._ring.numbers(group):
                if later >= start:  # the replay publishes them anyway, and they may be lost too
                    self._ring.lose(group, later)
            self._restart(event, None)


def _lost_input(group: str, phase: WaitingForSnapshot) -> tuple[VersionKey, str]:
    """The version that a group waits for, and what needs it."""
    interval = phase.entry.order.interval
    return (peer_of(group), phase.entry.peer_version), f"interval {interval} of the {group} group"


def _too_long(group: str, state: GroupState, waited_s: float, limit_s: float) -> str:
    keys = "interval_factor or interval_floor_s" if state.pace.is_warm else "first_interval_s"
    return (
        f"{group}: interval {state.committed + 1} did not end after {waited_s:.0f} s "
        f"(deadline {limit_s:.0f} s); raise deadlines.{keys}, or look for what hangs"
    )


def _not_ready(group: str, state: GroupState, waited_s: float, limit_s: float) -> str:
    failures = state.failures
    why = f"they were made because of this: {failures[-1].cause}; " if failures else ""
    return (
        f"{group}: its new processes were not ready after {waited_s:.0f} s, though all waits for "
        f"them together may take {limit_s:.0f} s (by deadlines.start_s); {why}look at the "
        "cluster's own state"
    )
