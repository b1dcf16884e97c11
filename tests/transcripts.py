"""Transcripts on the pages of docs/: what was typed and what was shown, for the tests that run
them.

An indented line that begins with `$ ` is a command, `> ` is what was typed to it, the rest is what
it showed. A line `…` stands for any lines. Numbers are those of some pair, and so is what it says:
a line after something that was typed and is no /command is any answer.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from jobs.cli import app

DOCS = Path(__file__).resolve().parents[1] / "docs"
COMMAND, TYPED, INDENT = "$ ", "> ", "    "
NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?")
BOX = re.compile(r"[━─┏┳┓┡╇┩├┼┤└┴┘]+")
BYTES = re.compile(r"# [kMG]?B\b")
SAID = re.compile(r"said before: .*; says now: .*")


@dataclass(frozen=True)
class Step:
    """One command: what was typed to it, and a pattern of what it showed."""

    command: str
    typed: tuple[str, ...]
    shown: str

    def run(self) -> str:
        """Runs it here; what it shows on standard output, as `plainly` has it.

        Raises: AssertionError: its exit code is not 0.
        """
        program, *arguments = shlex.split(self.command)
        if program != "tandem":
            done = subprocess.run(self.command, shell=True, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return plainly(done.stdout)
        typed = "".join(f"{line}\n" for line in self.typed)
        result = CliRunner(env={"COLUMNS": "100"}).invoke(app, arguments, input=typed)
        assert result.exit_code == 0, result.output
        return plainly(result.stdout.replace(f"{Path.cwd()}/", ""))


def plainly(text: str) -> str:
    """Without numbers, widths of tables, and what a pair said."""
    lines = (" ".join(BOX.sub("─", line).split()) for line in text.splitlines())
    named = (SAID.sub("said before: …; says now: …", line) for line in lines)
    return "".join(f"{BYTES.sub('# B', NUMBER.sub('#', line))}\n" for line in named if line)


def transcripts(page: str) -> list[list[Step]]:
    """The transcripts of a page, each with its commands."""
    found = []
    for block in _blocks((DOCS / page).read_text(encoding="utf-8")):
        if not block[0].startswith(COMMAND):
            continue
        steps: list[list[str]] = []
        for line in block:
            if line.startswith(COMMAND):
                steps.append([])
            steps[-1].append(line)
        found.append([_step(lines) for lines in steps])
    return found


def _blocks(page: str) -> Iterator[list[str]]:
    block: list[str] = []
    for line in [*page.splitlines(), ""]:
        if line.startswith(INDENT):
            block.append(line.removeprefix(INDENT))
        elif block:
            yield block
            block = []


def _step(lines: list[str]) -> Step:
    typed, pattern, is_answer = [], "", False
    for line in lines[1:]:
        if line.startswith(TYPED):
            typed.append(line.removeprefix(TYPED))
            is_answer = not typed[-1].startswith("/")
        elif is_answer or line.strip() == "…":
            pattern += "(?:.*\n)+?" if is_answer else "(?:.*\n)*?"
            is_answer = False
        else:
            pattern += re.escape(plainly(line))
    return Step(lines[0].removeprefix(COMMAND), tuple(typed), pattern)
