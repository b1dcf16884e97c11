"""What a newcomer meets first: `import tandem`, `python -m tandem`, its version and completion."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

import jobs.api
import tandem
from jobs.cli import app
from tests.unit.test_house import imported

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def said(*command: str, **env: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=ROOT, env={**os.environ, **env}
    )
    return done.stdout


def test_the_front_door_gives_what_the_api_gives() -> None:
    assert set(tandem.__all__) == {*jobs.api.__all__, "__version__"}
    assert {name: getattr(tandem, name) for name in jobs.api.__all__} == {
        name: getattr(jobs.api, name) for name in jobs.api.__all__
    }
    assert set(dir(tandem)) == set(tandem.__all__)


def test_it_gives_nothing_else() -> None:
    with pytest.raises(AttributeError, match=r"module 'tandem' has no attribute 'lode'"):
        _ = tandem.lode
    used = {name for path in (ROOT / "tandem").glob("*.py") for name in imported(path)}
    ours = {name for name in used if name.partition(".")[0] in ("actors", "orchestrator", "jobs")}
    assert {".".join(name.split(".")[:2]) for name in ours} == {"jobs.api", "jobs.cli"}


def test_importing_it_loads_no_torch() -> None:
    script = "import sys, tandem; tandem.__version__; print('torch' in sys.modules)"
    assert said(sys.executable, "-c", script) == "False\n"


@pytest.mark.parametrize("command", [("-m", "tandem"), ("-m", "jobs.cli")])
def test_the_command_says_its_version(command: tuple[str, ...]) -> None:
    assert said(sys.executable, *command, "--version") == f"tandem {PROJECT['version']}\n"
    assert tandem.__version__ == PROJECT["version"]


def test_the_version_needs_no_command_and_help_names_it() -> None:
    shown = CliRunner().invoke(app, ["--help"])
    assert "--version" in shown.output
    assert CliRunner().invoke(app, ["--version"]).exit_code == 0


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("unt", "untell"), ("quickst", "quickstart"), ("train --in-pro", "--in-process")],
)
def test_bash_completes_what_was_typed(typed: str, offered: str) -> None:
    command = f"tandem {typed}"
    place = str(len(command.split()) - 1)
    env = {"_TANDEM_COMPLETE": "complete_bash", "COMP_WORDS": command, "COMP_CWORD": place}
    assert said(sys.executable, "-m", "tandem", **env).split() == [offered]


def test_completion_is_shown_for_the_shell_that_asks() -> None:
    ask = f"{sys.executable} -m tandem --show-completion; true"
    assert "_TANDEM_COMPLETE=complete_bash" in said("bash", "-c", ask)


def test_every_package_says_that_it_is_typed() -> None:
    for package in ("actors", "orchestrator", "jobs", "tandem"):
        assert (ROOT / package / "py.typed").is_file()
