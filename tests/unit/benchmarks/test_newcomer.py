"""The newcomer's benchmark: which commands it takes from a page, and how it runs one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.newcomer import ROOT, SCREEN_LINES, first_screen, run_command
from benchmarks.wheels import LOCK, constraints, newcomers_variables

PAGE = """# A project

Words, and `tandem words` in a line.

    pip install a-project
    tandem quickstart          # trains something
    .venv/bin/tandem ask runs/x "a # b?" --tokens

    ━━━━ what it prints
    tandemly: not a program's name
    tandem · quickstart

```bash
$ python -m tandem status
```
"""


def test_commands_of_code_blocks_are_taken_word_for_word() -> None:
    assert first_screen(PAGE) == [
        "pip install a-project",
        "tandem quickstart          # trains something",
        '.venv/bin/tandem ask runs/x "a # b?" --tokens',
        "python -m tandem status",
    ]


def test_what_lies_below_the_first_screen_is_not_run() -> None:
    assert first_screen("\n" * SCREEN_LINES + PAGE) == []
    assert first_screen((ROOT / "README.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("command", "code"), [("echo one; pwd", 0), ("echo two; exit 3", 3)])
def test_a_command_runs_in_its_folder_and_a_failed_one_is_quoted(
    tmp_path: Path, command: str, code: int
) -> None:
    found = run_command(command, tmp_path, os.environ, 30)
    assert (found.command, found.exit_code) == (command, code)
    assert found.said == ("two" if code else "")


def test_a_command_that_does_not_end_is_ended(tmp_path: Path) -> None:
    found = run_command("sleep 30 & sleep 30", tmp_path, os.environ, 0.5)
    assert found.exit_code == -9
    assert found.seconds < 20


def test_a_service_is_stopped_once_it_says_where(tmp_path: Path) -> None:
    program = tmp_path / "tandem"
    program.write_text(
        "#!/usr/bin/env python3\n"
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored\n"
        "try:\n"
        "    print('serving at http://127.0.0.1:1/v1', flush=True)\n"
        "    while True:\n        time.sleep(0.05)\n"
        "except KeyboardInterrupt:\n    sys.exit(0)\n"
    )
    program.chmod(0o755)
    found = run_command(f"{tmp_path}/tandem serve runs/x", tmp_path, os.environ, 60)
    assert found.exit_code == 0
    assert found.seconds < 50


def test_pip_takes_the_wheel_and_the_versions_that_are_tested(tmp_path: Path) -> None:
    wheel = tmp_path / "dist" / "tandem_memory-0.1.0-py3-none-any.whl"
    path = constraints(tmp_path, wheel)
    first, *rest = path.read_text(encoding="utf-8").splitlines()
    assert first == "tandem-memory==0.1.0"
    assert rest == LOCK.read_text(encoding="utf-8").splitlines()
    env = newcomers_variables(tmp_path / "bin", path, wheel)
    assert env["PATH"].startswith(f"{tmp_path / 'bin'}:")
    assert env["PIP_FIND_LINKS"].split()[0] == str(wheel.parent)
    assert not {"PYTHONPATH", "RAY_ADDRESS", "VIRTUAL_ENV"} & env.keys()
