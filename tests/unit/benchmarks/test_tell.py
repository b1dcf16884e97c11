"""The benchmark of telling: its rows on a tiny pair, and its arithmetic."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.cells import Cells
from benchmarks.tell import AIMS, WORLD_FACTS, lines, measure, tell_row
from benchmarks.tell_cells import TellCells, TellSizes, WorldCells, lost, world_folder
from tests.unit.benchmarks.test_learning import TINY, write_data

TOLD = TellSizes(counterfactual=2, others=3, probes=8, timed=(2, 3), writes=4, first=2)
ROWS = ("tell", "times", "writes", "strangers", "controls")


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
    assert 0 < first["strangers_taught"] <= 1
    assert 0 <= first["strangers_overrun"] <= 1
    assert 0 <= first["strangers_numbered_overrun"] <= 1
    assert first["one_wording"]["strangers_taught"] is None  # told in one as it is
    for control in ("learn", "full"):
        for figure in ("taught", "held_out", "others_lost", "text_lost", "s_per_association"):
            assert math.isfinite(first["controls"][f"{control}_{figure}"])
    assert any(line.startswith("taught") for line in lines(first))


def test_ratios_are_above_the_baseline_and_losses_are_of_both_writes_and_kinds_of_wordings() -> (
    None
):
    row = {"taught_help": 1.0, "baseline": 0.2, "text_lost": 0.0}
    found = tell_row(
        {
            "known": 0.8,
            "known_memory": 0.7,
            "known_baseline": 0.3,
            "new": {**row, "held_out_help": 0.6, "lost_seen": 0.1, "lost_unseen": 0.2},
            "changed": {
                **row,
                "held_out_help": 0.7,
                "lost_seen": 0.0,
                "lost_unseen": 0.1,
                "text_lost": 0.02,
            },
        }
    )
    assert found["held_out_ratio"] == pytest.approx(0.8)
    assert found["counterfactual_held_out_ratio"] == pytest.approx(1.0)
    assert found["others_lost"] == pytest.approx(0.1)
    assert found["text_lost"] == 0.02


def test_controls_are_asked_what_the_told_pair_is_asked(folder: Path, tmp_path: Path) -> None:
    cells = TellCells(Cells(tmp_path), TINY, folder, 0, {}, TOLD)
    cell = cells.full(1e-3)["own"]
    assert [len(cell[when]["right"]["others_seen"]) for when in ("before", "after")] == [6, 6]
    assert {probe.subject for probe in cells._asked["others_seen"]} <= {
        fact.subject for fact in cells._tables["old"].facts
    }
    assert {probe.subject for probe in cells._asked["new_seen"]} <= {
        fact.subject for fact in cells._tables["new"].facts
    }


def test_only_answers_that_were_right_can_be_lost() -> None:
    assert lost([True, True, False, False], [True, False, True, False]) == 0.5
    assert lost([False], [True]) == 0.0


def test_of_the_quickstarts_facts_those_that_are_told_are_not_trained_on(
    folder: Path, tmp_path: Path
) -> None:
    kept = Cells(tmp_path)
    sizes = replace(TINY, old_facts=WORLD_FACTS, new_facts=150)
    cells = WorldCells(kept, sizes, world_folder(kept, folder), 0, {}, TellSizes())
    old = {(fact.relation, fact.subject) for fact in cells._tables["old"].facts}
    new = {(fact.relation, fact.subject) for fact in cells._new_facts}
    assert (len(old), len(new)) == (WORLD_FACTS, 150)
    assert not old & new
    told = cells._more(1000)
    assert len({(fact.relation, fact.subject) for fact in told}) == 1000
    changed = [fact for fact in told if (fact.relation, fact.subject) in old]
    assert changed
    assert not set(changed) & set(cells._tables["old"].facts)
