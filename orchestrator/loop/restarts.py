"""Restarts a group that failed, replays what it did since its checkpoint, and has a version that
was lost published again.

    Failed        -> refused, or cluster.restart
    Restarted     -> the journal's orders again, one by one; after the last it is where it was
    version lost  -> who is to adopt it waits; its group publishes it in the replay that is under
                     way, or is restarted so that it does

No wait is without a deadline, see `group_state`; one that ends the run says how to go on. Touches
no file and never blocks. Called by `coordinator`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from actors.settings.run import GROUPS, peer_of
from actors.wire import SnapshotError
from orchestrator.errors import GroupFailedError
from orchestrator.loop.events import Committed, Failed, Restarted
from orchestrator.loop.exchange import Ring, Version
from orchestrator.loop.group_state import GroupState, restart_limit_s
from orchestrator.loop.ports import ClusterPort, Listener
from orchestrator.loop.recovery import Entry, Failure, Recovery, refuse_if_gone, refuse_restart
from orchestrator.settings.config import Config
from orchestrator.settings.file_names import resume_command


class Restarts:
    """Sends orders, and brings groups and versions back.

    Args:
        config: the run.
        groups: of the coordinator.
        ring: of the coordinator.
        cluster: asked to restart.
        listener: told failures and recoveries.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        config: Config,
        groups: Mapping[str, GroupState],
        ring: Ring,
        cluster: ClusterPort,
        listener: Listener,
        clock: Callable[[], float],
    ) -> None:
        self._config, self._groups, self._ring = config, groups, ring
        self._cluster, self._listener, self._clock = cluster, listener, clock
        self._refetched: set[tuple[str, int]] = set()  # versions of which a second copy was made
        self._missing: dict[tuple[str, int], float] = {}  # see `_bring_back`

    @property
    def _then(self) -> str:
        return f"go on with: {resume_command(self._config.run_url)}"

    def send(self, group: str, entry: Entry) -> None:
        """Gives a group an order, with its own incarnation on it; one whose input is lost waits."""
        state, peer = self._groups[group], peer_of(group)
        if self._ring.is_lost(peer, entry.peer_version):
            state.recovery.waiting = entry
            journal = self._groups[peer].recovery.journal
            refuse_if_gone(peer, entry.peer_version, journal, self._then)
            return
        state.recovery.sent, state.submitted_at = entry, self._clock()
        order = replace(entry.order, incarnation=state.recovery.incarnation)
        self._cluster.submit(group, order, self._ring.get(peer, entry.peer_version))

    def fail(self, event: Failed) -> None:
        """Begins to restart a group that failed. Raises: the cause where it may not be."""
        recovery = self._groups[event.group].recovery
        self._refuse(event)
        refetch = self._to_refetch(event)
        if event.missing_input and recovery.sent is not None:
            self._ring.lose(peer_of(event.group), recovery.sent.peer_version)
        self._restart(event, refetch)

    def _refuse(self, event: Failed) -> None:
        refuse_restart(
            event.cause,
            self._groups[event.group].recovery.failures,
            self._config.recovery.max_failures if self._config.recovers else 0,
            self._then,
        )

    def _restart(self, event: Failed, refetch: Version | None) -> None:
        group, state = event.group, self._groups[event.group]
        recovery = state.recovery
        failure = Failure(
            group=group,
            rank=event.rank,
            interval=state.progress.committed + 1,
            cause=str(event.cause),
            incarnation=recovery.incarnation,
            replayed=len(recovery.journal.again()),
        )
        recovery.fail(failure, self._clock())
        state.progress, state.is_warm = replace(state.progress, running=True), False
        journal = recovery.journal
        publish = self._ring.is_lost(group, journal.start)  # the later ones come of the replay
        self._cluster.restart(group, recovery.incarnation, journal.checkpoint, refetch, publish)
        self._listener.on_failure(failure)

    def _to_refetch(self, event: Failed) -> Version | None:
        """The version whose bytes a group found bad, where that is why it failed.

        Raises: the cause where it was fetched again before.
        """
        sent = self._groups[event.group].recovery.sent
        if not isinstance(event.cause, SnapshotError) or sent is None:
            return None
        version = self._ring.get(peer_of(event.group), sent.peer_version)
        if (version.group, version.number) in self._refetched:
            raise event.cause
        self._refetched.add((version.group, version.number))
        return version

    def ready(self, event: Restarted) -> bool:
        """A group's new processes are ready: begins to replay its journal. False where they were
        given up meanwhile.
        """
        recovery = self._groups[event.group].recovery
        if event.incarnation != recovery.incarnation:
            return False
        if event.refetched is not None:
            self._ring.replace(event.refetched)
        if event.lost_node:
            for number in self._ring.numbers(event.group):
                self._ring.lose(event.group, number)
        recovery.stand(self._clock())
        if event.published is not None:
            self._replace(event.published)
        self._replay(event.group)
        return True

    def _replace(self, version: Version) -> None:
        """Another copy of a version is there: whoever waited for it goes on."""
        self._ring.replace(version)
        recovery = self._groups[peer_of(version.group)].recovery
        entry = recovery.waiting
        if entry is not None and entry.peer_version == version.number:
            recovery.waiting = None
            self.send(peer_of(version.group), entry)

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
            self.send(group, entry)

    def replayed(self, event: Committed) -> None:
        """An interval came back that was committed before: compares it and sends the next.

        Raises: GroupFailedError where its bytes are others, on CPUs.
        """
        group, lost = event.group, self._ring.is_lost(event.group, event.interval)
        self._groups[group].is_warm = True
        if self._groups[group].recovery.differs(event.version):
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
        for of, number in self._missing:
            if of == group:
                self._missing[of, number] = self._clock()
        self._replay(group)

    def watch(self, final: Iterable[Version] = ()) -> None:
        """Fails what is past its deadline, and has versions that were lost published again.

        Args:
            final: the pair that the final evaluation needs.

        Raises: GroupFailedError where a restart would not help.
        """
        now, deadlines = self._clock(), self._config.deadlines
        for group, state in self._groups.items():
            gone_s, limit_s = now - state.submitted_at, state.deadline_s(deadlines)
            if state.is_at_work and gone_s > limit_s:
                cause = GroupFailedError(_too_long(group, state, gone_s, limit_s))
                self.fail(Failed(group, 0, cause))
            recovery = state.recovery
            gone_s, limit_s = now - recovery.failed_at, restart_limit_s(deadlines)
            if recovery.restarting and gone_s > limit_s:
                why = _not_ready(group, recovery, gone_s, limit_s)
                raise GroupFailedError(f"{why}; {self._then}")
        self._bring_back(self._needed(final), now)

    def _needed(self, final: Iterable[Version]) -> dict[tuple[str, int], str]:
        """Versions that are lost and that somebody waits for: who, in words."""
        needed = {
            (v.group, v.number): "the final evaluation"
            for v in final
            if self._ring.is_lost(v.group, v.number)
        }
        for group in GROUPS:
            if (entry := self._groups[group].recovery.waiting) is not None:
                who = f"interval {entry.order.interval} of the {group} group"
                needed[peer_of(group), entry.peer_version] = who
        return needed

    def _bring_back(self, needed: Mapping[tuple[str, int], str], now: float) -> None:
        """Restarts groups that would not publish again what is needed of them.

        `_missing` keeps since when each version is waited for, or an interval before it was done
        again.
        """
        limit_s = self._config.deadlines.snapshot_s
        self._missing = {key: self._missing.get(key, now) for key in needed}
        for (group, number), who in needed.items():
            state, gone_s = self._groups[group], now - self._missing[group, number]
            if gone_s > limit_s:
                raise GroupFailedError(
                    f"{group}: version {number}, which {who} needs, is on no node any more and "
                    f"came no nearer for {gone_s:.0f} s (deadlines.snapshot_s {limit_s:g}); raise "
                    "it where new nodes or the intervals that are done again take longer; "
                    f"{self._then}"
                )
            if state.brings_back(number):
                continue
            journal = state.recovery.journal
            refuse_if_gone(group, number, journal, self._then)
            cause = GroupFailedError(
                f"{group}: version {number}, which {who} needs, is on no node any more; it is "
                f"published again from interval {journal.start} on"
            )
            event = Failed(group, 0, cause)
            self._refuse(event)
            for again in self._ring.numbers(group):
                if again >= journal.start:  # they come again anyway, and may be lost too
                    self._ring.lose(group, again)
            self._restart(event, None)


def _too_long(group: str, state: GroupState, gone_s: float, limit_s: float) -> str:
    keys = "interval_factor or interval_floor_s" if state.is_warm else "first_interval_s"
    return (
        f"{group}: interval {state.progress.committed + 1} did not end after {gone_s:.0f} s "
        f"(deadline {limit_s:.0f} s); raise deadlines.{keys}, or look for what hangs"
    )


def _not_ready(group: str, recovery: Recovery, gone_s: float, limit_s: float) -> str:
    failures = recovery.failures
    why = f"they were made because of this: {failures[-1].cause}; " if failures else ""
    return (
        f"{group}: its new processes were not ready after {gone_s:.0f} s, though all waits for "
        f"them together may take {limit_s:.0f} s (by deadlines.start_s); {why}look at the "
        "cluster's own state"
    )
