"""The benchmark of telling: its rows on a tiny pair, and its arithmetic."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks.cells import Cells
from benchmarks.tell import AIMS, lines, measure, tell_row
from benchmarks.tell_cells import TellCells, TellSizes
from tests.unit.benchmarks.test_learning import TINY, write_data

TOLD = TellSizes(counterfactual=2, others=3, probes=8, timed=(2, 3), writes=4, first=2)
ROWS = ("tell", "times", "writes")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.mark.long  # it trains and tells several pairs
def test_each_figure_is_there_and_nothing_is_computed_twice(folder: Path, tmp_path: Path) -> None:
    first = measure([TellCells(Cells(tmp_path), TINY, folder, 0, {}, TOLD)], ROWS)
    again = measure([TellCells(Cells(tmp_path, allowed=0), TINY, folder, 0, {}, TOLD)], ROWS)
    assert first == again
    for part in (first, first["one_wording"]):
        known = {key for key, value in part.items() if key in AIMS and value is not None}
        assert {"taught", "held_out", "counterfactual", "others_lost", "one_s"} <= known
        assert part["untold_bits"] == 1
        assert math.isfinite(part["text_lost"])
    assert any(line.startswith("taught") for line in lines(first))


def test_ratios_are_above_the_baseline_and_losses_are_of_both_writes_and_kinds_of_wordings() -> (
    None
):
    row = {"taught_help": 1.0, "baseline": 0.2, "text_lost": 0.0}
    found = tell_row(
        {
            "known": 0.8,
            "known_baseline": 0.3,
            "new": {**row, "held_out_help": 0.6, "lost_train": 0.1, "lost_heldout": 0.2},
            "changed": {
                **row,
                "held_out_help": 0.7,
                "lost_train": 0.0,
                "lost_heldout": 0.1,
                "text_lost": 0.02,
            },
        }
    )
    assert found["held_out_ratio"] == pytest.approx(0.8)
    assert found["counterfactual_held_out_ratio"] == pytest.approx(1.0)
    assert found["others_lost"] == pytest.approx(0.1)
    assert found["text_lost"] == 0.02
