from __future__ import annotations

import random
from dataclasses import replace

import pytest

from actors.settings.run import DATA, GROUPS, MEMORY, peer_of
from orchestrator.loop.schedule import (
    CatchUp,
    GroupProgress,
    NextInterval,
    Plan,
    is_done,
    next_interval,
)

PLAN = Plan(intervals=3, catchup_intervals=2)


def step(group: str, interval: int, version: int, measure: bool) -> NextInterval:
    """What a plain lockstep run starts: every interval publishes, the last ones exactly."""
    exact = interval >= PLAN.intervals
    return NextInterval(
        group, interval, version, measure, publish=True, exact=exact, checkpoint=False
    )


def progress(data: int, memory: int, running: str = "") -> dict[str, GroupProgress]:
    """Both groups' committed intervals; `running` names those that are in one."""
    return {
        DATA: GroupProgress(data, DATA in running, data, max(0, data - 1)),
        MEMORY: GroupProgress(memory, MEMORY in running, memory, max(0, memory - 1)),
    }


def finished(progress: dict[str, GroupProgress], plan: Plan, catch_up: CatchUp) -> bool:
    """Neither group has anything left to do."""
    return all(is_done(group, at.committed, plan, catch_up) for group, at in progress.items())


@pytest.mark.parametrize("group", GROUPS)
def test_the_first_interval_starts_on_the_peers_version_0(group: str) -> None:
    assert next_interval(group, progress(0, 0), PLAN, CatchUp()) == step(group, 1, 0, False)


@pytest.mark.parametrize("group", GROUPS)
def test_a_running_group_starts_nothing(group: str) -> None:
    assert next_interval(group, progress(1, 1, running=group), PLAN, CatchUp()) is None


@pytest.mark.parametrize("group", GROUPS)
def test_the_peers_running_interval_does_not_hold_a_group_back(group: str) -> None:
    found = next_interval(group, progress(1, 1, running=peer_of(group)), PLAN, CatchUp())
    assert found == step(group, 2, 1, False)


def test_the_data_group_waits_for_the_memorys_previous_interval() -> None:
    assert next_interval(DATA, progress(2, 1), PLAN, CatchUp()) is None


def test_the_memory_waits_for_the_data_groups_previous_interval() -> None:
    assert next_interval(MEMORY, progress(1, 2), PLAN, CatchUp()) is None


def test_only_the_memorys_last_interval_and_the_catch_up_measure_agreement() -> None:
    measured = [
        (group, number)
        for group in GROUPS
        for number in range(1, 6)
        if (found := next_interval(group, progress(number - 1, number - 1), PLAN, CatchUp()))
        and found.measure
    ]
    assert measured == [(MEMORY, 3), (MEMORY, 4), (MEMORY, 5)]


def test_the_data_group_stops_at_its_last_interval() -> None:
    assert next_interval(DATA, progress(3, 3), PLAN, CatchUp(before=0.9)) is None


def test_catch_up_adopts_the_final_data_version() -> None:
    found = next_interval(MEMORY, progress(3, 4), PLAN, CatchUp(before=0.9, after=(0.1,)))
    assert found == step(MEMORY, 5, 3, True)


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


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (0.9, (0.95,), "yes"),
        (0.9, (0.8901,), "yes"),
        (0.9, (0.8899,), "no"),
        (0.9, (0.95, 0.5), "no"),  # the last one counts
        (0.9, (0.5, 0.95), "yes"),
        (0.9, (), "no"),
        (None, (0.9,), "no"),
        (0.4, (0.5,), "yes"),
        (0.5, (0.499,), "hardly"),
        (0.096, (0.096,), "hardly"),  # as bad as with the version before
        (0.0, (0.0,), "hardly"),
        (0.2, (0.1,), "no"),
    ],
)
def test_the_final_version_is_reflected_where_agreement_has_kept_up_and_is_at_least_a_half(
    before: float | None, after: tuple[float, ...], verdict: str
) -> None:
    found = CatchUp(before, after)
    assert (found.verdict, found.reflects_final) == (verdict, verdict == "yes")
    assert found.caught_up is (verdict != "no")


def test_a_memory_that_hardly_agrees_has_caught_up_and_ends_the_catch_up() -> None:
    assert finished(progress(3, 4), PLAN, CatchUp(before=0.1, after=(0.1,)))


def test_the_reason_for_hardly_reflecting_names_the_level_and_what_to_do() -> None:
    reason = CatchUp(0.0955, (0.0962,)).reason(PLAN)
    assert "0.0962 after 1 catch-up intervals is within 0.01 of the 0.0955" in reason
    assert "below 0.5" in reason
    assert "train it longer" in reason


def test_the_reason_names_both_agreements_and_how_many_intervals_it_took() -> None:
    reason = CatchUp(0.8125, (0.75, 0.80625)).reason(PLAN)
    assert "0.8063 after 2 catch-up intervals is within 0.01 of the 0.8125" in reason


def test_an_agreement_that_rose_is_not_said_to_be_within_what_it_passed() -> None:
    reason = CatchUp(0.6, (0.7,)).reason(PLAN)
    assert "0.7000 after 1 catch-up intervals is above the 0.6000" in reason
    assert "within" not in reason


def test_the_reason_for_not_reflecting_names_the_knob_and_its_value() -> None:
    reason = CatchUp(0.8, (0.7, 0.7)).reason(PLAN)
    assert "not within" in reason
    assert "raise exchange.catchup_intervals (now 2)" in reason


def test_the_reason_says_when_the_run_ended_before_the_final_version_was_adopted() -> None:
    assert "before the memory adopted" in CatchUp(before=0.8).reason(PLAN)


def play(plan: Plan, seed: int) -> list[tuple[str, NextInterval, dict[str, GroupProgress]]]:
    """Every interval of a run whose groups finish in random order, and where both were then."""
    rng = random.Random(seed)
    speed = {group: rng.choice((1, 1, 5)) for group in GROUPS}
    state, caught = progress(0, 0), CatchUp()
    started: list[tuple[str, NextInterval, dict[str, GroupProgress]]] = []
    while not finished(state, plan, caught) or any(p.is_busy for p in state.values()):
        for group in GROUPS:
            if (found := next_interval(group, state, plan, caught)) is not None:
                started.append((group, found, dict(state)))
                state[group] = replace(state[group], is_busy=True, adopted=found.peer_version)
        running = [group for group in GROUPS if state[group].is_busy]
        assert running, f"nothing runs and nothing may start: {state}"
        done = rng.choices(running, [speed[group] for group in running])[0]
        interval = state[done].committed + 1
        published = interval if plan.publishes(interval) else state[done].published
        state[done] = replace(state[done], committed=interval, is_busy=False, published=published)
        if done == MEMORY and state[MEMORY].adopted == plan.intervals:
            caught = CatchUp(0.5, (*caught.after, rng.choice((0.1, 0.5))))
    return started


@pytest.mark.parametrize("seed", range(60))
def test_whatever_the_order_of_completion_a_run_ends_and_keeps_its_bounds(seed: int) -> None:
    rng = random.Random(seed)
    lockstep = rng.random() < 0.4
    staleness = 1 if lockstep else rng.randint(1, 4)
    plan = Plan(
        intervals=rng.randint(1, 12),
        catchup_intervals=rng.randint(1, 4),
        lockstep=lockstep,
        staleness=staleness,
        publish_every=rng.randint(1, 4),
    )
    started = play(plan, seed)
    for group, found, state in started:
        mine, peer = state[group], state[peer_of(group)]
        assert found.interval == mine.committed + 1
        assert mine.adopted <= found.peer_version <= peer.published
        assert plan.lag(found.interval, found.peer_version) <= staleness
        if found.interval <= plan.intervals:
            ahead = plan.ordinal(mine.published) - plan.ordinal(peer.adopted)
            assert ahead <= staleness
        if lockstep and found.interval <= plan.intervals:
            assert found.peer_version == plan.version_at(found.interval - 1)
    last = {group: found for group, found, _ in started}
    assert last[DATA].interval == plan.intervals
    assert last[MEMORY].peer_version == plan.intervals
    assert last[DATA].exact
    assert last[MEMORY].exact


@pytest.mark.parametrize("seed", range(20))
def test_async_with_a_staleness_of_one_is_lockstep(seed: int) -> None:
    def adopted(lockstep: bool) -> list[tuple[str, int, int]]:
        plan = Plan(8, 1, lockstep=lockstep)
        return sorted((g, n.interval, n.peer_version) for g, n, _ in play(plan, seed))

    assert adopted(True) == adopted(False)


def test_async_a_faster_group_runs_ahead_until_the_bound() -> None:
    plan = Plan(20, 1, lockstep=False, staleness=3)
    slow = {DATA: GroupProgress(0, True, 0, 0)}
    ahead = [
        next_interval(MEMORY, {**slow, MEMORY: GroupProgress(n, False, n, 0)}, plan, CatchUp())
        for n in range(5)
    ]
    assert [bool(found) for found in ahead] == [True, True, True, False, False]


def test_async_the_agreement_before_the_final_version_is_always_measured() -> None:
    plan = Plan(9, 2, lockstep=False, staleness=4)
    for seed in range(40):
        on_earlier = [
            found.measure
            for group, found, _ in play(plan, seed)
            if group == MEMORY and found.peer_version < plan.intervals
        ]
        assert on_earlier[-1]


def test_only_every_so_many_intervals_publish_and_the_last_one_always_does() -> None:
    plan = Plan(intervals=7, catchup_intervals=2, publish_every=3)
    assert [i for i in range(1, 10) if plan.publishes(i)] == [3, 6, 7, 8, 9]


@pytest.mark.parametrize(
    ("committed", "running", "every", "version"),
    [(0, False, 1, 1), (0, True, 1, 2), (4, True, 1, 6), (4, True, 3, 6), (5, True, 3, 9),
     (88, True, 4, 90), (89, True, 4, None), (92, False, 1, None)],
)  # fmt: skip
def test_the_next_version_is_that_of_the_first_interval_not_begun_that_publishes_one(
    committed: int, running: bool, every: int, version: int | None
) -> None:
    plan = Plan(90, 1, publish_every=every)
    assert plan.next_published(GroupProgress(committed, running).begun) == version


@pytest.mark.parametrize(
    ("interval", "adopted", "lag"),
    [(1, 0, 1), (3, 0, 1), (4, 3, 1), (6, 3, 1), (7, 3, 2), (4, 6, 0)],
)
def test_lag_counts_versions_and_not_intervals(interval: int, adopted: int, lag: int) -> None:
    plan = Plan(intervals=12, catchup_intervals=2, lockstep=False, staleness=2, publish_every=3)
    assert plan.lag(interval, adopted) == lag


@pytest.mark.parametrize("interval", [10, 11, 15])
def test_catch_up_on_the_final_version_lags_by_1_however_long_it_takes(interval: int) -> None:
    assert Plan(9, 9).lag(interval, adopted=9) == 1


def test_checkpoints_come_every_so_many_intervals_of_training() -> None:
    plan = Plan(intervals=6, catchup_intervals=3, checkpoint_every=3)
    taken = [n.interval for g, n, _ in play(plan, 1) if g == MEMORY and n.checkpoint]
    assert taken == [3, 6]
