"""The command `tandem propose`: its arguments; `jobs.cli` adds it to the others."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.exit_codes import exit_codes
from jobs.options import JsonOption, RunArgument
from orchestrator.console import Console


def propose(
    run: RunArgument,
    given: Annotated[
        str,
        typer.Argument(
            metavar="PROMPT|FILE",
            help="The beginning of a sentence; or a file with one a line, or JSON lines of prompt "
            "and subject.",
        ),
    ],
    num: Annotated[int, typer.Option("-k", min=2, max=64, help="Answers to choose from.")] = 8,
    written: Annotated[
        int, typer.Option(min=0, help="Documents that the memory writes to find wordings in.")
    ] = 6000,
    seed: Annotated[int | None, typer.Option(min=0, help="Of these; default: the run's.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Proposes answers by the memory, for a person to choose from and `teach` to teach."""
    from jobs.teach.propose import run_propose

    with exit_codes():
        run_propose(run, given, num, Console(ends_with_reader=True), as_json, written, seed)
