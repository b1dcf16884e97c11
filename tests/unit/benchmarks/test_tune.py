from __future__ import annotations

import pytest

from benchmarks.tune import startups


def test_a_startup_reaches_from_a_trials_end_to_the_next_ones_first_step() -> None:
    summaries = [{"wall_s": 10.0, "first_step_s": 3.0}, {"wall_s": 12.0, "first_step_s": 4.0}]
    # The second began at 120 - 12 = 108 and stepped at 112; the first ended at 105.
    assert startups([105.0, 120.0], summaries) == pytest.approx([7.0])
