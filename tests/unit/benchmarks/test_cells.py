"""Cells that are interrupted: what is left of them, in processes and in files."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.cells import ROOT, Cells

PATIENCE_S = 60.0
ASKS = """
from functools import partial
from pathlib import Path
import sys

from benchmarks.cells import compute_ahead
from tests.unit.benchmarks.test_cells import stays

compute_ahead([partial(stays, Path(sys.argv[1]))], 1)
"""


def stays(told: Path) -> dict[str, Any]:
    """A cell that is never done."""
    told.with_suffix(".part").write_text(str(os.getpid()))
    told.with_suffix(".part").rename(told)
    time.sleep(10 * PATIENCE_S)
    return {}


def test_workers_end_with_the_process_that_asked_for_them(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    asks = subprocess.Popen([sys.executable, "-c", ASKS, str(told)], cwd=ROOT)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not told.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        worker = psutil.Process(int(told.read_text()))
    finally:
        asks.kill()
        asks.wait(PATIENCE_S)
    _, left = psutil.wait_procs([worker], timeout=PATIENCE_S)
    assert left == []


def _kept(path: Path) -> dict[str, Any]:
    path.with_suffix(".txt").write_text("kept")
    return {}


def test_a_cell_begins_without_what_an_interrupted_one_left(tmp_path: Path) -> None:
    cells, key = Cells(tmp_path), {"seed": 1}
    other = cells.get("cell", {"seed": 2}, _kept)

    def compute(path: Path) -> dict[str, Any]:
        path.mkdir()  # a run that is there already is refused
        Path(f"{path}-more").mkdir()
        path.with_suffix(".jsonl").write_text("line")
        if not (tmp_path / "go on").exists():
            raise KeyboardInterrupt
        return {"computed": True}

    with pytest.raises(KeyboardInterrupt):
        cells.get("cell", key, compute)
    (tmp_path / "go on").touch()
    assert cells.get("cell", key, compute)["computed"]
    assert cells.get("cell", {"seed": 2}, lambda _: {}) == other
    assert [path.read_text() for path in tmp_path.glob("*.txt")] == ["kept"]
