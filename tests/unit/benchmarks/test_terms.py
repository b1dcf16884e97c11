"""The arithmetic of the benchmark of terms, its arms, and one tiny table."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.cells import Cells
from benchmarks.reflect_specs import Sizes as ReflectSizes
from benchmarks.terms import (
    ARMS,
    SHIPPED,
    SIGNS,
    SeedArms,
    Sizes,
    differences,
    lines,
    measure,
    verdict,
)
from orchestrator.settings.config import dotted_keys
from tests.unit.benchmarks.test_learning import TINY
from tests.unit.benchmarks.test_reflect import write_data

SMALLEST = Sizes(replace(TINY, windows=2), ReflectSizes(1, 12, 6, 2, (1, 2, 4), 1, 4, 2, 2))


@pytest.mark.parametrize(
    ("mean", "half", "sign", "said"),
    [
        (0.2, 0.1, 1, "better"),
        (0.2, 0.1, -1, "worse"),
        (-0.2, 0.1, 1, "worse"),
        (-0.2, 0.1, -1, "better"),
        (0.1, 0.2, 1, ""),
        (0.0, 0.0, 1, ""),
        (0.2, 0.1, 0, ""),
    ],
)
def test_a_difference_counts_where_its_interval_leaves_zero_out(
    mean: float, half: float, sign: int, said: str
) -> None:
    assert verdict(mean, half, sign) == said


def test_differences_are_of_the_same_seed() -> None:
    shipped = [{"help_gain": 0.1}, {"help_gain": 0.9}]
    rows = [{"help_gain": 0.0}, {"help_gain": 0.79}]  # worse in each, less than seeds differ
    found = differences(rows, shipped, {"help_gain": 1})["help_gain"]
    assert found["mean"] == pytest.approx(-0.105)
    assert found["half_95"] == pytest.approx(12.7062 * 0.005, rel=1e-4)
    assert found["verdict"] == "worse"


def test_every_arm_changes_settings_that_there_are() -> None:
    changed = {name for arm in ARMS.values() for name in arm.changes}
    assert changed <= set(dotted_keys())
    assert all(arm.changes for name, arm in ARMS.items() if name != SHIPPED)


@pytest.mark.long  # it trains small pairs
def test_the_table_has_every_figure_of_every_world(tmp_path: Path) -> None:
    cells, data = Cells(tmp_path / "cells"), write_data(tmp_path)
    seeds = [SeedArms(cells, SMALLEST, data, seed) for seed in (0, 1)]
    names = [name for name in ARMS if name != SHIPPED]
    found = measure(seeds, names)
    for name in names:
        assert set(found["differences"][name]) == set(ARMS[name].worlds)
        for world, rows in found["differences"][name].items():
            assert set(rows) == set(SIGNS[world])
            assert all(math.isfinite(row["mean"]) for row in rows.values())
    text = "\n".join(lines(found))
    assert all(name in text for name in names)
    again = [replace(each, cells=Cells(cells.folder, allowed=0)) for each in seeds]
    assert measure(again, names) == found
