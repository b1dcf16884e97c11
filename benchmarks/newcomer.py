"""What a newcomer meets: README's first screen, word for word, in an empty environment.

The package is built, and the commands that README shows first are run one after the other in an
empty folder, with a new environment that holds nothing but pip. `pip install tandem-memory` takes
the wheel that was just built, everything else comes from the index, in the versions of
requirements.lock. A command that serves until it is stopped is stopped once it says where. Exit
code 1 if one failed.

    python -m benchmarks.newcomer --json
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.wheels import (
    ROOT,
    build_wheel,
    constraints,
    empty_environment,
    newcomers_variables,
)

SCREEN_LINES = 50  # of README: what a page shows without scrolling
PROGRAMS = ("pip", "python", "tandem", "echo", "git", "cd", "docker")  # make is for a checkout
DRAWN = re.compile(r"\S+ +[^\w./~\"'$-]")  # a line of what a command prints: tandem · quickstart
SERVES = "tandem serve"
SAYS_WHERE = re.compile(rb"https?://\S+")
SHOWN_LINES = 12  # of what a failed command said
LIMIT_S = 3600.0
POLL_S = 0.2


@dataclass(frozen=True)
class Command:
    """A command of README, and how it went.

    Attributes:
        command: word for word.
        seconds: wall time.
        exit_code: of the shell; 0 for a service that was stopped and ended by itself.
        said: the last lines of a failed one.
    """

    command: str
    seconds: float
    exit_code: int
    said: str = ""


def first_screen(readme: str) -> list[str]:
    """The commands in the code blocks of README's first screen; bash passes over comments."""
    found, fenced = [], False
    for line in readme.splitlines()[:SCREEN_LINES]:
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            command = line.strip().removeprefix("$ ")
            program = command.partition(" ")[0].rpartition("/")[2]
            if program in PROGRAMS and not DRAWN.match(command):
                found.append(command)
    return found


def run_command(command: str, folder: Path, env: Mapping[str, str], limit_s: float) -> Command:
    """Runs it in a shell, in that folder, without input."""
    began = time.monotonic()
    with tempfile.TemporaryFile() as out:
        started = subprocess.Popen(
            ["bash", "-c", f"exec {command}" if SERVES in command else command],
            cwd=folder,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while started.poll() is None and time.monotonic() - began < limit_s:
                if SERVES in command and SAYS_WHERE.search(_content(out)):
                    started.send_signal(signal.SIGINT)
                    started.wait(limit_s)
                time.sleep(POLL_S)
        finally:
            if started.poll() is None:
                os.killpg(started.pid, signal.SIGKILL)
        code = started.wait()
        said = _content(out).decode(errors="replace").splitlines()[-SHOWN_LINES:]
    seconds = round(time.monotonic() - began, 1)
    return Command(command, seconds, code, "\n".join(said) if code else "")


def _content(file: object) -> bytes:
    number = file.fileno()  # type: ignore[attr-defined]
    return os.pread(number, os.fstat(number).st_size, 0)


def newcomer(folder: Path, commands: Sequence[str], limit_s: float = LIMIT_S) -> list[Command]:
    """Runs the commands in an empty environment and an empty folder below `folder`."""
    wheel = build_wheel(folder)
    place = folder / "empty"
    place.mkdir()
    programs = empty_environment(folder / "environment")
    env = newcomers_variables(programs, constraints(folder, wheel), wheel)
    found = []
    for command in commands:
        found.append(run_command(command, place, env, limit_s))
        one = found[-1]
        print(f"{one.exit_code:3d}  {one.seconds:7.1f} s  {command}", file=sys.stderr, flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="of one command")
    parser.add_argument("--folder", type=Path, default=None, help="to work in; kept afterwards")
    arguments = parser.parse_args()
    commands = first_screen(arguments.readme.read_text(encoding="utf-8"))
    if not commands:
        parser.error(f"{arguments.readme}: no command in its first {SCREEN_LINES} lines")
    if arguments.folder is None:
        with tempfile.TemporaryDirectory(prefix="tandem-newcomer-") as folder:
            found = newcomer(Path(folder), commands, arguments.limit_s)
    else:
        arguments.folder.mkdir(parents=True)
        found = newcomer(arguments.folder.resolve(), commands, arguments.limit_s)
    failures = sum(command.exit_code != 0 for command in found)
    result = {
        "commands": [asdict(command) for command in found],
        "minutes": round(sum(command.seconds for command in found) / 60, 2),
        "failures": failures,
    }
    if arguments.json:
        print(json.dumps(result, ensure_ascii=False, indent=2))
    else:
        for command in found:
            print(f"{command.command}: exit {command.exit_code} after {command.seconds} s")
            print(command.said, end="\n" if command.said else "")
        print(f"{result['minutes']} minutes, {failures} failures")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
