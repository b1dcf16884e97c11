"""`tandem teach` killed at scripted moments: the run that is taught keeps every byte, no
half result passes for a whole one, and what follows gives the bits of an undisturbed teaching.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from actors.wire import ConfigError
from orchestrator.run_dir.run_dir import find_export
from orchestrator.settings.config import load_config
from tests.integration.teaching import digest_of, digests, teach, train_base, write_lessons
from tests.integration.test_cli import ROOT
from tests.integration.tiny import run_in_process

pytestmark = pytest.mark.long  # a process of its own for each moment

# Argument 1: what is called when the process dies, 2: how many calls of it are survived.
SCRIPT = """
import importlib, os, signal, sys
from pathlib import Path

target, survived, run, lessons = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
module, _, path = target.partition(":")
*owners, name = path.split(".")
owner = importlib.import_module(module)
for part in owners:
    owner = getattr(owner, part)
real, calls = getattr(owner, name), []

def dies(*args, **options):
    if name != "write" or args[1] in ("exam.json", "summary.json"):
        calls.append(1)
    if len(calls) > survived:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **options)

setattr(owner, name, dies)
from tests.integration.teaching import teach
teach(Path(run), lessons, out=sys.argv[5])
"""
WHOLE_EXPORT = "after its export, before its summary"
MOMENTS = {
    "while it prepares": ("actors.teaching.lesson_preparation:prepare_lessons", 0, False),
    "between two of its files": ("orchestrator.run_dir.run_dir:RunDir.write", 0, False),
    "before the first checkpoint": (
        "actors.training.teaching_data:TeachingDataTrainer.train_step", 1, True,
    ),
    "between two checkpoints": (
        "actors.training.teaching_data:TeachingDataTrainer.train_step", 5, True,
    ),
    "while it exports": ("actors.pair.evaluator:export_checked", 0, True),
    WHOLE_EXPORT: ("orchestrator.run_dir.run_dir:RunDir.write", 1, True),
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, and its corpus beside it."""
    return train_base(tmp_path_factory.mktemp("teach"))


@pytest.fixture(scope="module")
def undisturbed(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of a teaching that nobody kills."""
    place = tmp_path_factory.mktemp("undisturbed")
    return digests(teach(trained, write_lessons(place), out=str(place / "taught")))


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_leaves_the_run_whole_and_no_half_result(
    moment: str, trained: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    target, survived, goes_on = MOMENTS[moment]
    run, lessons = trained, write_lessons(tmp_path)
    before, out = digest_of(run), tmp_path / "taught"
    arguments = [target, str(survived), str(run), lessons, str(out)]
    killed = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert digest_of(run) == before
    if moment != WHOLE_EXPORT:
        with pytest.raises(ConfigError, match=r"no finished export|neither a run"):
            find_export(str(out))
    assert not (out / "summary.json").exists()
    if goes_on:
        with pytest.raises(ConfigError, match=f"go on with: tandem resume {out} --in-process, or"):
            teach(run, lessons, out=str(out))
        run_in_process(load_config(str(out / "config.yaml")), resume=True)
    else:
        teach(run, lessons, out=str(out))
    assert digests(out) == undisturbed
    assert (out / "taught.json").exists()
    assert digest_of(run) == before
