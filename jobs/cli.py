"""The `tandem` command. Parses, calls one job, turns errors into messages and exit codes; decides
nothing else.

Exit codes: 0 done; 1 the run failed; 2 the input was wrong; 3 done, but the memory does not reflect
the final data layer; 130 interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console

from actors.wire import ConfigError, TandemError

FAILED, BAD_INPUT, UNREFLECTED, INTERRUPTED = 1, 2, 3, 130

app = typer.Typer(
    name="tandem",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train a language model and its memory side by side, each on its own GPUs, each in step "
    "with the other.",
)
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Config values, e.g. seed=1 data.optimizer.lr=1e-3."
    ),
]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A run directory, e.g. runs/quickstart.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.callback()
def main() -> None:
    """Keeps `tandem COMMAND` a command group."""


@app.command()
def train(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file.")],
    overrides: Overrides = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the run of that name from its newest checkpoint."
        ),
    ] = False,
    profile: Annotated[
        str, typer.Option(metavar="INTERVALS", help="Trace these intervals, e.g. 3 or 3-5.")
    ] = "",
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show Ray's own messages too.")
    ] = False,
) -> None:
    """Trains both layers, decoupled, and leaves a run directory behind."""
    from jobs.train import run_training

    with _exit_codes():
        given = [*(overrides or []), *([f"profile='{profile}'"] if profile else [])]
        if not run_training(config, given, Console(), verbose, resume):
            raise typer.Exit(UNREFLECTED)


@app.command()
def tune(
    search: Annotated[str, typer.Argument(metavar="SEARCH", help="YAML file of the search.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="The search's own values, e.g. trials=8."),
    ] = None,
) -> None:
    """Searches the weights of the losses, or any other settings; run again it goes on."""
    from jobs.tune import run_search

    with _exit_codes():
        if not run_search(search, overrides or [], Console()):
            raise typer.Exit(FAILED)


@app.command()
def init(
    path: Annotated[str, typer.Argument(metavar="[PATH]", help="The file.")] = "tandem.yaml",
    kind: Annotated[str, typer.Option("--kind", help="Of corpus: text or facts.")] = "text",
    everything: Annotated[bool, typer.Option("--all", help="Rarely turned fields too.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
) -> None:
    """Writes a config file with its fields explained."""
    from jobs.init import run_init

    with _exit_codes():
        run_init(path, kind, everything, force, Console())


@app.command()
def check(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file.")],
    overrides: Overrides = None,
    as_json: JsonOption = False,
) -> None:
    """Validates a config and says what its run would take, before anything starts."""
    from jobs.check import run_check

    with _exit_codes():
        run_check(config, overrides or [], Console(), as_json)


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN...", help="Run directories.")],
    as_json: JsonOption = False,
) -> None:
    """Shows runs side by side, and what differs in their configs."""
    from jobs.compare import run_compare

    with _exit_codes():
        run_compare(runs, Console(), as_json)


@app.command()
def evaluate(
    run: RunArgument,
    as_json: JsonOption = False,
) -> None:
    """Recomputes a run's held-out figures from its exports."""
    from jobs.evaluate import run_evaluation

    with _exit_codes():
        run_evaluation(run, Console(), as_json)


@app.command()
def ask(
    run: RunArgument,
    prompt: Annotated[str, typer.Argument(help="The beginning of a sentence.")],
    tokens: Annotated[bool, typer.Option("--tokens", help="Token by token, with λ.")] = False,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 24,
) -> None:
    """Shows what the data layer alone, both together and the memory alone answer."""
    from jobs.ask import run_ask

    with _exit_codes():
        run_ask(run, prompt, Console(), tokens, max_tokens)


@contextmanager
def _exit_codes() -> Iterator[None]:
    from orchestrator.errors import InterruptedRunError

    errors = Console(stderr=True)
    try:
        yield
    except ConfigError as err:
        errors.print(f"error: {err}", style="red", highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(BAD_INPUT) from err
    except InterruptedRunError as err:
        errors.print(f"{err}", style="yellow", highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from err
    except TandemError as err:
        errors.print(
            f"the run failed: {err}", style="red", highlight=False, markup=False, soft_wrap=True
        )
        raise typer.Exit(FAILED) from err
    except KeyboardInterrupt as err:
        raise typer.Exit(INTERRUPTED) from err


if __name__ == "__main__":
    app()
