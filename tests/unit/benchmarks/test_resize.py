from __future__ import annotations

from benchmarks.resize import gaps_s, longest_gap_s, median_interval_s


def row(start_s: float, adopt_s: float = 0.5, step_s: float = 6.0) -> dict[str, float]:
    return {"start_s": start_s, "adopt_s": adopt_s, "step_s": step_s}


ROWS = [row(0.0), row(8.0), row(20.0), row(28.0, adopt_s=1.0)]


def test_a_gap_is_from_a_groups_last_step_to_its_next_first_one() -> None:
    assert gaps_s(ROWS) == [8.5 - 6.5, 20.5 - 14.5, 29.0 - 26.5]
    assert longest_gap_s(ROWS) == 6.0


def test_an_interval_is_from_one_start_to_the_next() -> None:
    assert median_interval_s(ROWS) == 8.0
