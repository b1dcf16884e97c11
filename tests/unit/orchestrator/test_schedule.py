from __future__ import annotations

import random

import pytest

from actors.spec import DATA, GROUPS, MEMORY, peer_of
from orchestrator.exchange import lag
from orchestrator.schedule import CatchUp, Next, Plan, Progress, finished, next_interval

PLAN = Plan(intervals=3, catchup_intervals=2)


def progress(data: int, memory: int, running: str = "") -> dict[str, Progress]:
    """Both groups' committed intervals; `running` names those that are in one."""
    return {
        DATA: Progress(data, running=DATA in running),
        MEMORY: Progress(memory, running=MEMORY in running),
    }


@pytest.mark.parametrize("group", GROUPS)
def test_the_first_interval_starts_on_the_peers_version_0(group: str) -> None:
    assert next_interval(group, progress(0, 0), PLAN, CatchUp()) == Next(group, 1, 0, False)


@pytest.mark.parametrize("group", GROUPS)
def test_a_running_group_starts_nothing(group: str) -> None:
    assert next_interval(group, progress(1, 1, running=group), PLAN, CatchUp()) is None


@pytest.mark.parametrize("group", GROUPS)
def test_the_peers_running_interval_does_not_hold_a_group_back(group: str) -> None:
    step = next_interval(group, progress(1, 1, running=peer_of(group)), PLAN, CatchUp())
    assert step == Next(group, 2, 1, False)


def test_the_data_group_waits_for_the_memorys_previous_interval() -> None:
    assert next_interval(DATA, progress(2, 1), PLAN, CatchUp()) is None


def test_the_memory_waits_for_the_data_groups_previous_interval() -> None:
    assert next_interval(MEMORY, progress(1, 2), PLAN, CatchUp()) is None


def test_only_the_memorys_last_interval_and_the_catch_up_measure_agreement() -> None:
    measured = [
        (group, number)
        for group in GROUPS
        for number in range(1, 6)
        if (step := next_interval(group, progress(number - 1, number - 1), PLAN, CatchUp()))
        and step.measure
    ]
    assert measured == [(MEMORY, 3), (MEMORY, 4), (MEMORY, 5)]


def test_the_data_group_stops_at_its_last_interval() -> None:
    assert next_interval(DATA, progress(3, 3), PLAN, CatchUp(before=0.9)) is None


def test_catch_up_adopts_the_final_data_version() -> None:
    step = next_interval(MEMORY, progress(3, 4), PLAN, CatchUp(before=0.9, after=(0.1,)))
    assert step == Next(MEMORY, 5, 3, True)


def test_catch_up_waits_for_the_final_data_version() -> None:
    assert next_interval(MEMORY, progress(2, 3, running=DATA), PLAN, CatchUp(before=0.9)) is None


def test_catch_up_ends_early_once_the_memory_reflects_the_final_version() -> None:
    reflected = CatchUp(before=0.9, after=(0.895,))
    assert next_interval(MEMORY, progress(3, 4), PLAN, reflected) is None
    assert finished(progress(3, 4), PLAN, reflected)


def test_catch_up_ends_after_its_last_interval_whatever_the_agreement() -> None:
    behind = CatchUp(before=0.9, after=(0.1, 0.2))
    assert next_interval(MEMORY, progress(3, 5), PLAN, behind) is None
    assert finished(progress(3, 5), PLAN, behind)


def test_a_run_is_not_finished_before_one_catch_up_interval() -> None:
    assert not finished(progress(3, 3), PLAN, CatchUp(before=0.9))


@pytest.mark.parametrize("group", GROUPS)
def test_a_run_is_not_finished_while_a_group_runs(group: str) -> None:
    assert not finished(progress(3, 5, running=group), PLAN, CatchUp(before=0.9, after=(0.9,)))


@pytest.mark.parametrize(
    ("before", "after", "reflects"),
    [
        (0.9, (0.95,), True),
        (0.9, (0.8901,), True),
        (0.9, (0.8899,), False),
        (0.9, (0.95, 0.5), False),  # the last one counts
        (0.9, (0.5, 0.95), True),
        (0.9, (), False),
        (None, (0.9,), False),
    ],
)
def test_the_final_version_is_reflected_when_agreement_is_within_a_hundredth_of_the_one_before(
    before: float | None, after: tuple[float, ...], reflects: bool
) -> None:
    assert CatchUp(before, after).reflects_final is reflects


def test_the_reason_names_both_agreements_and_how_many_intervals_it_took() -> None:
    reason = CatchUp(0.8125, (0.75, 0.80625)).reason(PLAN)
    assert "0.8063 after 2 catch-up intervals is within 0.01 of the 0.8125" in reason


def test_the_reason_for_not_reflecting_names_the_knob_and_its_value() -> None:
    reason = CatchUp(0.8, (0.7, 0.7)).reason(PLAN)
    assert "not within" in reason
    assert "raise exchange.catchup_intervals (now 2)" in reason


def test_the_reason_says_when_the_run_ended_before_the_final_version_was_adopted() -> None:
    assert "before the memory adopted" in CatchUp(before=0.8).reason(PLAN)


@pytest.mark.parametrize("seed", range(30))
def test_whatever_the_order_of_completion_lag_is_1_and_inputs_are_committed(seed: int) -> None:
    rng = random.Random(seed)
    plan = Plan(rng.randint(1, 8), rng.randint(1, 4))
    state, caught, adopted = progress(0, 0), CatchUp(before=0.5), dict.fromkeys(GROUPS, -1)
    while not finished(state, plan, caught):
        for group in GROUPS:
            if (step := next_interval(group, state, plan, caught)) is not None:
                assert step.interval == state[group].committed + 1
                assert adopted[group] <= step.peer_version <= state[peer_of(group)].committed
                assert lag(step.interval, step.peer_version, plan.intervals, group) == 1
                adopted[group] = step.peer_version
                state[group] = Progress(state[group].committed, running=True)
        running = [group for group in GROUPS if state[group].running]
        assert running, f"nothing runs and nothing may start: {state}"
        done = rng.choice(running)
        state[done] = Progress(state[done].committed + 1)
        if done == MEMORY and state[MEMORY].committed > plan.intervals:
            caught = CatchUp(0.5, (*caught.after, rng.choice((0.1, 0.5))))
    assert adopted == {DATA: plan.intervals - 1, MEMORY: plan.intervals}
