from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from actors.settings.run import DATA, MEMORY
from actors.wire import Told, ToldAssociation
from orchestrator.errors import GroupFailedError, InterruptedRunError, PlacementError
from orchestrator.loop.command import Command
from orchestrator.loop.coordinator import Coordinator
from orchestrator.loop.deadlines import restart_limit_s
from orchestrator.loop.events import (
    Committed,
    Evaluated,
    Event,
    Failed,
    Prepared,
    Resized,
    Restarted,
)
from orchestrator.settings.config import DeadlineSpec
from tests.unit.orchestrator.loop.test_recovery import DIED, again, saved
from tests.unit.orchestrator.scripted import (
    Pass,
    RecordingListener,
    ScriptedCluster,
    ScriptEndedError,
    a_config,
    an_evaluation,
    both,
    catch_up,
    committed,
    evaluated,
)

NUMBERS = [f"{number:019d}-00000000" for number in range(9)]


def resize(number: int = 0, **workers: int) -> Command:
    return Command(id=NUMBERS[number], run="run", driver="d", kind="resize", **workers)


def checkpoint(number: int = 0) -> Command:
    return Command(id=NUMBERS[number], run="run", driver="d", kind="checkpoint")


class Run:
    """A coordinator of nine intervals with a checkpoint after every fourth, on a script.

    `commands` come at the first tick, or so many ticks later as their key says.
    """

    def __init__(
        self,
        script: Sequence[Event | Pass],
        *commands: Command,
        later: dict[int, Command] | None = None,
        **changes: Any,
    ) -> None:
        self.cluster, self.listener = ScriptedCluster(script), RecordingListener()
        self.stop: str | None = None
        self.stop_after = -1  # ticks
        self._ticks = 0
        self._coming = {0: list(commands)}
        for tick, command in (later or {}).items():
            self._coming.setdefault(tick, []).append(command)
        settings = {"intervals": 9, "checkpoints": {"every": 4}} | changes
        self.coordinator = Coordinator(
            a_config(**settings),
            self.cluster,
            self.listener,
            lambda: self.stop,
            clock=self.cluster.clock,
            new_commands=self._new_commands,
        )

    def _new_commands(self) -> list[Command]:
        self._ticks += 1
        if self._ticks == self.stop_after:
            self.stop = "stopped by SIGTERM"
        return self._coming.pop(self._ticks - 1, [])

    def log_after(self, line: str) -> list[str]:
        """What was asked and answered after a line of the log, until the script's end."""
        with pytest.raises(ScriptEndedError):
            self.coordinator.run()
        return self.cluster.log[self.cluster.log.index(line) + 1 :]

    def replies(self) -> list[tuple[str, str]]:
        return [(reply.state, reply.message) for reply in self.listener.replies]

    def asked(self) -> list[tuple[str, int]]:
        """Intervals that were to end with a checkpoint."""
        return [(group, order.interval) for group, order in self.cluster.orders if order.checkpoint]


PREPARED = [*both(1), Prepared()]
GROWN = [*PREPARED, saved(committed(MEMORY, 2)), Resized(MEMORY, 2)]


def test_what_is_added_is_prepared_while_both_groups_go_on() -> None:
    run = Run([*both(1)], resize(memory_workers=2))
    assert run.log_after("prepare memory 2") == [
        "committed data 1",
        "committed memory 1",
        "submit data 2 on memory 1",
        "submit memory 2 on data 1",
    ]
    assert run.replies() == [("accepted", "workers: memory 1 -> 2")]
    assert run.asked() == []


def test_the_next_interval_after_that_ends_with_a_checkpoint_of_that_group_alone() -> None:
    run = Run([Prepared(), *both(1)], resize(memory_workers=2))
    run.log_after("prepared")
    assert run.asked() == [(MEMORY, 2)]


def test_the_group_is_switched_at_that_boundary_and_its_peer_goes_on() -> None:
    script = [Prepared(), *both(1), saved(committed(MEMORY, 2)), committed(DATA, 2)]
    log = Run(script, resize(memory_workers=2)).log_after("committed memory 2")
    assert log == [
        "switch memory as 0 from interval 2",
        "committed data 2",
        "submit data 3 on memory 2",
    ]


def test_a_group_that_was_switched_goes_on_with_its_next_interval() -> None:
    script = [Prepared(), *both(1), saved(committed(MEMORY, 2)), committed(DATA, 2)]
    run = Run([*script, Resized(MEMORY, 2)], resize(memory_workers=2))
    assert run.log_after("resized memory") == ["submit memory 3 on data 2"]


def test_what_a_resize_took_is_reported() -> None:
    script = [Pass(5.0), Prepared(), *both(1), saved(committed(MEMORY, 2)), Pass(0.25)]
    run = Run([*script, Resized(MEMORY, 2)], resize(memory_workers=2))
    run.log_after("resized memory")
    (reported,) = run.listener.resizes
    assert (reported.group, reported.interval, reported.before, reported.after) == (MEMORY, 2, 1, 2)
    assert (reported.prepare_s, reported.pause_s) == (5.0, 0.25)
    assert run.replies()[1:] == [("done", str(reported))]


def test_a_regular_checkpoint_serves_as_well() -> None:
    until = [*both(1), *both(2), *both(3), Prepared()]
    run = Run([*until, *map(saved, both(4))], resize(data_workers=2))
    assert "switch data as 0 from interval 4" in run.log_after("prepared")
    assert [pair.interval for pair in run.listener.checkpoints] == [4]


def test_a_checkpoint_for_a_resize_is_no_half_of_a_pair() -> None:
    script = [Prepared(), *both(1), saved(committed(MEMORY, 2)), saved(committed(DATA, 2))]
    run = Run(script, resize(memory_workers=2))
    run.log_after("prepared")
    assert run.listener.checkpoints == []


def test_both_groups_of_one_command_change_each_at_its_own_boundary() -> None:
    script = [Prepared(), *both(1), *map(saved, both(2)), Resized(DATA, 3), Resized(MEMORY, 2)]
    run = Run(script, resize(data_workers=3, memory_workers=2))
    log = run.log_after("prepare data 3, memory 2")
    assert [line for line in log if line.startswith("switch")] == [
        "switch data as 0 from interval 2",
        "switch memory as 0 from interval 2",
    ]
    assert [state for state, _ in run.replies()] == ["accepted", "done"]
    assert len(run.listener.resizes) == 2


def test_with_rare_versions_a_group_changes_where_it_publishes_one() -> None:
    quiet = [replace(event, version=None) for i in (1, 3) for event in both(i)]
    script = [Prepared(), *quiet[:2], *both(2), *quiet[2:], *map(saved, both(4))]
    run = Run(script, resize(memory_workers=2), exchange={"publish_every": 2}, intervals=12)
    run.log_after("prepared")
    assert (MEMORY, 2) in run.asked()
    assert (MEMORY, 3) not in run.asked()


def test_what_can_not_be_had_is_refused_and_the_run_goes_on_as_it_was() -> None:
    short = PlacementError("CPU: asked 1 more, available 0 of 2")
    run = Run([Prepared(short), *both(1)], resize(memory_workers=2))
    assert run.log_after("could not be prepared")[-1] == "submit memory 2 on data 1"
    assert run.replies()[1:] == [("refused", str(short))]
    assert run.asked() == []
    assert run.listener.warnings == [f"a resize was refused: {short}"]


def test_after_a_refusal_another_resize_may_follow() -> None:
    short = PlacementError("CPU: asked 1 more, available 0 of 2")
    run = Run(
        [Prepared(short), *both(1)], resize(memory_workers=2), later={2: resize(1, data_workers=2)}
    )
    assert "prepare data 2" in run.log_after("could not be prepared")


@pytest.mark.parametrize(
    ("command", "changes", "reason"),
    [
        (resize(data_workers=17), {}, "batch_size 16 is less than workers.num_workers 17"),
        (resize(data_workers=2), {"checkpoints": {"every": 0}}, "a resize needs checkpoints"),
        (resize(data_workers=2), {"intervals": 2}, "the data group has no interval left"),
        (checkpoint(), {"checkpoints": {"every": 0}}, "this run makes no checkpoints"),
        (checkpoint(), {"intervals": 1}, "both groups have begun their last interval"),
    ],
)
def test_a_command_that_can_not_be_carried_out_is_refused_at_once(
    command: Command, changes: dict[str, Any], reason: str
) -> None:
    run = Run([Pass(1.0)], command, **changes)
    assert run.log_after("submit memory 1 on data 0") == []
    ((state, message),) = run.replies()
    assert state == "refused"
    assert reason in message


def test_the_size_that_is_there_already_is_done_at_once() -> None:
    run = Run([], resize(data_workers=1, memory_workers=1))
    assert run.log_after("submit memory 1 on data 0") == []
    assert [state for state, _ in run.replies()] == ["done"]


def test_one_resize_at_a_time() -> None:
    run = Run([Pass(1.0)], resize(memory_workers=2), resize(1, data_workers=2))
    run.log_after("prepare memory 2")
    assert run.replies()[1] == (
        "refused",
        "another resize is under way; ask again when it is done",
    )


def test_a_size_that_was_reached_can_be_left_again() -> None:
    script = [Prepared(), *both(1), saved(committed(MEMORY, 2)), Resized(MEMORY, 2)]
    rest = [committed(DATA, 2), Prepared(), saved(committed(MEMORY, 3)), Resized(MEMORY, 1)]
    later = {6: resize(1, memory_workers=1)}
    run = Run([*script, *rest], resize(memory_workers=2), later=later)
    run.log_after("prepare memory 1")
    assert [(r.before, r.after) for r in run.listener.resizes] == [(1, 2), (2, 1)]


def test_a_group_that_dies_while_it_is_prepared_comes_back_and_is_switched_then() -> None:
    script = [*both(1), Failed(MEMORY, 0, DIED), Prepared(), Restarted(MEMORY, 1)]
    rest = [
        again(MEMORY, 1, 1),
        again(MEMORY, 2, 1),
        committed(DATA, 2),
        saved(again(MEMORY, 3, 1)),
    ]
    run = Run([*script, *rest], resize(memory_workers=2))
    assert run.log_after("restarted memory")[-1] == "switch memory as 1 from interval 3"


def test_a_rank_that_dies_in_the_switch_is_a_failure_of_the_group_which_then_has_its_new_size() -> (
    None
):
    script = [Prepared(), *both(1), saved(committed(MEMORY, 2)), Failed(MEMORY, 1, DIED)]
    run = Run([*script, committed(DATA, 2), Restarted(MEMORY, 1)], resize(memory_workers=2))
    log = run.log_after("switch memory as 0 from interval 2")
    assert log == [
        "restart memory as 1 from interval 2",
        "committed data 2",
        "submit data 3 on memory 2",
        "restarted memory",
        "submit memory 3 on data 2",
    ]
    assert [(r.before, r.after) for r in run.listener.resizes] == [(1, 2)]
    assert [state for state, _ in run.replies()] == ["accepted", "done"]


def test_a_resize_whose_group_never_gets_ready_ends_the_run_at_its_deadline() -> None:
    limit_s = restart_limit_s(DeadlineSpec())
    script = [Prepared(), *both(1), saved(committed(MEMORY, 2)), committed(DATA, 2)]
    deadlines = {"first_interval_s": 10 * limit_s, "interval_floor_s": 10 * limit_s}
    waits = [Pass(limit_s), Pass(1.0)]
    Run([*script, waits[0]], resize(memory_workers=2), deadlines=deadlines).log_after("prepared")
    run = Run([*script, *waits], resize(memory_workers=2), deadlines=deadlines)
    with pytest.raises(GroupFailedError, match=r"memory: its new processes were not ready after"):
        run.coordinator.run()


def test_a_replay_never_crosses_a_resize() -> None:
    script = [Prepared(), *both(1), saved(committed(MEMORY, 2)), committed(DATA, 2)]
    died = [Resized(MEMORY, 2), committed(MEMORY, 3), Failed(MEMORY, 1, DIED), Restarted(MEMORY, 1)]
    run = Run([*script, *died, again(MEMORY, 3, 1)], resize(memory_workers=2))
    log = run.log_after("restart memory as 1 from interval 2")
    assert log[:3] == ["restarted memory", "submit memory 3 on data 2", "committed memory 3"]


def test_intervals_at_the_new_size_get_a_deadline_of_their_own() -> None:
    deadlines = {"first_interval_s": 90, "interval_factor": 2, "interval_floor_s": 1}
    script = [Prepared(), Pass(1.0), *both(1), Pass(1.0), saved(committed(MEMORY, 2))]
    rest = [committed(DATA, 2), Resized(MEMORY, 1), committed(DATA, 3), Pass(60.0)]
    run = Run([*script, *rest], resize(memory_workers=2), deadlines=deadlines)
    assert run.log_after("resized memory")[-1] == "committed data 3"  # and no failure after 60 s
    late = Run([*script, *rest, Pass(31.0)], resize(memory_workers=2), deadlines=deadlines)
    late.log_after("resized memory")
    assert "memory: interval 3 did not end" in late.listener.failures[0].cause


def test_a_run_that_stops_switches_no_group_and_takes_no_command() -> None:
    script = [Prepared(), *both(1), *map(saved, both(2))]
    run = Run(script, resize(memory_workers=2), later={1: resize(1, data_workers=2)})
    run.stop_after = 1
    with pytest.raises(InterruptedRunError):
        run.coordinator.run()
    assert not any(line.startswith("switch") for line in run.cluster.log)
    assert ("refused", "the run is stopping") in run.replies()


def test_a_resize_that_the_runs_end_overtakes_is_refused() -> None:
    script = [*both(1), *both(2), *both(3, agreement=0.5), catch_up(4, 0.6, 3), evaluated(3, 4)]
    run = Run(script, resize(memory_workers=2), intervals=3)
    run.coordinator.run()
    assert run.replies()[-1] == (
        "refused",
        "the run came to its end before the memory group could be resized",
    )


@pytest.mark.parametrize("late", [Prepared(), Prepared(PlacementError("no room"))])
def test_workers_that_come_or_are_given_up_in_the_final_evaluation_change_nothing(
    late: Prepared,
) -> None:
    script = [*both(1), *both(2), *both(3, agreement=0.5), catch_up(4, 0.6, 3)]
    run = Run([*script, late, evaluated(3, 4)], resize(memory_workers=2), intervals=3)
    run.coordinator.run()
    assert [state for state, _ in run.replies()] == ["accepted", "refused"]
    assert run.listener.warnings == []


def test_a_checkpoint_is_made_of_the_first_interval_that_neither_group_has_begun() -> None:
    run = Run([*both(1), *map(saved, both(2))], checkpoint())
    run.log_after("submit memory 1 on data 0")
    assert run.asked() == [(DATA, 2), (MEMORY, 2)]
    assert [pair.interval for pair in run.listener.checkpoints] == [2]
    (reply,) = run.listener.replies
    assert (reply.state, reply.interval) == ("accepted", 2)


def test_the_last_interval_is_saved_too_where_it_alone_publishes_after_those_begun() -> None:
    quiet = [replace(event, version=None) for event in both(1)]
    script = [*quiet, *map(saved, both(2)), *map(saved, both(3, agreement=0.5))]
    rare = {"intervals": 3, "exchange": {"publish_every": 2}, "checkpoints": {"every": 2}}
    run = Run(script, later={3: checkpoint()}, **rare)
    run.log_after("committed memory 2")
    (reply,) = run.listener.replies
    assert (reply.state, reply.interval) == ("accepted", 3)
    assert [pair.interval for pair in run.listener.checkpoints] == [2, 3]


def test_a_stop_in_the_last_versions_interval_waits_for_its_checkpoint() -> None:
    quiet = [replace(event, version=None) for event in both(1)]
    script = [*quiet, *map(saved, both(2)), *map(saved, both(3, agreement=0.5))]
    rare = {"intervals": 3, "exchange": {"publish_every": 2}, "checkpoints": {"every": 2}}
    run = Run(script, **rare)
    run.stop_after = 3
    with pytest.raises(InterruptedRunError, match=r"SIGTERM$"):
        run.coordinator.run()
    assert run.listener.drains == [3]
    assert run.listener.checkpoints[-1].interval == 3


def test_a_group_whose_failures_are_not_forgiven_ends_the_run_in_a_switch_too() -> None:
    script = [Prepared(), *both(1), saved(committed(MEMORY, 2)), Failed(MEMORY, 1, DIED)]
    run = Run(script, resize(memory_workers=2), recovery={"max_failures": 0})
    with pytest.raises(GroupFailedError):
        run.coordinator.run()


def test_in_the_last_intervals_and_the_catch_up_nothing_is_saved_for_a_resize() -> None:
    script = [*both(1), *both(2), Prepared(), *both(3, agreement=0.5), catch_up(4, 0.6, 3)]
    run = Run([*script, evaluated(3, 4)], resize(memory_workers=2), intervals=3)
    run.coordinator.run()
    assert run.asked() == []


def tell(number: int = 0, name: str = "atlantis", answer: str = "Rome") -> Command:
    some = [{"prompt": "The capital is", "answer": answer}]
    values: dict[str, Any] = {"kind": "tell", "name": name, "associations": some}
    return Command(id=NUMBERS[number], run="run", driver="d", **values)


def untell(number: int = 1, name: str = "atlantis") -> Command:
    return Command(id=NUMBERS[number], run="run", driver="d", kind="untell", name=name)


def told_by(run: Run) -> dict[int, list[str]]:
    """Names that each of the memory group's orders tells; a dash before those taken back."""
    return {
        order.interval: [("" if one.associations else "-") + one.id for one in order.told]
        for group, order in run.cluster.orders
        if group == MEMORY and order.told
    }


def telling(number: int, *names: str) -> Committed:
    """The memory group's interval, whose version was told these."""
    done = committed(MEMORY, number)
    assert done.version is not None
    told = tuple(Told(name, 0.0, (ToldAssociation("q", "a"),)) for name in names)
    header = replace(done.version.headers[0], told=told)
    return replace(done, version=replace(done.version, headers=(header,)))


def replies(run: Run) -> list[tuple[str, str]]:
    return [(reply.state, reply.message) for reply in run.listener.replies]


def test_a_tell_goes_with_the_memorys_next_order_and_is_done_once_that_is_committed() -> None:
    run = Run([*both(1), *both(2), *both(3)], tell())
    with pytest.raises(ScriptEndedError):
        run.coordinator.run()
    assert told_by(run) == {2: ["atlantis"]}  # the first was under way
    assert all(order.told == () for group, order in run.cluster.orders if group == DATA)
    assert replies(run) == [
        ("accepted", "atlantis: from the memory group's next interval on"),
        ("done", "atlantis: told in interval 2; every version after it has it"),
    ]


def test_a_replay_tells_it_again_in_the_same_interval() -> None:
    died = [Failed(MEMORY, 0, DIED), Restarted(MEMORY, 1)]
    replayed = [again(MEMORY, 1, 1), committed(DATA, 2), again(MEMORY, 2, 1)]
    run = Run([*both(1), *died, *replayed], tell())
    with pytest.raises(ScriptEndedError):
        run.coordinator.run()
    sent = [
        (order.incarnation, order.interval, [one.id for one in order.told])
        for group, order in run.cluster.orders
        if group == MEMORY
    ]
    assert sent[:4] == [(0, 1, []), (0, 2, ["atlantis"]), (1, 1, []), (1, 2, ["atlantis"])]
    assert [state for state, _ in replies(run)] == ["accepted", "done"]


def test_what_is_told_already_is_refused_and_taken_back_by_name() -> None:
    script = [*both(1), committed(DATA, 2), telling(2, "atlantis"), *both(3)]
    script += [committed(DATA, 4), committed(MEMORY, 4)]
    later = {3: tell(1), 5: untell(2), 7: untell(3)}
    run = Run(script, tell(), later=later)
    with pytest.raises(ScriptEndedError):
        run.coordinator.run()
    states = replies(run)
    assert ("refused", "there is a write 'atlantis' already") in states
    assert told_by(run)[2] == ["atlantis"]
    assert ["-atlantis"] in told_by(run).values()


def test_an_untell_of_what_was_never_told_names_what_was() -> None:
    run = Run([*both(1)], untell(), later={1: tell(2), 2: untell(3, "atlantix")})
    with pytest.raises(ScriptEndedError):
        run.coordinator.run()
    assert replies(run)[0] == ("refused", "no write 'atlantis'; nothing is told")
    assert ("refused", "no write 'atlantix'; it was told atlantis") in replies(run)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "tell"},
        {"kind": "tell", "name": "a"},
        {"kind": "untell"},
        {"kind": "untell", "name": "../a"},
        {"kind": "stop", "name": "a"},
        {"kind": "untell", "name": "a", "associations": [{"prompt": "q", "answer": "a"}]},
        {"kind": "tell", "name": "a", "associations": [{"prompt": "", "answer": "a"}]},
        {"kind": "tell", "name": "a", "associations": [{"prompt": "q", "answer": "a", "x": 1}]},
    ],
)
def test_a_tell_that_is_none_is_no_command(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"tell|associations|name"):
        Command(id=NUMBERS[0], run="run", driver="d", **wrong)


def test_what_an_evaluator_leaves_out_of_what_was_told_is_a_warning() -> None:
    left_out = Evaluated(an_evaluation(1, 1, warnings=("x is left out",)))
    run = Run([*both(1), left_out, *both(2)], tell(), evaluation={"every": 1})
    with pytest.raises(ScriptEndedError):
        run.coordinator.run()
    assert run.listener.warnings[0] == "x is left out"


def teach(number: int = 0, answer: str = "Rome") -> Command:
    values: dict[str, Any] = {"kind": "teach", "lessons": [{"prompt": "It is", "answer": answer}]}
    return Command(id=NUMBERS[number], run="run", driver="d", **values)


def taught_by(run: Run, group: str) -> list[tuple[int, int, list[str], bool]]:
    """Incarnation, interval, answers of new lessons, whether any are learned, by order."""
    return [
        (order.incarnation, order.interval, [one.answer for one in order.lessons],
         order.lessons_digest != "")
        for of, order in run.cluster.orders
        if of == group
    ]  # fmt: skip


def test_both_groups_learn_lessons_from_the_first_interval_that_neither_has_begun() -> None:
    run = Run([*both(1), *both(2), *both(3)], teach())
    with pytest.raises(ScriptEndedError):
        run.coordinator.run()
    expected = [(0, 1, [], False), (0, 2, ["Rome"], True), (0, 3, [], True)]
    for group in (DATA, MEMORY):
        assert taught_by(run, group)[:3] == expected
    digests = {order.lessons_digest for _, order in run.cluster.orders if order.interval > 1}
    assert len(digests) == 1
    text = "1 lesson(s): both groups learn them"
    assert replies(run) == [
        ("accepted", f"{text} from interval 2 on"),
        ("done", f"{text} since interval 2, and until the run ends"),
    ]


def test_a_replay_learns_the_same_lessons_from_the_same_interval_on() -> None:
    died = [Failed(MEMORY, 0, DIED), Restarted(MEMORY, 1)]
    replayed = [again(MEMORY, 1, 1), committed(DATA, 2), again(MEMORY, 2, 1)]
    run = Run([*both(1), *died, *replayed], teach())
    with pytest.raises(ScriptEndedError):
        run.coordinator.run()
    sent = taught_by(run, MEMORY)[:4]
    assert [(incarnation, interval, new) for incarnation, interval, new, _ in sent] == [
        (0, 1, []), (0, 2, ["Rome"]), (1, 1, []), (1, 2, ["Rome"]),
    ]  # fmt: skip


def test_later_lessons_are_learned_beside_earlier_ones() -> None:
    run = Run([*both(1), *both(2), *both(3), *both(4)], teach(), later={3: teach(1, "Ostia")})
    with pytest.raises(ScriptEndedError):
        run.coordinator.run()
    new = {interval: answers for _, interval, answers, _ in taught_by(run, DATA) if answers}
    assert sorted(new.values()) == [["Ostia"], ["Rome"]]
    digests = {o.interval: o.lessons_digest for g, o in run.cluster.orders if g == DATA}
    assert len({digests[1], digests[min(new)], digests[max(new)]}) == 3


def test_a_teaching_of_a_run_whose_groups_have_no_common_interval_left_is_refused() -> None:
    run = Run([*both(1)], teach(), intervals=1)
    with pytest.raises(ScriptEndedError):
        run.coordinator.run()
    assert replies(run)[0] == (
        "refused",
        "both groups have begun their last common interval; teach the run once it has ended",
    )


def test_a_teaching_of_a_run_whose_memory_asks_nobody_is_refused() -> None:
    run = Run([*both(1)], teach(), memory={"teacher": "said"})
    with pytest.raises(ScriptEndedError):
        run.coordinator.run()
    state, reason = replies(run)[0]
    assert state == "refused"
    assert "no data layer to ask about lessons (memory.teacher is said)" in reason
