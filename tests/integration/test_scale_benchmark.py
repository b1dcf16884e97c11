"""The scale benchmark with few ranks: the real driver runs to its end over fake ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray  # the benchmark starts its own Ray

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.long
def test_the_benchmark_prints_the_drivers_cost_by_ranks() -> None:
    command = [sys.executable, "-m", "benchmarks.scale", "--json", "--ranks", "2", "16"]
    done = subprocess.run(
        [*command, "--intervals", "11"], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert [size["ranks"] for size in result["sizes"]] == [2, 16]
    for size in result["sizes"]:
        parts = size["own_ms_per_rank_interval"], size["ray_ms_per_rank_interval"]
        assert min(parts) > 0
        assert sum(parts) == pytest.approx(size["driver_ms_per_rank_interval"])
        assert size["buckets_per_version"] == 1
    assert result["growth_exponent"] > 0
