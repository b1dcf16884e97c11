"""On Ray, a memory without a copy of the data layer: either group dies and a byte of what was said
is altered, and no bit of the run differs from that of one process.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.settings.run import DATA, MEMORY
from orchestrator.run import train
from orchestrator.settings.config import load_config
from tests.chaos.injector import Faults, fail_at
from tests.integration.tiny import run_in_process

pytestmark = [pytest.mark.usefixtures("shared_ray"), pytest.mark.long]
SETTINGS = ("intervals=5", "checkpoints.every=2", "evaluation.every=0", "memory.teacher=said")


def test_what_was_said_is_said_again_to_the_bit(workplace: Path, tmp_path: Path) -> None:
    path = str(workplace / "tiny.yaml")
    whole = run_in_process(load_config(path, ["name=chaos-said-whole", *SETTINGS]))
    injected = Faults(
        tmp_path / "faults",
        fail_at(DATA, 0, 4, "in a step"),
        fail_at(MEMORY, 0, 3, "adopting", kind="alter"),
        fail_at(MEMORY, 0, 4, "while publishing"),
    )
    with injected.injected():
        died = train(load_config(path, ["name=chaos-said-died", *SETTINGS]))
    assert injected.fired() == [1, 1, 1]
    assert died.summary["digest"] == whole.summary["digest"]
