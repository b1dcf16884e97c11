from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from actors.settings.run import DATA, MEMORY
from actors.wire import (
    CheckpointError,
    CheckpointHeader,
    ConfigError,
    DivergedError,
    Order,
    SnapshotError,
)
from orchestrator.errors import GroupFailedError, InterruptedRunError, LostObjectError
from orchestrator.loop.coordinator import Coordinator
from orchestrator.loop.events import Committed, Event, Failed, Restarted
from orchestrator.loop.exchange import GroupCheckpoint
from orchestrator.loop.recovery import Journal, refuse_restart, sums_of
from tests.unit.orchestrator.scripted import (
    Pass,
    RecordingListener,
    ScriptedCluster,
    ScriptEndedError,
    a_config,
    a_version,
    both,
    catch_up,
    committed,
    evaluated,
)

DIED = GroupFailedError("data rank 0 failed in interval 3: ActorDiedError")
BOTH_START = ["submit data 1 on memory 0", "submit memory 1 on data 0"]


class Run:
    """A coordinator of five intervals with a checkpoint after every second one, on a script."""

    def __init__(self, script: Sequence[Event | Pass], **changes: Any) -> None:
        self.cluster, self.listener = ScriptedCluster(script), RecordingListener()
        self.stop: str | None = None
        settings = {"intervals": 5, "checkpoints": {"every": 2}} | changes
        self.coordinator = Coordinator(
            a_config(**settings),
            self.cluster,
            self.listener,
            lambda: self.stop,
            clock=self.cluster.clock,
        )

    def log_after(self, num_lines: int) -> list[str]:
        with pytest.raises(ScriptEndedError):
            self.coordinator.run()
        return self.cluster.log[num_lines:]


def saved(event: Committed) -> Committed:
    """The event with a checkpoint."""
    header = CheckpointHeader(
        run="run",
        group=event.group,
        rank=0,
        num_ranks=1,
        interval=event.interval,
        step=0,
        peer_version=event.interval - 1,
        layout=(),
        scalars="{}",
        offsets=(),
        sizes=(),
        checksums=(),
    )
    checkpoint = GroupCheckpoint(event.group, event.interval, (header,), ())
    return replace(event, checkpoint=checkpoint)


def again(group: str, interval: int, incarnation: int) -> Committed:
    return committed(group, interval, incarnation=incarnation)


UNTIL_3 = [*both(1), *map(saved, both(2)), *both(3)]


def test_a_group_that_died_early_is_restarted_from_the_beginning() -> None:
    script = [Failed(DATA, 0, DIED), Restarted(DATA, 1), again(DATA, 1, 1)]
    assert Run(script).log_after(2) == [
        "restart data as 1 from the beginning",
        "restarted data",
        "submit data 1 on memory 0",
        "committed data 1",
    ]


def test_since_the_checkpoint_everything_is_done_again_on_the_same_versions() -> None:
    run = Run([*UNTIL_3, Failed(MEMORY, 0, DIED), Restarted(MEMORY, 1), again(MEMORY, 3, 1)])
    log = run.log_after(0)
    assert log[log.index("restart memory as 1 from interval 2") :] == [
        "restart memory as 1 from interval 2",
        "restarted memory",
        "submit memory 3 on data 2",
        "committed memory 3",
        "submit memory 4 on data 3",
    ]


def test_what_was_committed_is_reported_and_published_once() -> None:
    script = [*UNTIL_3, Failed(DATA, 0, DIED), Restarted(DATA, 1), again(DATA, 3, 1)]
    run = Run([*script, again(DATA, 4, 1)])
    run.log_after(0)
    reported = [reports[0].interval for reports, _, _ in run.listener.intervals]
    assert reported == [1, 1, 2, 2, 3, 3, 4]
    assert run.coordinator.ring.num_published == 2 + 7


def test_the_peer_goes_on_until_the_interval_whose_input_is_missing() -> None:
    script = [*both(1), committed(MEMORY, 2), Failed(DATA, 0, DIED), Pass(5.0)]
    log = Run(script).log_after(0)
    assert log[-1] == "restart data as 1 from the beginning"
    assert "submit memory 2 on data 1" in log
    assert "submit memory 3 on data 2" not in log


def test_in_async_the_peer_trains_on_up_to_the_staleness_bound() -> None:
    script = [*both(1), Failed(DATA, 0, DIED), committed(MEMORY, 2), committed(MEMORY, 3)]
    run = Run(script, intervals=9, exchange={"mode": "async", "staleness": 2})
    log = run.log_after(0)
    assert "submit memory 3 on data 1" in log
    assert log[-1] == "committed memory 3"  # a fourth would be three versions ahead


def test_orders_carry_the_incarnation_of_those_who_get_them() -> None:
    run = Run([*both(1), Failed(DATA, 0, DIED), Restarted(DATA, 1), again(DATA, 1, 1)])
    run.log_after(0)
    assert [(g, o.interval, o.incarnation) for g, o in run.cluster.orders] == [
        (DATA, 1, 0),
        (MEMORY, 1, 0),
        (DATA, 2, 0),
        (MEMORY, 2, 0),
        (DATA, 1, 1),
        (DATA, 2, 1),
    ]


def test_the_answer_of_an_older_incarnation_is_dropped() -> None:
    script = [Failed(DATA, 0, DIED), committed(DATA, 1), Restarted(DATA, 1), again(DATA, 1, 1)]
    run = Run(script)
    run.log_after(0)
    assert [reports[0].incarnation for reports, _, _ in run.listener.intervals] == [1]


def test_a_group_that_dies_in_its_recovery_is_restarted_again() -> None:
    script = [Failed(DATA, 0, DIED), Failed(DATA, 0, DIED), Restarted(DATA, 2), again(DATA, 1, 2)]
    assert Run(script).log_after(2) == [
        "restart data as 1 from the beginning",
        "restart data as 2 from the beginning",
        "restarted data",
        "submit data 1 on memory 0",
        "committed data 1",
    ]


def test_both_groups_may_be_down_at_once() -> None:
    down = [Failed(DATA, 0, DIED), Failed(MEMORY, 0, DIED)]
    up = [Restarted(MEMORY, 1), Restarted(DATA, 1), again(DATA, 1, 1), again(MEMORY, 1, 1)]
    log = Run([*down, *up]).log_after(0)
    assert log[-2:] == ["submit data 2 on memory 1", "submit memory 2 on data 1"]


def test_the_budget_ends_the_run_with_the_first_cause_and_the_way_on() -> None:
    first = GroupFailedError("data rank 1 failed in interval 1: ActorDiedError: the first")
    script = [Failed(DATA, 1, first), Restarted(DATA, 1), Failed(DATA, 0, DIED)]
    run = Run(script, recovery={"max_failures": 1}, name="mine", storage="/runs")
    with pytest.raises(GroupFailedError) as raised:
        run.coordinator.run()
    message = str(raised.value)
    assert message.startswith(str(DIED))
    assert "failure 2 of the data group, and recovery.max_failures is 1" in message
    assert "the first one, in interval 1: data rank 1 failed in interval 1" in message
    assert message.endswith("go on with: tandem resume /runs/mine")


def test_each_group_has_its_own_budget() -> None:
    script = [Failed(DATA, 0, DIED), Failed(MEMORY, 0, DIED)]
    log = Run(script, recovery={"max_failures": 1}).log_after(2)
    assert [line[:10] for line in log] == ["restart da", "restart me"]


@pytest.mark.parametrize("cause", [DivergedError("nan"), ConfigError("x"), CheckpointError("y")])
def test_what_would_only_happen_again_ends_the_run_at_once(cause: Exception) -> None:
    with pytest.raises(type(cause)) as raised:
        Run([Failed(DATA, 0, cause)]).coordinator.run()
    assert raised.value is cause


def test_without_checkpoints_nothing_is_restarted() -> None:
    with pytest.raises(GroupFailedError):
        Run([Failed(DATA, 0, DIED)], checkpoints={"every": 0}).coordinator.run()


def test_any_number_of_restarts() -> None:
    refuse_restart(DIED, [None] * 1000, -1, "")  # type: ignore[list-item]


def test_a_replay_that_ends_in_other_bytes_is_an_error_on_cpus() -> None:
    other = again(DATA, 3, 1)
    header = replace(other.version.headers[0], checksums=(1, 3))  # type: ignore[union-attr]
    other = replace(other, version=replace(other.version, headers=(header,)))  # type: ignore[type-var]
    run = Run([*UNTIL_3, Failed(DATA, 0, DIED), Restarted(DATA, 1), other])
    with pytest.raises(GroupFailedError, match=r"data: interval 3, done again, did not end with"):
        run.coordinator.run()


def test_bytes_that_were_bad_are_fetched_again_once_and_then_fail() -> None:
    bad = SnapshotError("snapshot data v1: bucket 0 checksum 1 != 2")
    fresh = replace(a_version(DATA, 1), bucket_refs=("fresh",))
    script = [*both(1), Failed(MEMORY, 0, bad), Restarted(MEMORY, 1, fresh), again(MEMORY, 1, 1)]
    run = Run(script)
    log = run.log_after(0)
    assert "restart memory as 1 from the beginning, fetching data 1 again" in log
    assert log[-1] == "submit memory 2 on data 1"
    assert run.coordinator.ring.get(DATA, 1) is fresh
    with pytest.raises(SnapshotError) as raised:
        Run([*script, Failed(MEMORY, 0, bad)]).coordinator.run()
    assert raised.value is bad


def test_a_data_group_that_dies_after_its_last_interval_is_not_missed() -> None:
    script = [*both(1), *both(2), Failed(DATA, 0, DIED), catch_up(3, 0.6), evaluated(2, 3)]
    script[3] = committed(MEMORY, 2, agreement=0.5)
    run = Run(script, intervals=2, checkpoints={"every": 1})
    assert run.coordinator.run().data.number == 2
    assert not run.listener.failures


def test_the_times_of_a_recovery_are_reported() -> None:
    script = [*UNTIL_3, Failed(DATA, 0, DIED), Pass(4.0), Restarted(DATA, 1), Pass(3.0)]
    run = Run([*script, again(DATA, 3, 1)])
    run.log_after(0)
    assert run.listener.recoveries == [(DATA, 4.0, 3.0)]
    (failure,) = run.listener.failures
    assert (failure.group, failure.interval, failure.replayed) == (DATA, 4, 2)


def test_a_stop_waits_for_a_checkpoint_of_the_next_interval_of_both() -> None:
    run = Run([*both(1), *map(saved, both(2))], checkpoints={"every": 4})
    run.stop = "stopped by SIGTERM"
    with pytest.raises(InterruptedRunError, match="stopped by SIGTERM"):
        run.coordinator.run()
    assert run.listener.drains == [2]
    assert [o.checkpoint for _, o in run.cluster.orders] == [False, False, True, True]
    assert [pair.interval for pair in run.listener.checkpoints] == [2]
    assert "submit data 3 on memory 2" not in run.cluster.log


def test_a_stop_does_not_wait_longer_than_it_may() -> None:
    run = Run([Pass(31.0)])
    run.stop = "stopped by SIGTERM"
    with pytest.raises(InterruptedRunError, match=r"no new checkpoint came within .* \(30 s\)"):
        run.coordinator.run()


def test_a_group_that_dies_while_the_run_stops_is_brought_back_for_the_checkpoint() -> None:
    script = [committed(DATA, 1), Failed(MEMORY, 0, DIED), Restarted(MEMORY, 1)]
    second = saved(committed(DATA, 2)), saved(again(MEMORY, 2, 1))
    run = Run([*script, again(MEMORY, 1, 1), *second], checkpoints={"every": 4})
    run.stop = "stopped by SIGTERM"
    with pytest.raises(InterruptedRunError):
        run.coordinator.run()
    assert [pair.interval for pair in run.listener.checkpoints] == [2]


def test_a_journal_begins_anew_with_a_checkpoint() -> None:
    journal = Journal()
    for interval in (1, 2, 3):
        journal.submit(Order("run", 0, interval, 1), interval - 1)
        checkpoint = saved(committed(DATA, interval)).checkpoint if interval == 2 else None
        journal.commit(a_version(DATA, interval), checkpoint)
    journal.submit(Order("run", 0, 4, 1), 3)
    assert journal.checkpoint is not None
    assert [entry.order.interval for entry in journal.to_replay()] == [3, 4]
    assert journal.adopted == {2, 3}
    assert [entry.sums for entry in journal.to_replay()] == [sums_of(a_version(DATA, 3)), ()]


def test_snapshots_that_went_with_their_node_are_waited_for_and_published_again() -> None:
    missing = LostObjectError("memory rank 0 failed in interval 4: ObjectLostError")
    script = [
        *UNTIL_3,
        Failed(DATA, 0, DIED),
        Failed(MEMORY, 0, missing, missing_input=True),
        Restarted(DATA, 1, lost_node=True, published=a_version(DATA, 2)),
        Restarted(MEMORY, 1),
        again(MEMORY, 3, 1),
    ]
    log = Run(script).log_after(0)
    assert log[-3:] == ["restarted memory", "submit memory 3 on data 2", "committed memory 3"]
    log = Run([*script, again(DATA, 3, 1)]).log_after(0)
    assert log[-3:] == [
        "committed data 3",
        "submit memory 4 on data 3",
        "submit data 4 on memory 3",
    ]


def test_a_lost_snapshot_that_no_replay_brings_back_ends_the_run_with_the_way_on() -> None:
    script = [*both(1), saved(committed(DATA, 2)), Failed(DATA, 0, DIED), Failed(MEMORY, 0, DIED)]
    lost = Restarted(DATA, 1, lost_node=True, published=a_version(DATA, 2))
    run = Run([*script, lost, Restarted(MEMORY, 1)])
    with pytest.raises(GroupFailedError, match=r"version 0 was lost with its node.*tandem resume"):
        run.coordinator.run()


def test_a_replay_that_says_something_else_is_no_copy_of_the_first() -> None:
    version = a_version(DATA, 3)
    headers = [replace(version.headers[0], said_checksums=sums) for sums in ((), (5,), (6,))]
    found = {sums_of(replace(version, headers=(header,))) for header in headers}
    assert len(found) == 3
