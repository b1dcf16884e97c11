"""Ranks, and commands that draw or search nothing, start without the packages that do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("matplotlib", "optuna", "tensorboardX")
TRAINERS = sorted(
    f"actors.training.{path.stem}" for path in (ROOT / "actors" / "training").glob("*_trainer.py")
)


def loaded(code: str) -> set[str]:
    """Heavy packages that a fresh process has imported after the code."""
    tail = f"\nimport sys; print(*(set({HEAVY!r}) & sys.modules.keys()))"
    command = [sys.executable, "-c", code + tail]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.splitlines()[-1].split())


def test_the_trainers_are_found() -> None:
    assert len(TRAINERS) == 2


@pytest.mark.parametrize("module", ["orchestrator.processes.ray_actors", "jobs.tune.search"])
def test_a_module_needs_no_drawing_nor_searching(module: str) -> None:
    assert loaded(f"import {module}") == set()


def test_the_trainers_need_no_drawing_nor_searching() -> None:
    assert loaded(f"import {', '.join(TRAINERS)}") == set()


def test_a_runs_status_is_shown_without_drawing(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("corpus: {paths: [text.txt]}\n")
    code = (
        "from jobs.cli import app\n"
        f"try: app(['status', {str(tmp_path)!r}])\n"
        "except SystemExit as left: assert left.code == 0, left"
    )
    assert loaded(code) == set()


def test_a_package_that_is_imported_is_seen() -> None:
    assert loaded("import optuna") == {"optuna"}
