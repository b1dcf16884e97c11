from __future__ import annotations

from typing import Any

import pytest

from benchmarks.paired import compare, difference


def test_a_difference_is_that_of_the_same_seeds_with_students_interval() -> None:
    # By hand: gaps .1 .3 .2 .4 .0, mean .2, deviation .158114, over sqrt(5), times 2.776445.
    found = difference("accuracy.help", [0.5, 0.2, 0.3, 0.1, 0.6], [0.6, 0.5, 0.5, 0.5, 0.6])
    assert found.mean == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.2 - 0.196324, 0.2 + 0.196324), abs=1e-5)
    assert found.verdict == "second is better"


def test_lower_losses_are_better() -> None:
    assert difference("heldout.help_loss", [2.0, 3.0], [1.0, 2.01]).verdict == "second is better"
    assert difference("heldout.help_loss", [1.0, 2.01], [2.0, 3.0]).verdict == "second is worse"


def test_an_interval_round_zero_shows_no_difference() -> None:
    assert difference("accuracy.own", [0.1, 0.2], [0.2, 0.1]).verdict == "no difference shown"


def test_figures_that_are_missing_are_left_out() -> None:
    def summary(rate: float | None) -> dict[str, Any]:
        return {"heldout": {"help_loss": 1.0, "reflection_rate": rate}}

    found = compare([(summary(None), summary(0.1)), (summary(0.2), summary(0.3))])
    assert [d.figure for d in found] == ["heldout.help_loss"]
