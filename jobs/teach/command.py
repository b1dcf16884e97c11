"""The command line of `tandem teach`: its options, as `jobs.cli` shows them."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from actors.wire import ConfigError
from jobs.exit_codes import UNREFLECTED, exit_codes
from jobs.options import JsonOption, NoWaitOption, RunArgument, TemplatesOption
from orchestrator.console import Console


def teach(
    run: RunArgument,
    lessons: Annotated[
        str | None, typer.Option("--lessons", metavar="FILE", help="Lessons, as JSON lines.")
    ] = None,
    told: Annotated[
        bool, typer.Option("--told", help="What the memory was told: the given IDs, or all.")
    ] = False,
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="With --told: named writes.")
    ] = None,
    from_memory: Annotated[
        bool,
        typer.Option("--from-memory", help="What the memory knows and the data layer does not."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be taught, and train nothing.")
    ] = False,
    templates: TemplatesOption = None,
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="DIR", help="Directory of the result; default: RUN-taught."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimizer steps; default: by the number of lessons.")
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate of the data layer; default: half the run's.")
    ] = None,
    rehearse: Annotated[
        float | None, typer.Option(min=0, help="Weight of what keeps the old; default: 3.")
    ] = None,
    written: Annotated[
        int, typer.Option(min=100, help="Documents that the memory writes to rehearse.")
    ] = 6000,
    wordings: Annotated[
        Literal["memory", "given"],
        typer.Option(help="Teach in the memory's wordings too, or only in those given."),
    ] = "memory",
    train: Annotated[
        Literal["all", "lora"] | None,
        typer.Option(help="What of the data layer moves; default: what the run trained."),
    ] = None,
    tell_first: Annotated[
        bool,
        typer.Option(
            "--tell/--no-tell", help="Tell the memory; else it follows by gradient steps alone."
        ),
    ] = True,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed; default: the run's.")] = None,
    ray: Annotated[
        bool, typer.Option("--ray", help="Train in processes on Ray, with the run's workers.")
    ] = False,
    as_json: JsonOption = False,
    no_wait: NoWaitOption = False,
) -> None:
    """Has a run's data layer learn lessons, without its corpus.

    RUN stays unchanged. A running run learns them from its next interval on, beside its corpus.
    """
    from jobs.teach.options import TeachOptions
    from jobs.teach.teach import run_teach

    with exit_codes():
        if ids and not told:
            raise ConfigError(f"{ids[0]}: names of writes need --told; give it too")
        options = TeachOptions(
            lessons=lessons,
            told=tuple(ids or ()) if told else None,
            from_memory=from_memory,
            dry_run=dry_run,
            templates=templates,
            out=out,
            steps=steps,
            lr=lr,
            seed=seed,
            written=written,
            rehearse=rehearse,
            reword=wordings == "memory",
            train=train,
            tell=tell_first,
            ray=ray,
            no_wait=no_wait,
        )
        if not run_teach(run, options, Console(), as_json):
            raise typer.Exit(UNREFLECTED)
