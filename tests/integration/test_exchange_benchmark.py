"""The exchange benchmark, with sizes that take no time: its ways all bring every byte."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.long, pytest.mark.ray]  # the benchmark starts its own Ray

ROOT = Path(__file__).resolve().parents[2]


def test_the_benchmark_prints_the_figures_of_each_size() -> None:
    command = [sys.executable, "-m", "benchmarks.exchange", "--json", "--mib", "1", "8"]
    done = subprocess.run(
        [*command, "--rounds", "2"], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
    sizes = json.loads(done.stdout)["sizes"]
    assert [size["mib"] for size in sizes] == [1, 8]
    for size in sizes:
        assert size["rounds"] == 2
        assert size["ratio_to_memcpy"] == size["handover_s"] / size["memcpy_s"] > 0
        assert size["speedup_vs_state_dict"] == size["state_dict_s"] / size["handover_s"] > 0
        assert size["ratio_unchecked"] > 0
