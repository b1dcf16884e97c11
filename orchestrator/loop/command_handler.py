"""Handles commands to a running run: decides at once, carries them out at interval boundaries.

    resize:      asked -> refused, or the cluster prepares the added workers while the group trains
                 -> its next interval with a version ends with a checkpoint
                 -> the cluster gives the group its new size, from that checkpoint -> done
    checkpoint:  asked -> the first interval that neither group has begun ends with one
    teach:       asked -> the first interval that neither group has begun, and every later one
    tell:        asked -> the memory group's next interval takes it; every version after that has it

Touches no file and never waits. One resize at a time, of one group or of both; each group changes
at its own boundary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.lessons.live_lessons import digest_of, with_lessons
from actors.lessons.told import with_changes
from actors.settings.run import DATA, MEMORY
from actors.wire import LiveLesson, Told
from orchestrator.loop import phases
from orchestrator.loop.command import (
    ACCEPTED,
    CHECKPOINT,
    DONE,
    REFUSED,
    TEACH,
    TELL,
    UNTELL,
    Command,
    Reply,
    State,
)
from orchestrator.loop.drain import next_common_version
from orchestrator.loop.events import Prepared, Resized
from orchestrator.loop.exchange import GroupCheckpoint
from orchestrator.loop.group_state import GroupState
from orchestrator.loop.ports import ClusterPort, Listener
from orchestrator.loop.resize_rules import Resize, group_sizes, refuse_resize, with_sizes
from orchestrator.loop.schedule import Plan
from orchestrator.settings.config import Config

TOO_LATE_TO_TEACH = (
    "both groups have begun their last common interval; teach the run once it has ended"
)
TOO_LATE = "the memory group has no interval left; tell the run once it has ended"


@dataclass
class _Resizing:
    """A resize that was accepted.

    Attributes:
        command: that asked for it.
        asked_at: when.
        new_sizes: of the groups that still have their old size.
        prepared_at: when the added workers were ready; None while they are not.
        done: groups that have their new size.
    """

    command: Command
    asked_at: float
    new_sizes: dict[str, int]
    prepared_at: float | None = None
    done: list[Resize] = field(default_factory=list)


class CommandHandler:
    """Takes commands and carries them out.

    Args:
        config: the run as it begins.
        plan, groups: of the coordinator.
        cluster: asked to prepare and to switch.
        listener: notified of replies and resizes.
        new_commands: those that came since it was last called.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        config: Config,
        plan: Plan,
        groups: Mapping[str, GroupState],
        cluster: ClusterPort,
        listener: Listener,
        new_commands: Callable[[], Sequence[Command]],
        clock: Callable[[], float],
    ) -> None:
        self._config, self._plan, self._groups = config, plan, groups
        self._cluster, self._listener = cluster, listener
        self._new_commands, self._clock = new_commands, clock
        self._checkpoints: set[int] = set()  # intervals that both groups end with one
        self._for_resize: set[tuple[str, int]] = set()  # checkpoints that only a resize asked for
        self._resizing: _Resizing | None = None
        self._tells: list[Command] = []  # that no order has taken
        self._taken: dict[int, list[Command]] = {}  # by the memory group's interval
        self._teachings: list[tuple[int, Command]] = []  # with the interval that begins them
        self._untaught: list[tuple[int, Command]] = []  # of these, without a last reply
        self._learned: tuple[LiveLesson, ...] | None = None  # when this driver began
        self._stopping = False

    def handle_new(self, stopping: bool) -> None:
        """Decides on new commands; a run that stops takes none."""
        self._stopping = stopping
        for command in self._new_commands():
            if stopping:
                self._reply(command, REFUSED, "the run is stopping")
            elif command.kind == CHECKPOINT:
                self._plan_checkpoint(command)
            elif command.kind in (TELL, UNTELL):
                self._plan_tell(command)
            elif command.kind == TEACH:
                self._plan_teaching(command)
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
        elif interval is None:
            self._reply(command, REFUSED, "both groups have begun their last interval")
        else:
            self._checkpoints.add(interval)
            self._reply(command, ACCEPTED, f"a checkpoint of interval {interval}", interval)

    def _plan_tell(self, command: Command) -> None:
        asked = [c for some in (*self._taken.values(), self._tells) for c in some]
        told = with_changes(self._groups[MEMORY].told, (c.told for c in asked))
        names = [one.id for one in told]
        if command.kind == TELL and command.name in names:
            self._reply(command, REFUSED, f"there is a write {command.name!r} already")
        elif command.kind == UNTELL and command.name not in names:
            known = f"it was told {', '.join(names[-8:])}" if names else "nothing is told"
            self._reply(command, REFUSED, f"no write {command.name!r}; {known}")
        elif isinstance(self._groups[MEMORY].phase, phases.Finished):
            self._reply(command, REFUSED, TOO_LATE)
        else:
            self._tells.append(command)
            text = f"{command.name}: from the memory group's next interval on"
            self._reply(command, ACCEPTED, text)

    def _plan_teaching(self, command: Command) -> None:
        progress = {group: state.progress for group, state in self._groups.items()}
        interval = next_common_version(self._plan, progress)
        if (reason := refuse_teaching(self._config)) is not None:
            self._reply(command, REFUSED, reason)
        elif interval is None:
            self._reply(command, REFUSED, TOO_LATE_TO_TEACH)
        else:
            self._teachings.append((interval, command))
            self._untaught.append((interval, command))
            num = len(command.lessons)
            text = f"{num} lesson(s): both groups learn them from interval {interval} on"
            self._reply(command, ACCEPTED, text, interval)

    def take_lessons(self, interval: int) -> dict[str, Any]:
        """Fields of a group's order for that interval: the lessons that it brings, and the digest
        of all that the group learns then.
        """
        if self._learned is None:
            self._learned = self._groups[DATA].lessons
        all_, new = self._learned, ()  # type: tuple[LiveLesson, ...], tuple[LiveLesson, ...]
        for begins, command in self._teachings:
            if begins <= interval:
                all_ = with_lessons(all_, command.taught)
            if begins == interval:
                new = with_lessons(new, command.taught)
        return {"lessons": new, "lessons_digest": digest_of(all_)}

    def taught_in(self) -> None:
        """An interval was committed: replies to teachings that both groups have begun."""
        committed = min(state.committed for state in self._groups.values())
        done = [one for one in self._untaught if one[0] <= committed]
        self._untaught = [one for one in self._untaught if one[0] > committed]
        for interval, command in done:
            text = f"{len(command.lessons)} lesson(s): both groups learn them since interval"
            self._reply(command, DONE, f"{text} {interval}, and until the run ends", interval)

    def take_told(self, group: str, interval: int) -> tuple[Told, ...]:
        """What the group's next interval is told; only once."""
        if group != MEMORY or not self._tells:
            return ()
        self._taken[interval], self._tells = self._tells, []
        return tuple(command.told for command in self._taken[interval])

    def told_in(self, group: str, interval: int) -> None:
        """A group's interval was committed: what it was told is kept from now on."""
        for command in self._taken.pop(interval, ()) if group == MEMORY else ():
            done = "told" if command.kind == TELL else "taken back"
            text = f"{command.name}: {done} in interval {interval}; every version after it has it"
            self._reply(command, DONE, text)

    def _plan_resize(self, command: Command) -> None:
        if self._resizing is not None:
            self._reply(command, REFUSED, "another resize is under way; ask again when it is done")
            return
        now = group_sizes(self._config)
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

    def on_prepared(self, event: Prepared) -> None:
        """The added workers are ready, or can't be had: then the run goes on as it was."""
        resizing = self._resizing
        if resizing is None:
            return  # the run's end overtook it, and `close` has refused it
        if event.cause is None:
            resizing.prepared_at = self._clock()
            return
        self._resizing = None
        self._listener.on_warning(f"a resize was refused: {event.cause}")
        self._reply(resizing.command, REFUSED, str(event.cause))

    def need_checkpoint(self, group: str, interval: int, publish: bool) -> bool:
        """Whether the group's next interval, which would have none, must end with a checkpoint."""
        if interval in self._checkpoints:
            return True
        if publish and interval < self._plan.intervals and self._may_switch(group):
            self._for_resize.add((group, interval))
            return True
        return False

    def is_for_resize_alone(self, checkpoint: GroupCheckpoint) -> bool:
        """Whether only a resize asked for this checkpoint, so that it is no half of a pair."""
        return (checkpoint.group, checkpoint.interval) in self._for_resize

    def _may_switch(self, group: str) -> bool:
        resizing = self._resizing
        return (
            resizing is not None
            and resizing.prepared_at is not None
            and group in resizing.new_sizes
            and not self._stopping
        )

    def at_boundary(self, checkpoint: GroupCheckpoint | None) -> None:
        """A group's interval was committed: pauses the group and begins to resize it where that
        was asked for and prepared.
        """
        if checkpoint is None or not self._may_switch(checkpoint.group):
            return
        group, interval = checkpoint.group, checkpoint.interval
        if interval >= self._plan.intervals or not self._plan.publishes(interval):
            return
        state = self._groups[group]
        state.phase = phases.on_pause_for_resize(state.phase, self._clock())
        state.pace.is_warm = False
        self._cluster.switch(group, state.incarnation, checkpoint)

    def on_resized(self, event: Resized) -> None:
        """A group has its new number of workers."""
        state = self._groups[event.group]
        state.phase = phases.on_resized(state.phase, self._clock())
        self.complete_resize(event.group)

    def complete_resize(self, group: str) -> None:
        """As `on_resized`; also where a process died meanwhile and the whole group was restarted
        with its new size.
        """
        resizing, state = self._resizing, self._groups[group]
        assert resizing is not None, f"{group}: no resize is under way"
        assert resizing.prepared_at is not None, f"{group}: resized before it was prepared"
        assert state.committed_at is not None, f"{group}: resized before its first interval"
        after, before = resizing.new_sizes.pop(group), group_sizes(self._config)[group]
        resize = Resize(
            group=group,
            interval=state.committed,
            before=before,
            after=after,
            prepare_s=resizing.prepared_at - resizing.asked_at,
            pause_s=self._clock() - state.committed_at,
        )
        self._config = with_sizes(self._config, {group: after})
        state.pace.lengths_s.clear()  # its intervals take another time from now on
        resizing.done.append(resize)
        self._listener.on_resize(resize)
        if not resizing.new_sizes:
            self._resizing = None
            self._reply(resizing.command, DONE, "; ".join(str(done) for done in resizing.done))

    def close(self) -> None:
        """The run has come to its end: refuses what was not carried out."""
        self.handle_new(stopping=True)
        for command in self._tells:
            self._reply(command, REFUSED, TOO_LATE)
        self._tells = []
        if self._resizing is not None:
            done = "; ".join(str(done) for done in self._resizing.done)
            left = ", ".join(self._resizing.new_sizes)
            text = f"the run came to its end before the {left} group could be resized"
            self._reply(self._resizing.command, REFUSED, f"{done}; {text}" if done else text)
            self._resizing = None


def refuse_teaching(config: Config) -> str | None:
    """Why a running run can't be taught; None: it can."""
    if config.teach.is_on:
        return "this run teaches a finished one; teach its result once it has ended"
    if config.memory.teacher == "said":
        return (
            "its memory group has no data layer to ask about lessons (memory.teacher is said); "
            "tell the memory (tandem tell), or teach the run once it has ended"
        )
    if config.data.layer.keeps_model:
        return (
            f"the data layer's model keeps its weights (data.layer.train is "
            f"{config.data.layer.train}), so that it learns no lesson; tell the memory (tandem "
            "tell), or teach the run once it has ended (--train lora)"
        )
    return None
