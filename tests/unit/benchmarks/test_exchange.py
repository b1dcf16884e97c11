from __future__ import annotations

import pytest

from benchmarks.exchange import MIB, figures, obstacle, table

SAMPLES = {
    "handover_s": [0.2, 9.0, 0.1, 0.3, 0.2],
    "handover_unchecked_s": [0.1, 0.1, 0.1, 0.1, 0.1],
    "memcpy_s": [0.1, 0.1, 0.2, 0.1, 0.1],
    "state_dict_s": [2.0, 2.0, 1.0, 3.0, 2.0],
}


def test_figures_are_medians_and_their_ratios() -> None:
    found = figures(64, SAMPLES, cold_rounds=3)
    assert (found["mib"], found["rounds"], found["cold_rounds"]) == (64, 5, 3)
    assert found["handover_s"] == 0.2
    assert found["ratio_to_memcpy"] == pytest.approx(2.0)
    assert found["ratio_unchecked"] == pytest.approx(1.0)
    assert found["speedup_vs_state_dict"] == pytest.approx(10.0)


def test_a_size_that_does_not_fit_is_said_not_to() -> None:
    much = 2**40
    assert obstacle(1024, much, much) is None
    assert "/dev/shm has 1,024 free" in str(obstacle(1024, 1024 * MIB, much))
    assert "2,048 are free" in str(obstacle(1024, much, 2048 * MIB))


def test_the_table_shows_figures_and_what_was_skipped() -> None:
    result = {"sizes": [figures(64, SAMPLES), {"mib": 1024, "skipped": "too large"}]}
    lines = table(result).splitlines()
    assert lines[1].split()[:2] == ["64", "0.2000"]
    assert lines[2].split(maxsplit=1) == ["1024", "too large"]
