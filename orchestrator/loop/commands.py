"""Commands to a running run, decided at once and carried out at interval boundaries.

    resize:      asked -> refused, or the cluster prepares what is added while the group goes on
                 -> its next interval with a version ends with a checkpoint
                 -> the cluster switches the group over, from that checkpoint -> done
    checkpoint:  asked -> the first interval that neither group has begun ends with one

Touches no file and never waits. One resize at a time, of one group or of both; each group changes
at its own boundary. Called by `coordinator`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.loop.command import ACCEPTED, CHECKPOINT, DONE, REFUSED, Command, Reply, State
from orchestrator.loop.drain import next_common_version
from orchestrator.loop.events import Prepared, Resized
from orchestrator.loop.exchange import GroupCheckpoint
from orchestrator.loop.group_state import GroupState
from orchestrator.loop.ports import ClusterPort, Listener
from orchestrator.loop.resize import Resize, refuse_resize, resized, sizes_of
from orchestrator.loop.schedule import Plan
from orchestrator.settings.config import Config


@dataclass
class _Resizing:
    """A resize that was accepted.

    Attributes:
        command: that asked for it.
        asked_at: when.
        waiting: groups that still have their old size, with the new one.
        ready_at: when what is added stood.
        paused: groups that are being switched over, with their last interval and when it ended.
        done: what has been switched over.
    """

    command: Command
    asked_at: float
    waiting: dict[str, int]
    ready_at: float | None = None
    paused: dict[str, tuple[int, float]] = field(default_factory=dict)
    done: list[Resize] = field(default_factory=list)


class Commands:
    """Hears commands and carries them out.

    Args:
        config: the run as it begins.
        plan, groups: of the coordinator.
        cluster: asked to prepare and to switch.
        listener: told replies and resizes.
        heard: the commands that came since it was last called.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        config: Config,
        plan: Plan,
        groups: Mapping[str, GroupState],
        cluster: ClusterPort,
        listener: Listener,
        heard: Callable[[], Sequence[Command]],
        clock: Callable[[], float],
    ) -> None:
        self._config, self._plan, self._groups = config, plan, groups
        self._cluster, self._listener = cluster, listener
        self._heard, self._clock = heard, clock
        self._checkpoints: set[int] = set()  # intervals after which both groups are asked for one
        self._alone: set[tuple[str, int]] = set()  # checkpoints that only a resize asked for
        self._resizing: _Resizing | None = None
        self._stopping = False

    def hear(self, stopping: bool) -> None:
        """Decides on what came; a run that stops takes no more commands."""
        self._stopping = stopping
        for command in self._heard():
            if stopping:
                self._reply(command, REFUSED, "the run is stopping")
            elif command.kind == CHECKPOINT:
                self._plan_checkpoint(command)
            else:
                self._plan_resize(command)

    def _reply(
        self, command: Command, state: State, message: str, interval: int | None = None
    ) -> None:
        self._listener.on_reply(
            Reply(id=command.id, state=state, message=message, interval=interval)
        )

    def _plan_checkpoint(self, command: Command) -> None:
        progress = {group: state.progress for group, state in self._groups.items()}
        interval = next_common_version(self._plan, progress)
        if not self._config.checkpoints.every:
            self._reply(command, REFUSED, "this run makes no checkpoints: checkpoints.every is 0")
        elif interval > self._plan.intervals:
            self._reply(command, REFUSED, "both groups have begun their last interval")
        else:
            self._checkpoints.add(interval)
            self._reply(command, ACCEPTED, f"a checkpoint of interval {interval}", interval)

    def _plan_resize(self, command: Command) -> None:
        if self._resizing is not None:
            self._reply(command, REFUSED, "another resize is under way; ask again when it is done")
            return
        now = sizes_of(self._config)
        wanted = {group: num for group, num in command.sizes.items() if num != now[group]}
        if not wanted:
            self._reply(command, DONE, "nothing to do: that is how many workers there are")
            return
        progress = {group: state.progress for group, state in self._groups.items()}
        if reason := refuse_resize(self._config, wanted, self._plan, progress):
            self._reply(command, REFUSED, reason)
            return
        self._resizing = _Resizing(command, self._clock(), wanted)
        self._cluster.prepare(wanted, command.wait_s)
        text = ", ".join(f"{group} {now[group]} -> {num}" for group, num in wanted.items())
        self._reply(command, ACCEPTED, f"workers: {text}")

    def prepared(self, event: Prepared) -> None:
        """What is added stands, or can't be had: then the run goes on as it was."""
        resizing = self._resizing
        assert resizing is not None, "nothing was being prepared"
        if event.cause is None:
            resizing.ready_at = self._clock()
            return
        self._resizing = None
        self._listener.on_warning(f"a resize was refused: {event.cause}")
        self._reply(resizing.command, REFUSED, str(event.cause))

    def need_checkpoint(self, group: str, interval: int, publish: bool) -> bool:
        """Whether the group's next interval, which would have none, must end with a checkpoint."""
        if interval in self._checkpoints:
            return True
        if publish and interval < self._plan.intervals and self._may_switch(group):
            self._alone.add((group, interval))
            return True
        return False

    def asked_alone(self, checkpoint: GroupCheckpoint) -> bool:
        """Whether only a resize asked for this checkpoint, so that it is no half of a pair."""
        return (checkpoint.group, checkpoint.interval) in self._alone

    def _may_switch(self, group: str) -> bool:
        resizing = self._resizing
        return (
            resizing is not None
            and resizing.ready_at is not None
            and group in resizing.waiting
            and not self._stopping
        )

    def at_boundary(self, checkpoint: GroupCheckpoint | None) -> None:
        """A group's interval was committed: switches the group over where it is its turn."""
        if checkpoint is None or not self._may_switch(checkpoint.group):
            return
        group, interval = checkpoint.group, checkpoint.interval
        if interval >= self._plan.intervals or not self._plan.publishes(interval):
            return
        assert self._resizing is not None
        now, state = self._clock(), self._groups[group]
        self._resizing.paused[group] = interval, now
        state.progress, state.is_warm = replace(state.progress, running=True), False
        state.recovery.give_way(now)
        self._cluster.switch(group, state.recovery.incarnation, checkpoint)

    def switched(self, event: Resized) -> None:
        """A group stands with its new number of workers."""
        state = self._groups[event.group]
        state.recovery.stand(self._clock())
        state.progress = replace(state.progress, running=False)
        self.stood(event.group)

    def stood(self, group: str) -> None:
        """As `switched`; also where a process died meanwhile and the whole group was made anew."""
        resizing = self._resizing
        if resizing is None or group not in resizing.paused:
            return
        interval, ended_at = resizing.paused.pop(group)
        after, before = resizing.waiting.pop(group), sizes_of(self._config)[group]
        assert resizing.ready_at is not None
        resize = Resize(
            group=group,
            interval=interval,
            before=before,
            after=after,
            prepare_s=resizing.ready_at - resizing.asked_at,
            pause_s=self._clock() - ended_at,
        )
        self._config = resized(self._config, {group: after})
        self._groups[group].lengths_s.clear()  # its intervals take another time from now on
        resizing.done.append(resize)
        self._listener.on_resize(resize)
        if not resizing.waiting:
            self._resizing = None
            self._reply(resizing.command, DONE, "; ".join(str(done) for done in resizing.done))

    def end(self) -> None:
        """Replies to what the run's end leaves undone."""
        self.hear(stopping=True)
        if self._resizing is not None:
            done = "; ".join(str(done) for done in self._resizing.done)
            left = ", ".join(self._resizing.waiting)
            text = f"the run came to its end before the {left} group could be resized"
            self._reply(self._resizing.command, REFUSED, f"{done}; {text}" if done else text)
            self._resizing = None
