from __future__ import annotations

import pytest

from actors.settings.run import DATA, MEMORY
from orchestrator.loop.recovery import Failure
from orchestrator.loop.resize_rules import Resize
from orchestrator.run_dir.metrics import Metrics, group_totals, pooled_reflection
from tests.unit.orchestrator.scripted import a_report, an_evaluation

STARTED_AT = 5.0


@pytest.fixture
def metrics() -> Metrics:
    """Two intervals of each group, from 10 * i on, of 8 s: 6 s of steps, 1 s of measuring."""
    metrics = Metrics(STARTED_AT)
    for interval in (1, 2):
        metrics.add_interval([a_report(DATA, interval)], wait_s=2.0, lag=1)
        metrics.add_interval([a_report(MEMORY, interval, agreement=0.5)], wait_s=0.0, lag=1)
    return metrics


def test_a_row_counts_seconds_from_the_runs_start(metrics: Metrics) -> None:
    row = metrics.intervals[0]
    assert (row["start_s"], row["first_step_s"], row["end_s"]) == (5.0, 6.0, 13.0)


def test_a_row_holds_what_the_report_says_and_how_long_it_waited(metrics: Metrics) -> None:
    row = metrics.of_group(DATA)[1]
    expected = {
        "group": DATA,
        "interval": 2,
        "step": 40,
        "peer_version": 1,
        "lag": 1,
        "tokens": 1000,
        "wait_s": 2.0,
        "tokens_per_s": 125.0,
        "train.own": 1.5,
        "cost_s.forward": 2.0,
    }
    assert {name: row[name] for name in expected} == expected


def test_the_tokens_of_all_ranks_add_up() -> None:
    reports = [a_report(DATA, 1), a_report(DATA, 1, rank=1, tokens=500)]
    assert Metrics(0.0).add_interval(reports, 0.0, 1)["tokens"] == 1500


def test_the_ranks_shares_of_a_loss_add_up_and_what_all_measured_is_taken_once() -> None:
    reports = [
        a_report(DATA, 1, metrics={"lr": 0.1}, shares={"own": 1.5}),
        a_report(DATA, 1, rank=1, metrics={"lr": 0.1}, shares={"own": 0.5, "help": 0.25}),
    ]
    row = Metrics(0.0).add_interval(reports, 0.0, 1)
    assert (row["train.own"], row["train.help"], row["train.lr"]) == (2.0, 0.25, 0.1)


def test_times_are_those_of_the_slowest_rank() -> None:
    reports = [a_report(DATA, 1), a_report(DATA, 1, rank=1, wall_s=16.0, step_s=14.0)]
    row = Metrics(0.0).add_interval(reports, 0.0, 1)
    assert (row["step_s"], row["end_s"] - row["start_s"]) == (14.0, 16.0)


def test_totals_add_tokens_and_take_the_last_step(metrics: Metrics) -> None:
    totals = group_totals(metrics.of_group(DATA))
    assert (totals["steps"], totals["tokens"]) == (40, 2000)


def test_tokens_per_second_are_over_the_wall_time_from_first_start_to_last_end(
    metrics: Metrics,
) -> None:
    totals = group_totals(metrics.of_group(DATA))
    assert totals["wall_s"] == 18.0  # from 5 to 23
    assert totals["tokens_per_s"] == pytest.approx(2000 / 18)


def test_stall_is_the_share_of_wall_time_neither_in_steps_nor_in_measuring(
    metrics: Metrics,
) -> None:
    assert group_totals(metrics.of_group(DATA))["stall_frac"] == pytest.approx((18 - 2 * 7) / 18)


def test_waiting_is_the_share_of_wall_time_before_intervals(metrics: Metrics) -> None:
    assert group_totals(metrics.of_group(DATA))["wait_frac"] == pytest.approx(4 / 18)


def test_stall_is_never_negative() -> None:
    metrics = Metrics(0.0)
    metrics.add_interval([a_report(DATA, 1, step_s=9.0)], 0.0, 1)
    assert group_totals(metrics.intervals)["stall_frac"] == 0.0


def test_a_group_without_intervals_has_the_same_totals_all_zero(metrics: Metrics) -> None:
    nothing = group_totals([])
    assert set(nothing) == set(group_totals(metrics.of_group(DATA)))
    assert set(nothing.values()) == {0}


def test_an_evaluation_is_a_row_of_dotted_figures(metrics: Metrics) -> None:
    row = metrics.add_evaluation(an_evaluation(2, 3), final=True)
    assert (row["data_version"], row["memory_version"], row["final"]) == (2, 3, True)
    assert (row["heldout.own_loss"], row["accuracy.help"], row["accuracy_seen.own"]) == (
        2,
        0.6,
        0.7,
    )


def test_reflection_pools_the_probes_of_all_evaluations_and_not_their_rates() -> None:
    metrics = Metrics(0.0)
    metrics.add_evaluation(
        an_evaluation(1, 1, reflection_changed=10, reflection_followed=10), final=False
    )
    metrics.add_evaluation(
        an_evaluation(2, 2, reflection_changed=90, reflection_followed=0), final=True
    )
    assert metrics.reflection() == (100, 10)
    assert pooled_reflection(metrics) == 0.1


def test_there_is_no_reflection_rate_where_nothing_changed() -> None:
    metrics = Metrics(0.0)
    metrics.add_evaluation(
        an_evaluation(1, 1, reflection_changed=0, reflection_followed=0), final=True
    )
    assert pooled_reflection(metrics) is None


def test_a_failure_is_a_row_that_its_recovery_completes(metrics: Metrics) -> None:
    metrics.add_failure(Failure(DATA, 1, 7, "it died", 0, 3))
    metrics.add_failure(Failure(MEMORY, 0, 8, "it hung", 0, 1))
    metrics.add_recovery(DATA, 3.5, 2.0)
    data, memory = metrics.restarts
    assert (data["rank"], data["cause"], data["replayed"]) == (1, "it died", 3)
    assert (data["restart_s"], data["replay_s"]) == (3.5, 2.0)
    assert "restart_s" not in memory


def test_a_row_that_was_given_to_a_checkpoint_does_not_change_while_it_is_written(
    metrics: Metrics,
) -> None:
    metrics.add_failure(Failure(DATA, 1, 2, "it died", 0, 1))
    (given,) = metrics.until(2).restarts
    metrics.add_recovery(DATA, 3.5, 2.0)
    assert "restart_s" not in given
    assert "restart_s" in metrics.restarts[0]


def test_failures_go_with_a_checkpoint_and_are_there_after_a_resume(metrics: Metrics) -> None:
    metrics.add_failure(Failure(DATA, 1, 2, "it died", 0, 1))
    assert Metrics.resumed(metrics.until(2)).restarts == metrics.restarts


def test_resizes_go_with_a_checkpoint_and_are_there_after_a_resume(metrics: Metrics) -> None:
    row = metrics.add_resize(Resize(DATA, 2, 1, 3, 4.0, 0.5))
    assert (row["before"], row["after"], row["pause_s"]) == (1, 3, 0.5)
    assert Metrics.resumed(metrics.until(2)).resizes == metrics.resizes == [row]


def test_a_row_says_how_many_workers_the_interval_had(metrics: Metrics) -> None:
    reports = [a_report(DATA, 1, rank=rank) for rank in range(3)]
    assert metrics.add_interval(reports, 0.0, 1)["num_workers"] == 3


@pytest.mark.parametrize("first", [1, 3])
def test_rows_written_in_an_interval_are_those_of_its_steps(first: int) -> None:
    metrics = Metrics(0.0)
    for interval, rows in ((first, 100.0), (first + 1, 300.0)):
        metrics.add_interval([a_report(MEMORY, interval, metrics={"rows_written": rows})], 0.0, 1)
    steps = metrics.intervals[1]["step"] - metrics.intervals[0]["step"]
    assert group_totals(metrics.intervals)["rows_written_per_interval"] == 200.0 * steps


def test_a_group_without_a_table_writes_no_rows(metrics: Metrics) -> None:
    assert "rows_written_per_interval" not in group_totals(metrics.of_group(DATA))
