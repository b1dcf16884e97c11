"""A run that is taught while it goes on and whose groups die: replays learn the same lessons from
the same interval on, and no bit differs.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.settings.run import DATA, MEMORY
from orchestrator.run import train
from orchestrator.settings.config import load_config
from tests.chaos.injector import Faults, commanded_at_once, fail_at
from tests.integration.tiny import run_in_process

pytestmark = [pytest.mark.usefixtures("shared_ray"), pytest.mark.long]
SETTINGS = ("intervals=5", "checkpoints.every=2", "evaluation.every=0")


def taught_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first look for commands finds lessons: the second interval of both groups takes them."""
    some = [{"prompt": "The capital of Baran is", "answer": "Muvia", "subject": "Baran"}]
    commanded_at_once(monkeypatch, kind="teach", lessons=some)


def test_taught_groups_that_die_learn_the_same_lessons_again_to_the_bit(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(workplace / "tiny.yaml")
    with monkeypatch.context() as patch:
        taught_at_once(patch)
        whole = run_in_process(load_config(path, ["name=chaos-taught-whole", *SETTINGS]))
    untaught = run_in_process(load_config(path, ["name=chaos-untaught", *SETTINGS]))
    assert whole.summary["digest"] != untaught.summary["digest"]
    injected = Faults(
        tmp_path / "faults",
        fail_at(DATA, 0, 2, "in a step"),  # the interval that it is taught in
        fail_at(MEMORY, 0, 4, "while publishing"),  # after a checkpoint that has the lessons
    )
    with injected.injected(), monkeypatch.context() as patch:
        taught_at_once(patch)
        died = train(load_config(path, ["name=chaos-taught-died", *SETTINGS]))
    assert injected.fired() == [1, 1]
    assert died.summary["digest"] == whole.summary["digest"]
