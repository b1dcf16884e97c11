"""The built package: a wheel that holds every room and all data files, and trains by itself.

It is installed into an environment of its own that sees the dependencies of this one, but not this
checkout, so that a file that is missing from the wheel is missed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.wheels import HIDDEN, PACKAGES, ROOT, build_wheel, empty_environment

PATIENCE_S = 240.0
# One interval of the quickstart, as short as it can be.
SHORT = ("intervals=1", "data.steps_per_interval=1", "memory.steps_per_interval=1",
         "memory.layer.slots_side=32", "exchange.catchup_intervals=1", "evaluation.every=0",
         "evaluation.final_windows=4", "evaluation.final_probes=4")  # fmt: skip


@dataclass(frozen=True)
class Installed:
    """The wheel, and the environment that it was installed into."""

    wheel: Path
    environment: Path

    def run(self, *command: str, cwd: Path) -> str:
        """Standard output of a command of the environment, which sees no other code of ours."""
        env = {key: value for key, value in os.environ.items() if key not in HIDDEN}
        done = subprocess.run(
            [str(self.environment / "bin" / command[0]), *command[1:]],
            cwd=cwd,
            env=env,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert done.returncode in (0, 3), done.stdout + done.stderr  # 3: trained, not caught up
        return done.stdout


@pytest.fixture(scope="module")
def installed(own_tmp: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    wheel = build_wheel(tmp_path_factory.mktemp("built"))
    environment = tmp_path_factory.mktemp("environment")
    python = empty_environment(environment, with_pip=False) / "python"
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    install = ("--python", str(python), "install", "--no-deps", "--no-index", str(wheel))
    subprocess.run([*pip, *install], check=True, capture_output=True, timeout=PATIENCE_S)
    # Only now the dependencies: a path line adds a folder and does not process the .pth files in
    # it, by which an editable install would lead back to this checkout.
    (packages,) = environment.glob("lib/python*/site-packages")
    folders = [p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]
    (packages / "dependencies.pth").write_text("\n".join(folders) + "\n")
    return Installed(wheel, environment)


def test_the_wheel_holds_every_room_and_all_data_files(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as wheel:
        held = {name for name in wheel.namelist() if not name.split("/")[0].endswith(".dist-info")}
    ours = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"actors/training/trainer.py", "jobs/configs/quickstart.yaml",
            "jobs/corpora/world/facts.jsonl"} <= ours  # fmt: skip
    assert held == ours


@pytest.mark.parametrize(
    "how",
    [
        ["--in-process"],
        # starts its own Ray, whose workers find the package where it is installed, too
        pytest.param([], marks=[pytest.mark.ray, pytest.mark.long]),
    ],
)
def test_the_installed_package_trains_from_an_empty_folder(
    installed: Installed, tmp_path: Path, how: list[str]
) -> None:
    where = "import actors, jobs, orchestrator; print(jobs.__path__[0], actors.__path__[0])"
    folders = installed.run("python", "-c", where, cwd=tmp_path).split()
    assert all(Path(folder).is_relative_to(installed.environment) for folder in folders)

    said = installed.run("tandem", "quickstart", "name=wheel", *SHORT, *how, cwd=tmp_path)
    assert 'try: tandem ask runs/wheel "The capital of France is"' in said
    summary = json.loads((tmp_path / "runs" / "wheel" / "summary.json").read_text())
    assert summary["status"] in ("finished", "finished_unreflected")
    assert summary["num_probes"] == 4
    load = "from tandem import load; print(type(load('runs/wheel')).__name__)"
    assert installed.run("python", "-c", load, cwd=tmp_path).split() == ["TandemModel"]


def test_the_installed_command_says_its_version(installed: Installed, tmp_path: Path) -> None:
    version = installed.wheel.name.split("-")[1]
    assert installed.run("tandem", "--version", cwd=tmp_path) == f"tandem {version}\n"
    assert installed.run("python", "-m", "tandem", "--version", cwd=tmp_path) == (
        f"tandem {version}\n"
    )
