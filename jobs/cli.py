"""The `tandem` command: parses arguments, calls one job, exits with its code; nothing else."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated, Any

import typer
import typer.core

from actors.wire import ConfigError
from jobs.chat.command import chat
from jobs.exit_codes import FAILED, UNREFLECTED, exit_codes
from jobs.harness.command import PASSED_ON, lm_eval
from jobs.learn.command import learn
from jobs.options import (
    InProcessOption,
    InsecureOption,
    JsonOption,
    NoWaitOption,
    Overrides,
    RunArgument,
    TemplatesOption,
    VerboseOption,
)
from jobs.serve.command import serve
from jobs.submit.command import logs, submit
from jobs.teach.command import teach
from jobs.teach.propose_command import propose
from jobs.tell.commands import tell, told, untell
from orchestrator.console import Console, replace_unencodable

DISTRIBUTION = "tandem-memory"


class Commands(typer.core.TyperGroup):
    """The commands of `tandem`."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Runs a command; what it prints, and what is said of a mistyped one, can be encoded."""
        replace_unencodable()
        return super().main(*args, **options)


app = typer.Typer(
    name="tandem",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train a language model and its memory side by side, each on its own GPUs, in step with "
    "each other.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        Console(ends_with_reader=True).say(f"tandem {version(DISTRIBUTION)}")
        raise typer.Exit


@app.callback()
def main(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Makes typer expect a command, `tandem COMMAND`."""


@app.command()
def quickstart(
    overrides: Overrides = None,
    in_process: InProcessOption = False,
) -> None:
    """Trains the small pair that comes with the package, on the facts that it carries."""
    from jobs.quickstart import run_quickstart

    with exit_codes():
        if not run_quickstart(overrides or [], Console(), in_process):
            raise typer.Exit(UNREFLECTED)


@app.command()
def train(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file of the run.")],
    overrides: Overrides = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the run of that name from its newest checkpoint."),
    ] = False,
    profile: Annotated[
        str,
        typer.Option(metavar="INTERVALS", help="Write traces of these intervals, e.g. 3 or 3-5."),
    ] = "",
    in_process: InProcessOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Trains both layers, each in processes of its own, and writes a run directory."""
    from jobs.train import run_training

    with exit_codes():
        given = [*(overrides or []), *([f"profile='{profile}'"] if profile else [])]
        if not run_training(config, given, Console(), verbose, resume, in_process):
            raise typer.Exit(UNREFLECTED)


@app.command()
def tune(
    search: Annotated[str, typer.Argument(metavar="SEARCH", help="YAML file of the search.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Values of the search, e.g. trials=8."),
    ] = None,
) -> None:
    """Searches for the best loss weights, or any other settings; run again, it continues."""
    from jobs.tune.tune import run_search

    with exit_codes():
        if not run_search(search, overrides or [], Console()):
            raise typer.Exit(FAILED)


@app.command()
def init(
    path: Annotated[str, typer.Argument(metavar="PATH", help="File to write.")] = "tandem.yaml",
    kind: Annotated[str, typer.Option("--kind", help="Kind of corpus: text or facts.")] = "text",
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="FOLDER|NAME",
            help="A memory for this model: a short config that leaves the model as it is.",
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Rarely changed fields too.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Writes a config file with its fields explained."""
    from jobs.init import run_init

    with exit_codes():
        run_init(path, kind, everything, force, Console(), model)


@app.command()
def check(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file of the run.")],
    overrides: Overrides = None,
    as_json: JsonOption = False,
) -> None:
    """Validates a config and says what its run would need, before anything starts."""
    from jobs.check.check import run_check

    with exit_codes():
        run_check(config, overrides or [], Console(ends_with_reader=True), as_json)


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Run directories.")],
    as_json: JsonOption = False,
) -> None:
    """Shows runs side by side, and where their configs differ."""
    from jobs.compare import run_compare

    with exit_codes():
        run_compare(runs, Console(ends_with_reader=True), as_json)


@app.command()
def evaluate(
    run: RunArgument,
    learn: Annotated[
        str | None,
        typer.Option(
            "--learn", metavar="CORPUS", help="Compare learning it with and without memory."
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="With --learn: steps of each copy; default: 200.")
    ] = None,
    templates: TemplatesOption = None,
    text: Annotated[
        str | None,
        typer.Option("--text", metavar="FILE", help="What this text costs the three voices."),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            "--tasks", metavar="NAME,…", help="Tasks of lm-eval, or YAML files: three voices."
        ),
    ] = None,
    include: Annotated[
        str | None,
        typer.Option("--include", metavar="DIR", help="With --tasks: a folder with more tasks."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="With --tasks: most questions of each.")
    ] = None,
    fewshot: Annotated[
        int | None, typer.Option(min=0, help="With --tasks: examples before each question.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="With --tasks: questions at a time; default: 8.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="MODEL", help="With --tasks: a plain model beside them."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Computes held-out figures again; or what a text or tasks give; or compares learning.

    What is compared: learning CORPUS with memory and without (--learn).
    """
    with exit_codes():
        kinds = {"--learn": learn, "--text": text, "--tasks": tasks}
        if len(given := [name for name, value in kinds.items() if value is not None]) > 1:
            raise ConfigError(f"{' and '.join(given)} are evaluations of their own; give one")
        of_tasks = (include, limit, fewshot, batch_size, base)
        if tasks is None and any(value is not None for value in of_tasks):
            raise ConfigError(
                "--include, --limit, --fewshot, --batch-size and --base need --tasks NAME; give it"
            )
        if text is not None:
            from jobs.evaluate.text import run_text_evaluation

            run_text_evaluation(run, text, Console(ends_with_reader=True), as_json)
            return
        if tasks is not None:
            from jobs.evaluate.tasks import run_task_evaluation
            from jobs.harness.options import TaskOptions

            names = tuple(name.strip() for name in tasks.split(",") if name.strip())
            options = TaskOptions(names, include, limit, fewshot, batch_size or 8, base)
            run_task_evaluation(run, options, Console(ends_with_reader=True), as_json)
            return
        if learn is not None:
            from jobs.learn.forks import run_forks

            run_forks(run, learn, templates, steps or 200, Console(), as_json)
            return
        if steps is not None or templates is not None:
            raise ConfigError("--steps and --templates need --learn CORPUS; give it too")
        from jobs.evaluate.run import run_evaluation

        run_evaluation(run, Console(ends_with_reader=True), as_json)


app.command()(learn)


app.command()(teach)


@app.command()
def ask(
    run: RunArgument,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The beginning of a sentence.")],
    tokens: Annotated[bool, typer.Option("--tokens", help="Show each token, with λ.")] = False,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 24,
) -> None:
    """Shows the answers of the data layer alone, of both together and of the memory alone."""
    from jobs.ask import run_ask

    with exit_codes():
        run_ask(run, prompt, Console(ends_with_reader=True), tokens, max_tokens)


@app.command()
def status(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run directory.")] = "",
    storage: Annotated[
        str, typer.Option(help="Without RUN: list the runs under this folder or URL.")
    ] = "runs",
    address: Annotated[
        str,
        typer.Option(help="Without RUN: list the jobs of the cluster with this dashboard, too."),
    ] = "",
    watch: Annotated[bool, typer.Option("--watch", help="Show it until the run ends.")] = False,
    as_json: JsonOption = False,
    insecure: InsecureOption = False,
) -> None:
    """Shows what a run is doing, read from its directory; without RUN, which runs exist."""
    from jobs.status import run_list, run_status

    with exit_codes():
        if run:
            run_status(run, Console(ends_with_reader=True), as_json, watch)
        else:
            reader = Console(ends_with_reader=True)
            run_list(storage, address or None, reader, as_json, insecure)


@app.command()
def stop(run: RunArgument, no_wait: NoWaitOption = False) -> None:
    """Stops a running run after a checkpoint of both groups."""
    from jobs.control import run_stop

    with exit_codes():
        run_stop(run, Console(), no_wait)


@app.command()
def checkpoint(run: RunArgument, no_wait: NoWaitOption = False) -> None:
    """Has a running run write a checkpoint now."""
    from jobs.control import run_checkpoint

    with exit_codes():
        run_checkpoint(run, Console(), no_wait)


@app.command()
def resume(
    run: RunArgument,
    overrides: Overrides = None,
    in_process: InProcessOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Continues a run that was stopped or broke off, from its newest checkpoint."""
    from jobs.control import run_resume

    with exit_codes():
        if not run_resume(run, overrides or [], Console(), verbose, in_process):
            raise typer.Exit(UNREFLECTED)


@app.command()
def scale(
    run: RunArgument,
    data_workers: Annotated[
        int | None, typer.Option(min=1, help="New number of workers of the data group.")
    ] = None,
    memory_workers: Annotated[
        int | None, typer.Option(min=1, help="New number of workers of the memory group.")
    ] = None,
    wait_s: Annotated[
        float,
        typer.Option("--wait-s", min=0, max=86400, help="Seconds to wait for their resources."),
    ] = 60.0,
    no_wait: NoWaitOption = False,
) -> None:
    """Changes the number of workers of a group while the run, and the other group, go on."""
    from jobs.control import run_scale

    with exit_codes():
        run_scale(run, data_workers, memory_workers, wait_s, Console(), no_wait)


app.command("lm-eval", context_settings=PASSED_ON)(lm_eval)


for command in (chat, tell, told, untell, serve, propose, submit, logs):
    app.command()(command)


if __name__ == "__main__":
    app()
