"""The command `tandem learn`: its arguments; `jobs.cli` adds it to the others."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from actors.settings.learn_plan import VALUE_LR_FRAC
from actors.wire import ConfigError
from jobs.exit_codes import exit_codes
from jobs.options import JsonOption, TemplatesOption
from orchestrator.console import Console


def learn(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN|MODEL", help="A run directory, or a model without a memory."),
    ],
    facts: Annotated[
        str | None, typer.Option("--facts", metavar="FILE", help="New facts, as JSON lines.")
    ] = None,
    text: Annotated[
        str | None,
        typer.Option("--text", metavar="CORPUS", help="New text: a file, folder, glob or URL."),
    ] = None,
    templates: TemplatesOption = None,
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="DIR", help="Directory of the result; default: RUN-learned."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Optimizer steps of the memory; default: 400, beside a model by the corpus."
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            help=f"Learning rate of the value table; default: {VALUE_LR_FRAC:g} of the run's."
        ),
    ] = None,
    old_data: Annotated[
        float | None,
        typer.Option(
            min=0, max=0.99, help="Share of the run's own data in each batch; default: 0.25."
        ),
    ] = None,
    old_from: Annotated[
        Literal["memory", "corpus"] | None,
        typer.Option(help="Where old data comes from; default: a memory that can write."),
    ] = None,
    port: Annotated[
        bool | None,
        typer.Option(
            "--port/--no-port",
            help="Train the memory port too, so that the pair says what the memory learned; "
            "default: beside a model that stays as it is.",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed; default: the run's.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Trains a finished run's memory on new facts or text, or makes one for a MODEL that has none.

    The model keeps every bit, RUN stays unchanged; the port may learn after the memory (--port).

    MODEL is a folder, or a name on the Hugging Face hub.
    """
    from jobs.learn.first_memory import FirstOptions, is_model, learn_model, refuse_neither
    from jobs.learn.learn import OLD_FRAC, LearnOptions, run_learn

    with exit_codes():
        if is_model(run):
            given = {"--lr": lr, "--old-data": old_data, "--old-from": old_from}
            given |= {"--port": port}
            if wrong := [name for name, value in given.items() if value is not None]:
                raise ConfigError(
                    f"{', '.join(wrong)}: for runs only; {run} is a model without a memory, whose "
                    "rates follow its size (`tandem init --model` writes a config to change)"
                )
            first = FirstOptions(facts, text, templates, out, steps, seed)
            learn_model(run, first, Console(), as_json)
            return
        refuse_neither(run)
        share = OLD_FRAC if old_data is None else old_data
        options = LearnOptions(
            facts,
            text,
            templates,
            out,
            steps,
            lr,
            share,
            seed,
            old_from,
            port,
        )
        run_learn(run, options, Console(), as_json)
