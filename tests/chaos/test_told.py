"""A told run whose memory group dies, twice: what it was told is told again by the replay, and by
the checkpoint, and no bit of the run or of its writes differs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from actors.settings.run import MEMORY
from actors.weights.pair_export import load_pair
from orchestrator.run import RunResult, train
from orchestrator.settings.config import load_config
from tests.chaos.injector import Faults, commanded_at_once, fail_at
from tests.integration.tiny import run_in_process

pytestmark = [pytest.mark.usefixtures("shared_ray"), pytest.mark.long]
SETTINGS = ("intervals=5", "checkpoints.every=2", "evaluation.every=0")


def told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first look for commands finds a tell: the memory's second interval takes it."""
    some = [{"prompt": "The capital of Atlantis is", "answer": "Poseidonis"}]
    commanded_at_once(monkeypatch, kind="tell", name="atlantis", associations=some)


def writes(result: RunResult) -> list[tuple[Any, ...]]:
    found = load_pair(f"{result.path}/export")[0].memory.writes
    return [
        (w.id, w.told_at, {name: t.tolist() for name, t in w.to_tensors().items()}) for w in found
    ]


def test_a_told_memory_group_that_dies_is_told_again_to_the_bit(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(workplace / "tiny.yaml")
    with monkeypatch.context() as patch:
        told_at_once(patch)
        whole = run_in_process(load_config(path, ["name=chaos-told-whole", *SETTINGS]))
    assert [write[0] for write in writes(whole)] == ["atlantis"]
    injected = Faults(
        tmp_path / "faults",
        fail_at(MEMORY, 0, 2, "in a step"),  # the interval that it is told in
        fail_at(MEMORY, 0, 4, "while publishing"),  # after a checkpoint that has it
    )
    with injected.injected(), monkeypatch.context() as patch:
        told_at_once(patch)
        died = train(load_config(path, ["name=chaos-told-died", *SETTINGS]))
    assert injected.fired() == [1, 1]
    assert died.summary["digest"] == whole.summary["digest"]
    assert writes(died) == writes(whole)
