"""Arguments of `tandem serve`; nothing else."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.exit_codes import exit_codes
from jobs.options import InsecureOption, JsonOption, RunArgument, VerboseOption
from orchestrator.console import Console


def serve(
    run: RunArgument,
    host: Annotated[str, typer.Option("--host", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Its port.")] = 8000,
    replicas: Annotated[
        int, typer.Option("--replicas", min=1, max=64, help="Processes that hold the pair.")
    ] = 1,
    cpus: Annotated[int, typer.Option("--cpus", min=1, help="CPUs of each.")] = 1,
    token_file: Annotated[
        str | None,
        typer.Option("--token-file", metavar="FILE", help="Its first line is the token."),
    ] = None,
    no_token: Annotated[
        bool, typer.Option("--no-token", help="Serve whoever reaches the port.")
    ] = False,
    insecure: InsecureOption = False,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Serves a finished run's pair over HTTP, as OpenAI's completions; it can be told."""
    from jobs.serve.serve import ServeOptions, run_serve
    from orchestrator.stop_signals import stop_signals

    with exit_codes(), stop_signals() as flag:
        options = ServeOptions(host, port, replicas, cpus, token_file, no_token, insecure, verbose)
        run_serve(run, options, Console(), as_json, flag)
