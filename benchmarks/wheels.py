"""The built package, and environments to install it into. Used by `newcomer` and by tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("actors", "orchestrator", "jobs", "tandem")
FILES = ("pyproject.toml", "README.md", "LICENSE")
LOCK = ROOT / "requirements.lock"
BUILD_S = 240.0
HIDDEN = ("PYTHONPATH", "RAY_ADDRESS", "VIRTUAL_ENV")  # of an environment that sees no other code


def build_wheel(folder: Path) -> Path:
    """The wheel of this checkout, built into a folder from a copy of its sources: setuptools takes
    what an earlier build left beside them.
    """
    source, built = folder / "source", folder / "wheel"
    for name in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in FILES:
        shutil.copy(ROOT / name, source)
    build = ("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(built), str(source))
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *build]
    subprocess.run(command, check=True, capture_output=True, timeout=BUILD_S)
    (wheel,) = built.glob("*.whl")
    return wheel


def empty_environment(folder: Path, with_pip: bool = True) -> Path:
    """A new virtual environment; the folder of its commands."""
    venv.create(folder, symlinks=True, with_pip=with_pip)
    return folder / "bin"


def constraints(folder: Path, wheel: Path) -> Path:
    """A file for pip: this wheel's version, and those that the project is tested with, so that no
    machine without a GPU pulls gigabytes of CUDA.
    """
    name, version = wheel.name.split("-")[:2]  # not by its URL: pip takes no extras of that
    path = folder / "constraints.txt"
    path.write_text(f"{name.replace('_', '-')}=={version}\n{LOCK.read_text(encoding='utf-8')}")
    return path


def newcomers_variables(commands: Path, constraint: Path, wheel: Path) -> dict[str, str]:
    """Environment variables with which a shell sees that environment alone, and pip this wheel."""
    kept = {key: value for key, value in os.environ.items() if key not in HIDDEN}
    links = f"{wheel.parent} {kept.get('PIP_FIND_LINKS', '')}".strip()
    paths = {"PATH": f"{commands}{os.pathsep}{kept['PATH']}", "PIP_FIND_LINKS": links}
    return {**kept, **paths, "PIP_CONSTRAINT": str(constraint)}
