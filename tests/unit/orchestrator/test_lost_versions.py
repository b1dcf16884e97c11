"""Versions that went with their node: published again whatever their group is doing, and no wait
for one is without an end.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from actors.settings.run import DATA, MEMORY
from orchestrator.errors import GroupFailedError, LostObjectError
from orchestrator.loop.coordinator import TrainedPair
from orchestrator.loop.deadlines import restart_limit_s
from orchestrator.loop.events import Committed, Evaluated, Event, Failed, Restarted
from orchestrator.settings.config import DeadlineSpec
from tests.unit.orchestrator.loop.test_recovery import DIED, UNTIL_3, Run, again, saved
from tests.unit.orchestrator.scripted import (
    Pass,
    a_version,
    both,
    catch_up,
    committed,
    evaluated,
)

LOST = LostObjectError("memory rank 0 failed in interval 3: ObjectLostError")
MISSING = Failed(MEMORY, 0, LOST, missing_input=True)
UNTIL_THE_CATCH_UP = [
    *map(saved, both(1)),
    saved(committed(DATA, 2)),
    saved(committed(MEMORY, 2, agreement=0.5)),
    Failed(DATA, 0, DIED),
]
SHORT = {"intervals": 2, "exchange": {"catchup_intervals": 1}}


def caught_up(incarnation: int, interval: int = 3) -> Committed:
    event = catch_up(interval, 0.6)
    return replace(event, reports=(replace(event.reports[0], incarnation=incarnation),))


def to_its_end(run: Run) -> tuple[TrainedPair, list[str]]:
    return run.coordinator.run(), run.cluster.log


def test_the_last_data_version_is_published_again_by_a_group_that_was_done() -> None:
    script = [
        *UNTIL_THE_CATCH_UP,
        MISSING,
        Restarted(MEMORY, 1),
        Restarted(DATA, 1, lost_node=True, published=a_version(DATA, 2)),
        caught_up(1),
        evaluated(2, 3),
    ]
    run = Run(script, checkpoints={"every": 1}, **SHORT)
    outcome, log = to_its_end(run)
    assert outcome.catch_up.after == (0.6,)
    assert log[log.index("submit memory 3 on data 2") :] == [
        "submit memory 3 on data 2",
        "restart memory as 1 from interval 2",
        "restarted memory",
        "restart data as 1 from interval 2, publishing again",
        "restarted data",
        "submit memory 3 on data 2",
        "committed memory 3",
        "evaluate final 2, 3",
    ]
    assert "data: version 2, which interval 3 of the memory group needs" in str(
        run.listener.failures[-1].cause
    )


def test_what_came_after_the_checkpoint_is_published_again_by_a_replay() -> None:
    script = [*both(1), committed(DATA, 2), committed(MEMORY, 2, agreement=0.5)]
    script += [MISSING, Restarted(MEMORY, 1), again(MEMORY, 1, 1), again(MEMORY, 2, 1)]
    script += [Restarted(DATA, 1, published=a_version(DATA, 0)), again(DATA, 1, 1)]
    run = Run([*script, again(DATA, 2, 1), caught_up(1), evaluated(2, 3)], **SHORT)
    outcome, log = to_its_end(run)
    assert outcome.catch_up.after == (0.6,)
    ready = log.index("restarted data")
    assert log[ready - 1] == "restart data as 1 from the beginning, publishing again"
    assert log[ready + 1 : ready + 6] == [
        "submit data 1 on memory 0",
        "committed data 1",
        "submit data 2 on memory 1",
        "committed data 2",
        "submit memory 3 on data 2",
    ]


def test_a_group_that_is_well_goes_back_for_a_version_that_it_alone_can_publish() -> None:
    """It was restarted by someone who did not know that its node was lost."""
    script = [
        *UNTIL_3,
        Failed(DATA, 0, DIED),
        Failed(DATA, 0, GroupFailedError("data rank 0: has no process yet after 300 s")),
        Restarted(DATA, 2),
        again(DATA, 3, 2),
        Failed(MEMORY, 0, LOST, missing_input=True),
        Restarted(MEMORY, 1),
        Failed(MEMORY, 0, LOST, missing_input=True),
        Restarted(MEMORY, 2),
        Restarted(DATA, 3, published=a_version(DATA, 2)),
        again(DATA, 3, 3),
        again(MEMORY, 3, 2),
    ]
    log = Run(script).log_after(0)
    assert log[log.index("restart data as 3 from interval 2, publishing again") :] == [
        "restart data as 3 from interval 2, publishing again",
        "restarted data",
        "submit memory 3 on data 2",
        "submit data 3 on memory 2",
        "committed data 3",
        "submit data 4 on memory 3",
        "committed memory 3",
        "submit memory 4 on data 3",
    ]


def test_a_restart_that_fails_on_the_way_publishes_again_all_the_same() -> None:
    script = [*UNTIL_THE_CATCH_UP, MISSING, Restarted(MEMORY, 1), Failed(DATA, 0, DIED)]
    log = Run(script, checkpoints={"every": 1}, **SHORT).log_after(0)
    assert log[-2:] == [
        "restart data as 1 from interval 2, publishing again",
        "restart data as 2 from interval 2, publishing again",
    ]


def test_a_group_that_is_done_and_died_is_left_alone_as_long_as_its_versions_are_there() -> None:
    script = [*UNTIL_THE_CATCH_UP, Failed(DATA, 0, DIED), catch_up(3, 0.6), evaluated(2, 3)]
    run = Run(script, checkpoints={"every": 1}, **SHORT)
    to_its_end(run)
    assert not run.listener.failures


def final_script(*lost: str) -> list[Event | Pass]:
    """A run up to its final evaluation, which finds snapshots lost, and the tick after it."""
    return [*UNTIL_THE_CATCH_UP, caught_up(0), Evaluated(None, LOST, lost=lost), Pass(0.2)]


def test_the_final_evaluation_waits_for_what_was_lost_of_the_pair() -> None:
    script = [
        *final_script(DATA, MEMORY),
        Restarted(MEMORY, 1, lost_node=True, published=a_version(MEMORY, 2)),
        Restarted(DATA, 1, lost_node=True, published=a_version(DATA, 2)),
        caught_up(1),
        evaluated(2, 3),
    ]
    run = Run(script, checkpoints={"every": 1}, **SHORT)
    outcome, log = to_its_end(run)
    assert outcome.memory.number == 3
    assert log[log.index("evaluate final 2, 3") :] == [
        "evaluate final 2, 3",
        "restart data as 1 from interval 2, publishing again",
        "restart memory as 1 from interval 2, publishing again",
        "restarted memory",
        "restarted data",
        "submit memory 3 on data 2",
        "committed memory 3",
        "evaluate final 2, 3",
    ]
    assert len(run.listener.intervals) == 5  # what is done again is reported once


def test_a_final_pair_that_is_lost_again_and_again_ends_the_run_with_the_way_on() -> None:
    script = final_script(DATA)
    for incarnation in (1, 2):
        script.append(Restarted(DATA, incarnation, published=a_version(DATA, 2)))
        script += [Evaluated(None, LOST, lost=(DATA,)), Pass(0.2)]
    run = Run(script, checkpoints={"every": 1}, **SHORT)
    with pytest.raises(GroupFailedError, match=r"final evaluation failed: .*; go on with: tandem"):
        run.coordinator.run()


def test_a_wait_for_a_lost_snapshot_has_a_deadline() -> None:
    script = [*UNTIL_3, Failed(DATA, 0, DIED), MISSING, Restarted(MEMORY, 1), again(MEMORY, 3, 1)]
    run = Run([*script, Pass(60.0)], deadlines={"snapshot_s": 60})
    run.log_after(0)
    script += [Pass(60.0), Pass(2.0)]
    run = Run(script, deadlines={"snapshot_s": 60}, storage="/runs", name="mine")
    with pytest.raises(GroupFailedError) as raised:
        run.coordinator.run()
    message = str(raised.value)
    assert message.startswith("data: version 3, which interval 4 of the memory group needs, is on")
    assert "came no nearer for 62 s (deadlines.snapshot_s 60)" in message
    assert message.endswith("go on with: tandem resume /runs/mine")


def test_an_interval_done_again_begins_the_wait_anew() -> None:
    script = [
        *both(1),
        *both(2),
        *both(3),
        Failed(DATA, 0, DIED),
        MISSING,
        Restarted(MEMORY, 1),
        *(again(MEMORY, number, 1) for number in (1, 2, 3)),
        Restarted(DATA, 1),
        Pass(50.0),
        again(DATA, 1, 1),
        Pass(50.0),
        again(DATA, 2, 1),
        Pass(50.0),
        again(DATA, 3, 1),
    ]
    log = Run(script, checkpoints={"every": 4}, deadlines={"snapshot_s": 60}).log_after(0)
    assert log[-2:] == ["submit memory 4 on data 3", "submit data 4 on memory 3"]


def test_new_processes_that_never_come_end_the_run_with_the_first_cause() -> None:
    limit_s = restart_limit_s(DeadlineSpec())
    run = Run([Failed(DATA, 0, DIED), Pass(limit_s), Pass(1.0)])
    with pytest.raises(GroupFailedError) as raised:
        run.coordinator.run()
    assert "data: its new processes were not ready after" in str(raised.value)
    assert f"because of this: {DIED}" in str(raised.value)
    assert "tandem resume" in str(raised.value)


def test_a_run_that_may_not_restart_ends_with_the_cause() -> None:
    run = Run([*UNTIL_THE_CATCH_UP, MISSING], checkpoints={"every": 0}, **SHORT)
    run.cluster.script = [replace(e, checkpoint=None) if isinstance(e, Committed) else e
                          for e in run.cluster.script]  # fmt: skip
    with pytest.raises(LostObjectError):
        run.coordinator.run()


def test_two_ranks_that_are_found_dead_at_once_restart_their_group_once() -> None:
    run = Run([Pass(1.0)])
    run.cluster.late = [Failed(DATA, 0, DIED), Failed(DATA, 1, DIED), Failed(MEMORY, 0, DIED)]
    assert run.log_after(2) == [
        "restart data as 1 from the beginning",
        "restart memory as 1 from the beginning",
    ]


def test_a_copy_with_other_bytes_takes_the_place_of_one_that_is_lost() -> None:
    """On GPUs, where that is a warning: kept as it was, it would be waited for for ever."""
    other = again(DATA, 3, 1)
    assert other.version is not None
    header = replace(other.version.headers[0], checksums=(1, 3))
    other = replace(other, version=replace(other.version, headers=(header,)))
    lost = Restarted(DATA, 1, lost_node=True, published=a_version(DATA, 2))
    script = [*UNTIL_3, Failed(DATA, 0, DIED), MISSING, lost, other, Restarted(MEMORY, 1)]
    run = Run([*script, again(MEMORY, 3, 1)], data={"workers": {"gpus": 1}})
    assert run.log_after(0)[-1] == "submit memory 4 on data 3"
    (warning,) = run.listener.warnings
    assert warning.endswith("these are used, since the first ones are lost")
