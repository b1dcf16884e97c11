"""Arguments of `tandem tell`, `told` and `untell`; nothing else."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.exit_codes import exit_codes
from jobs.options import JsonOption, NoWaitOption, RunArgument, TemplatesOption
from orchestrator.console import Console


def tell(
    run: RunArgument,
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="What stands before the answer.")
    ] = None,
    answer: Annotated[
        str | None, typer.Argument(metavar="ANSWER", help="What is to follow it.")
    ] = None,
    facts: Annotated[
        str | None,
        typer.Option(
            "--facts", metavar="FILE", help="Many: JSON lines of facts, or of prompts and answers."
        ),
    ] = None,
    templates: TemplatesOption = None,
    say: Annotated[
        list[str] | None,
        typer.Option(
            "--say", metavar="WORDING", help="Another prompt of the answer; {} is its place."
        ),
    ] = None,
    subject: Annotated[
        str,
        typer.Option(
            "--subject",
            metavar="WORDS",
            help="What it is about, in the prompt's words; default: the names in it.",
        ),
    ] = "",
    id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Name of it; default: the next free.")
    ] = None,
    as_json: JsonOption = False,
    no_wait: NoWaitOption = False,
) -> None:
    """Tells a run's pair something at once; no weight is trained, and it can be taken back."""
    from jobs.tell.associations import Given
    from jobs.tell.tell import run_tell

    with exit_codes():
        given = Given(prompt, answer, facts, templates, tuple(say or ()), subject)
        run_tell(run, given, id, Console(), as_json, no_wait)


def told(run: RunArgument, as_json: JsonOption = False) -> None:
    """Lists what a run's pair was told."""
    from jobs.tell.tell import run_told

    with exit_codes():
        run_told(run, Console(ends_with_reader=True), as_json)


def untell(
    run: RunArgument,
    id: Annotated[str, typer.Argument(metavar="ID", help="As `tandem told` lists it.")],
    off: Annotated[bool, typer.Option("--off", help="Keep it, but switched off.")] = False,
    on: Annotated[bool, typer.Option("--on", help="Switch it on again.")] = False,
    as_json: JsonOption = False,
    no_wait: NoWaitOption = False,
) -> None:
    """Takes back what a run's pair was told, or switches it off and on again."""
    from jobs.tell.tell import run_untell

    with exit_codes():
        run_untell(run, id, off, on, Console(), as_json, no_wait)
