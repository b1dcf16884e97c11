from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from actors.settings.run import DATA, MEMORY
from actors.wire import CheckpointHeader, DivergedError, Range, StorageError
from orchestrator.errors import GroupFailedError, InterruptedRunError
from orchestrator.loop.coordinator import Coordinator, TrainedPair, new_groups
from orchestrator.loop.events import Committed, Evaluated, Event, Failed, Restarted
from orchestrator.loop.exchange import GroupCheckpoint, PairCheckpoint, Tally
from tests.unit.orchestrator.scripted import (
    Pass,
    RecordingListener,
    ScriptedCluster,
    ScriptEndedError,
    a_config,
    both,
    catch_up,
    committed,
    evaluated,
)

NO_RESTARTS = {"max_failures": 0}
DIED = GroupFailedError("data rank 0 failed in interval 2: ActorDiedError")
STARTED = ["submit data 1 on memory 0", "submit memory 1 on data 0"]
WHOLE_RUN = [*both(1), *both(2, agreement=0.5), catch_up(3, 0.6), evaluated(2, 3)]


class Run:
    """A coordinator on a script, and everything it received and did."""

    def __init__(
        self,
        script: Sequence[Event | Pass],
        late: Sequence[Failed] = (),
        stop: Callable[[], str | None] = lambda: None,
        **changes: Any,
    ) -> None:
        self.cluster = ScriptedCluster(script, late=late)
        self.listener = RecordingListener()
        self.coordinator = Coordinator(
            a_config(**changes), self.cluster, self.listener, stop, clock=self.cluster.clock
        )

    def to_its_end(self) -> TrainedPair:
        return self.coordinator.run()

    def to_the_scripts_end(self) -> list[str]:
        with pytest.raises(ScriptEndedError):
            self.coordinator.run()
        return self.cluster.log


def test_both_first_intervals_are_submitted_before_anything_is_awaited() -> None:
    assert Run([]).to_the_scripts_end() == STARTED


@pytest.mark.parametrize("first", [DATA, MEMORY])
def test_a_group_ahead_waits_for_its_peer(first: str) -> None:
    log = Run([committed(first, 1)]).to_the_scripts_end()
    assert log == [*STARTED, f"committed {first} 1"]


@pytest.mark.parametrize("first", [DATA, MEMORY])
def test_interval_2_of_both_follows_the_later_of_both_intervals_1(first: str) -> None:
    second = MEMORY if first == DATA else DATA
    log = Run([committed(first, 1), committed(second, 1)]).to_the_scripts_end()
    assert log[2:] == [
        f"committed {first} 1",
        f"committed {second} 1",
        "submit data 2 on memory 1",
        "submit memory 2 on data 1",
    ]


def test_a_whole_run_submits_commits_catches_up_and_evaluates_in_this_order() -> None:
    run = Run(WHOLE_RUN)
    run.to_its_end()
    assert run.cluster.log == [
        *STARTED,
        "committed data 1",
        "committed memory 1",
        "submit data 2 on memory 1",
        "submit memory 2 on data 1",
        "committed data 2",
        "committed memory 2",
        "submit memory 3 on data 2",
        "committed memory 3",
        "evaluate final 2, 3",
    ]


def test_the_memory_catches_up_as_soon_as_the_final_data_version_is_there() -> None:
    log = Run([*both(1), *reversed(both(2, agreement=0.5))]).to_the_scripts_end()
    assert log[-3:] == ["committed memory 2", "committed data 2", "submit memory 3 on data 2"]


def test_catch_up_goes_on_until_the_memory_agrees() -> None:
    script = [*both(1), *both(2, agreement=0.5), catch_up(3, 0.3), catch_up(4, 0.5)]
    run = Run([*script, evaluated(2, 4)], exchange={"catchup_intervals": 8})
    assert run.to_its_end().catch_up.reflects_final
    assert run.cluster.log[-4:] == [
        "committed memory 3",
        "submit memory 4 on data 2",
        "committed memory 4",
        "evaluate final 2, 4",
    ]


def test_catch_up_gives_up_after_its_last_interval() -> None:
    script = [*both(1), *both(2, agreement=0.5), catch_up(3, 0.3), catch_up(4, 0.3)]
    run = Run([*script, evaluated(2, 4)], exchange={"catchup_intervals": 2})
    outcome = run.to_its_end()
    assert outcome.catch_up.before == 0.5
    assert outcome.catch_up.after == (0.3, 0.3)
    assert not outcome.catch_up.reflects_final


def test_orders_carry_run_steps_and_who_measures() -> None:
    run = Run(WHOLE_RUN, name="mine", data={"steps_per_interval": 7})
    run.to_its_end()
    orders = [(g, o.run, o.interval, o.num_steps, o.measure) for g, o in run.cluster.orders]
    assert orders == [
        (DATA, "mine", 1, 7, False),
        (MEMORY, "mine", 1, 20, False),
        (DATA, "mine", 2, 7, False),
        (MEMORY, "mine", 2, 20, True),
        (MEMORY, "mine", 3, 20, True),
    ]


def test_the_outcome_is_the_newest_committed_pair_and_its_evaluation() -> None:
    outcome = Run(WHOLE_RUN).to_its_end()
    assert (outcome.data.number, outcome.memory.number) == (2, 3)
    assert (outcome.final_evaluation.data_version, outcome.final_evaluation.memory_version) == (
        2,
        3,
    )


def test_the_lag_is_1_in_every_interval_the_catch_up_included() -> None:
    run = Run(WHOLE_RUN)
    run.to_its_end()
    assert [lag for _, _, lag in run.listener.intervals] == [1] * 5
    assert run.coordinator.max_lag == 1


def test_every_version_of_both_groups_is_published_to_the_ring() -> None:
    run = Run(WHOLE_RUN)
    run.to_its_end()
    assert run.coordinator.ring.num_published == 2 + 5
    assert run.coordinator.ring.num_bytes == 7 * 100


def test_the_largest_lag_is_the_one_that_the_reports_show() -> None:
    run = Run([*both(1), committed(DATA, 2, peer_version=0), committed(MEMORY, 2)])
    run.to_the_scripts_end()
    assert [lag for _, _, lag in run.listener.intervals] == [1, 1, 2, 1]
    assert run.coordinator.max_lag == 2


def test_waiting_is_the_time_between_a_groups_commit_and_its_next_submit() -> None:
    script = [
        *(Pass(1.0), committed(DATA, 1), Pass(3.0), committed(MEMORY, 1)),
        *(Pass(5.0), committed(DATA, 2), Pass(7.0), committed(MEMORY, 2), *both(3)),
    ]
    run = Run(script, intervals=3)
    run.to_the_scripts_end()
    waits = [(r[0].group, r[0].interval, wait) for r, wait, _ in run.listener.intervals]
    assert waits == [
        (DATA, 1, 0.0),
        (MEMORY, 1, 0.0),
        (DATA, 2, 3.0),
        (MEMORY, 2, 0.0),
        (DATA, 3, 7.0),
        (MEMORY, 3, 0.0),
    ]


def test_a_failure_raises_its_cause() -> None:
    cause = DivergedError("data rank 0: loss is nan")
    with pytest.raises(DivergedError) as raised:
        Run([Failed(DATA, 0, cause)]).to_its_end()
    assert raised.value is cause


def test_nothing_is_submitted_after_a_failure() -> None:
    script = [committed(DATA, 1), Failed(MEMORY, 0, GroupFailedError("memory rank 0 died"))]
    run = Run(script, recovery=NO_RESTARTS)
    with pytest.raises(GroupFailedError):
        run.to_its_end()
    assert run.cluster.log == [*STARTED, "committed data 1"]


def test_a_late_beat_raises_its_cause() -> None:
    late = Failed(MEMORY, 1, GroupFailedError("memory rank 1: no heartbeat"))
    with pytest.raises(GroupFailedError, match="memory rank 1: no heartbeat"):
        Run([Pass(1.0)], late=[late], recovery=NO_RESTARTS).to_its_end()


def test_an_interval_past_its_deadline_names_group_interval_and_seconds() -> None:
    run = Run([Pass(31.0)], deadlines={"first_interval_s": 30}, recovery=NO_RESTARTS)
    with pytest.raises(GroupFailedError, match=r"data: interval 1 .* 31 s \(deadline 30 s\)"):
        run.to_its_end()


def test_the_deadline_error_names_the_interval_that_hangs_and_not_the_committed_one() -> None:
    script = [committed(DATA, 1), Pass(31.0)]
    with pytest.raises(GroupFailedError, match=r"memory: interval 1 did not end"):
        Run(script, deadlines={"first_interval_s": 30}, recovery=NO_RESTARTS).to_its_end()


def test_an_interval_at_its_deadline_is_still_waited_for() -> None:
    run = Run([Pass(30.0)], deadlines={"first_interval_s": 30})
    assert run.to_the_scripts_end() == STARTED


def test_later_deadlines_are_a_multiple_of_the_median_interval() -> None:
    deadlines = {"first_interval_s": 30, "interval_factor": 3, "interval_floor_s": 1}
    script = [Pass(10.0), *both(1), Pass(20.0), *both(2), Pass(2.0), *both(3), Pass(30.5)]
    run = Run(script, intervals=9, deadlines=deadlines, recovery=NO_RESTARTS)
    with pytest.raises(GroupFailedError, match=r"data: interval 4 .* \(deadline 30 s\)"):
        run.to_its_end()


def test_no_later_deadline_is_below_the_floor() -> None:
    deadlines = {"first_interval_s": 30, "interval_factor": 3, "interval_floor_s": 60}
    run = Run([Pass(1.0), *both(1), Pass(59.0)], deadlines=deadlines)
    assert run.to_the_scripts_end()[-1] == "submit memory 2 on data 1"


ENOUGH = {"first_interval_s": 100, "interval_factor": 2, "interval_floor_s": 5}


NEW_PROCESSES = [
    *(Pass(1.0), *both(1), Pass(1.0), committed(MEMORY, 2), Failed(DATA, 0, DIED)),
    *(Restarted(DATA, 1), Pass(99.0)),
]


def test_new_processes_get_the_first_deadline_for_they_compile_again() -> None:
    run = Run(NEW_PROCESSES, intervals=9, deadlines=ENOUGH)
    run.to_the_scripts_end()
    assert [failure.cause for failure in run.listener.failures] == [str(DIED)]


def test_processes_that_have_done_an_interval_again_have_the_usual_deadline() -> None:
    script = [*NEW_PROCESSES, committed(DATA, 1, incarnation=1), Pass(6.0)]
    run = Run(script, intervals=9, deadlines=ENOUGH)
    run.to_the_scripts_end()
    late = run.listener.failures[-1].cause
    assert late.startswith(
        "data: interval 2 did not end after 6 s (deadline 5 s); raise deadlines."
    )


def test_a_first_deadline_that_is_missed_names_its_own_setting() -> None:
    run = Run([Pass(101.0)], deadlines=ENOUGH, recovery=NO_RESTARTS)
    with pytest.raises(GroupFailedError, match=r"\(deadline 100 s\); raise deadlines.first_inter"):
        run.to_its_end()


def test_the_first_deadline_of_new_processes_is_no_shorter_than_that_of_old_ones() -> None:
    script = [Pass(80.0), *both(1), Failed(DATA, 0, DIED), Restarted(DATA, 1), Pass(150.0)]
    run = Run(script, intervals=9, deadlines=ENOUGH)
    run.to_the_scripts_end()
    assert [failure.cause for failure in run.listener.failures] == [str(DIED)]


def test_a_group_that_waits_for_its_peer_has_no_deadline() -> None:
    deadlines = {"first_interval_s": 100, "interval_factor": 2, "interval_floor_s": 1}
    run = Run([Pass(1.0), committed(DATA, 1), Pass(90.0)], deadlines=deadlines)
    assert run.to_the_scripts_end() == [*STARTED, "committed data 1"]


def test_the_state_of_each_group_can_be_read_while_the_run_goes_on() -> None:
    cluster, seen, groups = ScriptedCluster([]), [], new_groups()

    def look() -> None:
        seen.append((groups[DATA].phase.label, groups[MEMORY].phase.label))

    run = Coordinator(
        a_config(), cluster, RecordingListener(), look, clock=cluster.clock, groups=groups
    )
    cluster.script = [
        *(committed(DATA, 1), Failed(MEMORY, 0, DIED), Restarted(MEMORY, 1)),
        *(committed(MEMORY, 1, incarnation=1), *both(2, agreement=0.5)),
    ]
    with pytest.raises(ScriptEndedError):
        run.run()
    assert seen == [
        ("training", "training"),
        ("idle", "training"),
        ("idle", "restarting"),
        ("idle", "training"),
        ("training", "training"),
        ("finished", "training"),
        ("finished", "training"),
    ]


def test_a_stop_request_raises_its_reason() -> None:
    with pytest.raises(InterruptedRunError, match="stopped by SIGINT"):
        Run([Pass(1.0)], stop=lambda: "stopped by SIGINT", recovery={"drain_s": 0}).to_its_end()


def test_a_stop_request_is_noticed_while_the_final_evaluation_runs() -> None:
    run = Run([*WHOLE_RUN[:-1], Pass(1.0)])
    run.coordinator = Coordinator(
        a_config(),
        run.cluster,
        run.listener,
        lambda: "stopped by SIGTERM" if "evaluate final 2, 3" in run.cluster.log else None,
        clock=run.cluster.clock,
    )
    with pytest.raises(InterruptedRunError, match="stopped by SIGTERM"):
        run.to_its_end()


def test_an_evaluation_that_is_due_starts_on_equal_versions_once_both_are_committed() -> None:
    log = Run([*both(1), *both(2)], intervals=4, evaluation={"every": 2}).to_the_scripts_end()
    assert log[-4:] == [
        "committed memory 2",
        "evaluate 2, 2",
        "submit data 3 on memory 2",
        "submit memory 3 on data 2",
    ]


def test_evaluations_that_are_not_due_do_not_start() -> None:
    script = [event for i in (1, 2, 3) for event in both(i)]
    log = Run(script, intervals=4, evaluation={"every": 2}).to_the_scripts_end()
    assert [line for line in log if line.startswith("evaluate")] == [
        "evaluate 0, 0",
        "evaluate 2, 2",
    ]


def test_version_0_is_evaluated_beside_training_once_both_have_begun() -> None:
    log = Run([*both(1), *both(2)], intervals=4, evaluation={"every": 4}).to_the_scripts_end()
    assert log[2:7] == [
        "committed data 1",
        "committed memory 1",
        "evaluate 0, 0",
        "submit data 2 on memory 1",
        "submit memory 2 on data 1",
    ]
    assert log.count("evaluate 0, 0") == 1


def test_a_run_that_evaluates_at_the_end_alone_does_not_evaluate_version_0() -> None:
    run = Run(WHOLE_RUN)
    run.to_its_end()
    assert "evaluate 0, 0" not in run.cluster.log


def test_a_resumed_run_does_not_evaluate_version_0_again() -> None:
    log = resumed(3, [*both(4)], intervals=5, evaluation={"every": 1}).to_the_scripts_end()
    assert [line for line in log if line.startswith("evaluate")] == ["evaluate 4, 4"]


def test_an_evaluation_due_at_the_last_interval_is_left_to_the_final_one() -> None:
    run = Run([*WHOLE_RUN[:-1], evaluated(0, 0), WHOLE_RUN[-1]], evaluation={"every": 2})
    run.to_its_end()
    asked = [line for line in run.cluster.log if "evaluate" in line]
    assert asked == ["evaluate 0, 0", "evaluate final 2, 3"]


def test_an_evaluation_is_skipped_with_a_warning_while_two_are_running() -> None:
    script = [event for i in (1, 2, 3) for event in both(i)]
    run = Run(script, intervals=5, evaluation={"every": 1})
    log = run.to_the_scripts_end()
    asked = [x for x in log if x.startswith("evaluate")]
    assert asked == ["evaluate 0, 0", "evaluate 1, 1", "evaluate 2, 2"]  # version 0 takes no place
    assert len(run.listener.warnings) == 1
    assert "evaluation of interval 3 skipped" in run.listener.warnings[0]


def test_evaluations_start_again_when_one_came_back() -> None:
    script = [*both(1), *both(2), evaluated(0, 0), evaluated(1, 1), *both(3)]
    log = Run(script, intervals=5, evaluation={"every": 1}).to_the_scripts_end()
    assert "evaluate 3, 3" in log


def test_an_evaluation_during_the_run_is_reported_as_not_final() -> None:
    run = Run([*both(1), evaluated(0, 0), evaluated(1, 1)], evaluation={"every": 1})
    run.to_the_scripts_end()
    reported = [(e.data_version, final) for e, final in run.listener.evaluations]
    assert reported == [(0, False), (1, False)]


def test_an_evaluation_that_fails_during_the_run_is_a_warning() -> None:
    script = [*both(1), Evaluated(None, RuntimeError("out of memory"))]
    run = Run(script, evaluation={"every": 1})
    run.to_the_scripts_end()
    assert len(run.listener.warnings) == 1
    assert "out of memory" in run.listener.warnings[0]


def test_the_final_evaluation_is_told_apart_from_an_earlier_one_that_comes_late() -> None:
    script = [*WHOLE_RUN[:-1], evaluated(0, 0), evaluated(1, 1), evaluated(2, 3)]
    run = Run(script, evaluation={"every": 1})
    outcome = run.to_its_end()
    reported = [(e.data_version, e.memory_version, final) for e, final in run.listener.evaluations]
    assert reported == [(0, 0, False), (1, 1, False), (2, 3, True)]
    assert outcome.final_evaluation.memory_version == 3


def test_a_final_evaluation_that_fails_ends_the_run_with_its_cause() -> None:
    script = [*WHOLE_RUN[:-1], Evaluated(None, RuntimeError("out of memory"))]
    with pytest.raises(GroupFailedError, match=r"final evaluation failed: out of memory"):
        Run(script).to_its_end()


def test_what_fails_in_one_process_is_resumed_in_one() -> None:
    run = Run([*WHOLE_RUN[:-1], Evaluated(None, RuntimeError("out of memory"))])
    run.cluster.in_process = True
    with pytest.raises(GroupFailedError, match=r"go on with: tandem resume \S+ --in-process$"):
        run.to_its_end()


def test_a_final_evaluation_whose_storage_is_away_ends_the_run_as_that() -> None:
    script = [*WHOLE_RUN[:-1], Evaluated(None, StorageError("corpus file s3://b/a: gone"))]
    with pytest.raises(StorageError, match=r"final evaluation failed: corpus file s3://b/a"):
        Run(script).to_its_end()


def test_an_earlier_evaluation_that_fails_late_is_not_taken_for_the_final_one() -> None:
    failed = Evaluated(None, RuntimeError("out of memory"))
    script = [*WHOLE_RUN[:-1], evaluated(0, 0), failed, evaluated(2, 3)]
    run = Run(script, evaluation={"every": 1})
    assert run.to_its_end().final_evaluation.memory_version == 3
    assert len(run.listener.warnings) == 1


def test_a_final_evaluation_past_its_deadline_names_the_knob() -> None:
    run = Run([*WHOLE_RUN[:-1], Pass(61.0)], deadlines={"evaluation_s": 60})
    with pytest.raises(GroupFailedError, match=r"after 60 s; raise deadlines.evaluation_s"):
        run.to_its_end()


def test_a_rank_that_dies_during_the_final_evaluation_does_not_end_the_run() -> None:
    died = Failed(DATA, 0, GroupFailedError("data rank 0 died"))
    outcome = Run([*WHOLE_RUN[:-1], died, evaluated(2, 3)]).to_its_end()
    assert outcome.final_evaluation.memory_version == 3


def test_an_interval_that_is_not_the_groups_next_is_refused() -> None:
    with pytest.raises(AssertionError, match="data: interval 2 came back, expected 1"):
        Run([committed(DATA, 2)]).to_its_end()


def a_checkpoint(group: str, interval: int) -> GroupCheckpoint:
    header = CheckpointHeader(
        "run", group, 0, 1, interval, 20 * interval, interval - 1, (), "{}", (), (), ()
    )
    return GroupCheckpoint(group, interval, (header,), (f"{group}-state-{interval}",))


def saved(group: str, interval: int, **changes: Any) -> Committed:
    """The group's interval came back with a checkpoint."""
    event = committed(group, interval, **changes)
    return replace(event, checkpoint=a_checkpoint(group, interval))


def test_a_pair_is_reported_once_both_groups_checkpoints_of_an_interval_are_in() -> None:
    script = [saved(DATA, 1), committed(MEMORY, 1), saved(MEMORY, 2), saved(DATA, 2)]
    run = Run(script, intervals=4)
    run.to_the_scripts_end()
    (pair,) = run.listener.checkpoints
    assert pair.interval == 2
    assert pair.groups[DATA].bucket_refs == ("data-state-2",)


def test_checkpoints_are_ordered_at_their_intervals() -> None:
    run = Run(
        [*both(1), *both(2), *both(3)],
        intervals=5,
        checkpoints={"every": 2},
    )
    run.to_the_scripts_end()
    asked = [(group, o.interval) for group, o in run.cluster.orders if o.checkpoint]
    assert asked == [(DATA, 2), (MEMORY, 2), (DATA, 4), (MEMORY, 4)]


def resumed(interval: int, script: Sequence[Event | Pass], **changes: Any) -> Run:
    run = Run(script, **changes)
    groups = {group: a_checkpoint(group, interval) for group in (DATA, MEMORY)}
    tally = Tally(agreement_before=0.5, max_lag=1, num_published=8, num_bytes=800)
    run.cluster.first = interval
    run.coordinator = Coordinator(
        a_config(**changes),
        run.cluster,
        run.listener,
        lambda: None,
        PairCheckpoint(interval, groups, tally),
        clock=run.cluster.clock,
    )
    return run


def test_a_resumed_run_goes_on_with_the_next_interval_on_the_restored_versions() -> None:
    run = resumed(3, [], intervals=5)
    assert run.to_the_scripts_end() == ["submit data 4 on memory 3", "submit memory 4 on data 3"]
    assert (run.coordinator.ring.num_published, run.coordinator.ring.num_bytes) == (8, 800)


def test_a_run_resumed_after_its_last_interval_only_catches_up() -> None:
    run = resumed(2, [catch_up(3, 0.6), evaluated(2, 3)])
    outcome = run.to_its_end()
    assert outcome.catch_up.reflects_final
    assert run.cluster.log[0] == "submit memory 3 on data 2"


def test_async_the_newest_version_is_adopted_and_its_ranges_go_along() -> None:
    ranges = {n: (Range(0, 10 * n, 10 * n + 5),) for n in (1, 2, 3)}
    script = []
    for number in (1, 2, 3):
        event = committed(DATA, number, peer_version=0)
        assert event.version is not None
        header = replace(event.version.headers[0], ranges=ranges[number])
        script.append(replace(event, version=replace(event.version, headers=(header,))))
    script.append(committed(MEMORY, 1, peer_version=0))
    run = Run(script, intervals=9, exchange={"mode": "async", "staleness": 3})
    log = run.to_the_scripts_end()
    assert log[-2:] == ["submit data 4 on memory 1", "submit memory 2 on data 3"]
    order = run.cluster.orders[-1][1]
    assert order.ranges == (*ranges[1], *ranges[2], *ranges[3])
    assert run.coordinator.max_lag == 3


def test_an_interval_that_publishes_nothing_leaves_the_ring_as_it_is() -> None:
    quiet = [replace(event, version=None) for event in both(1)]
    run = Run([*quiet, *both(2)], intervals=4, exchange={"publish_every": 2})
    log = run.to_the_scripts_end()
    assert "submit data 2 on memory 0" in log
    assert "submit data 3 on memory 2" in log
    assert run.coordinator.ring.num_published == 4


def test_traced_intervals_are_sent_where_to_write() -> None:
    run = Run([*both(1), *both(2)], intervals=4, profile="2-3", checkpoints={"every": 0})
    run.to_the_scripts_end()
    traced = {o.interval: o.profile for _, o in run.cluster.orders}
    assert traced[1] is None
    assert str(traced[2]).endswith("/profiles")
