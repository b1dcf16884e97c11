from __future__ import annotations

import pytest

from benchmarks.scale import WARM_UP, figures, growth_exponent, table

# Clocks after each commit: 10 ms of the thread, 4 of them Ray's, 20 of the process, 50 of wall.
MARKS = [(0.01 * i, 0.02 * i, 0.004 * i, 0.05 * i) for i in range(2 * WARM_UP + 21)]


def test_costs_are_those_of_one_rank_and_one_interval() -> None:
    found = figures(8, MARKS, buckets=1)  # four ranks a commit
    assert found["driver_ms_per_rank_interval"] == pytest.approx(10 / 4)
    assert found["ray_ms_per_rank_interval"] == pytest.approx(4 / 4)
    assert found["own_ms_per_rank_interval"] == pytest.approx(6 / 4)
    assert found["process_ms_per_rank_interval"] == pytest.approx(20 / 4)
    assert found["wall_ms_per_interval"] == pytest.approx(100)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_growth_exponent_is_the_power_with_which_costs_grow(power: float) -> None:
    sizes = [{"ranks": n, "driver_ms_per_rank_interval": n**power / n} for n in (2, 8, 32, 128)]
    assert growth_exponent(sizes) == pytest.approx(power)


def test_the_table_has_a_line_for_each_size_and_the_exponent() -> None:
    result = {"sizes": [figures(n, MARKS, 1) for n in (2, 8)], "growth_exponent": 1.0}
    lines = table(result).splitlines()
    assert [line.split()[0] for line in lines] == ["ranks", "2", "8", "growth_exponent"]
