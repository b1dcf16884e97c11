"""Arguments of `tandem chat`; nothing else."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.exit_codes import exit_codes
from jobs.options import RunArgument
from orchestrator.console import Console


def chat(
    run: RunArgument,
    voice: Annotated[
        str, typer.Option("--voice", help="Who speaks at first: help, own or memory.")
    ] = "help",
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, help="Most tokens of an answer.")
    ] = 256,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0, max=2, help="0 is greedy.")
    ] = 0.0,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Of what is drawn.")] = None,
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT", help="What is said before all turns.")
    ] = None,
    shares: Annotated[
        bool, typer.Option("--lambda", help="Show the memory's share of each answer.")
    ] = False,
) -> None:
    """Talks with a finished run's pair; /help lists what it can be asked to do."""
    from jobs.chat.chat import ChatOptions, run_chat

    with exit_codes():
        options = ChatOptions(voice, max_tokens, temperature, seed, system, shares)
        run_chat(run, options, Console())
