"""The `tandem` command. Parses, calls one job, leaves with its exit code; decides nothing else."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer
import typer.core

from actors.settings.learn_plan import ROWS_LR, VALUE_LR_FRAC
from actors.wire import ConfigError
from jobs.exit_codes import FAILED, UNREFLECTED, exit_codes
from orchestrator.console import Console, replace_unencodable


class Commands(typer.core.TyperGroup):
    """The commands of `tandem`."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Runs one; what it prints, and what is said of a mistyped one, can always be encoded."""
        replace_unencodable()
        return super().main(*args, **options)


app = typer.Typer(
    name="tandem",
    cls=Commands,
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
AddressOption = Annotated[
    str,
    typer.Option("--address", metavar="URL", help="Of the cluster's dashboard.", show_default=True),
]
InsecureOption = Annotated[
    bool,
    typer.Option("--insecure", help="Also without a token or over plain HTTP to another machine."),
]
LOCAL_DASHBOARD = "http://127.0.0.1:8265"
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Show Ray's own messages too.")]
TemplatesOption = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Wordings of new facts, as JSON; default: the run's."),
]
NoWaitOption = Annotated[
    bool, typer.Option("--no-wait", help="Return when the run has accepted it.")
]


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
    in_process: Annotated[
        bool,
        typer.Option(
            "--in-process", help="In this process, without Ray: for a breakpoint; the same bits."
        ),
    ] = False,
    verbose: VerboseOption = False,
) -> None:
    """Trains both layers, decoupled, and leaves a run directory behind."""
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
        typer.Argument(metavar="[KEY=VALUE]...", help="The search's own values, e.g. trials=8."),
    ] = None,
) -> None:
    """Searches the weights of the losses, or any other settings; run again it goes on."""
    from jobs.tune.tune import run_search

    with exit_codes():
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

    with exit_codes():
        run_init(path, kind, everything, force, Console())


@app.command()
def check(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file.")],
    overrides: Overrides = None,
    as_json: JsonOption = False,
) -> None:
    """Validates a config and says what its run would take, before anything starts."""
    from jobs.check.check import run_check

    with exit_codes():
        run_check(config, overrides or [], Console(ends_with_reader=True), as_json)


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN...", help="Run directories.")],
    as_json: JsonOption = False,
) -> None:
    """Shows runs side by side, and what differs in their configs."""
    from jobs.compare import run_compare

    with exit_codes():
        run_compare(runs, Console(ends_with_reader=True), as_json)


@app.command()
def evaluate(
    run: RunArgument,
    learn: Annotated[
        str | None,
        typer.Option("--learn", metavar="CORPUS", help="Train two short forks on it instead."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Of --learn: steps of each fork; default: 200.")
    ] = None,
    templates: TemplatesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Recomputes a run's held-out figures; or what it learns of CORPUS without and with memory."""
    with exit_codes():
        if learn is not None:
            from jobs.learn.forks import run_forks

            run_forks(run, learn, templates, steps or 200, Console(), as_json)
            return
        if steps is not None or templates is not None:
            raise ConfigError("--steps and --templates are of --learn CORPUS, which is not there")
        from jobs.evaluate import run_evaluation

        run_evaluation(run, Console(ends_with_reader=True), as_json)


@app.command()
def learn(
    run: RunArgument,
    facts: Annotated[
        str | None, typer.Option("--facts", metavar="FILE", help="New facts, as JSON lines.")
    ] = None,
    text: Annotated[
        str | None, typer.Option("--text", metavar="CORPUS", help="New text: a file or folder.")
    ] = None,
    templates: TemplatesOption = None,
    out: Annotated[
        str | None, typer.Option("--out", metavar="DIR", help="The result; default: RUN-learned.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 400,
    lr: Annotated[
        float | None,
        typer.Option(
            help=f"Of the value table; default: {VALUE_LR_FRAC:g} of the run's, with --rows "
            f"{ROWS_LR:g}."
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Write only so many rows of the value table a step, those that old data reads "
            "least; 0: all that are read. Default: train every weight of the memory.",
        ),
    ] = None,
    old_data: Annotated[
        float, typer.Option(min=0, max=0.99, help="Share of each batch that is the run's own data.")
    ] = 0.25,
    seed: Annotated[int | None, typer.Option(min=0, help="Default: the run's.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Has a run's memory take in facts or text, the data layer frozen; RUN stays as it is."""
    from jobs.learn.learn import Wanted, run_learn

    with exit_codes():
        wanted = Wanted(facts, text, templates, out, steps, lr, rows, old_data, seed)
        run_learn(run, wanted, Console(), as_json)


@app.command()
def ask(
    run: RunArgument,
    prompt: Annotated[str, typer.Argument(help="The beginning of a sentence.")],
    tokens: Annotated[bool, typer.Option("--tokens", help="Token by token, with λ.")] = False,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 24,
) -> None:
    """Shows what the data layer alone, both together and the memory alone answer."""
    from jobs.ask import run_ask

    with exit_codes():
        run_ask(run, prompt, Console(ends_with_reader=True), tokens, max_tokens)


@app.command()
def status(
    run: Annotated[str, typer.Argument(metavar="[RUN]", help="A run directory.")] = "",
    storage: Annotated[
        str, typer.Option(help="Without RUN: lists the runs under this folder or URL.")
    ] = "runs",
    address: Annotated[
        str, typer.Option(help="Without RUN: lists the jobs of the cluster there, too.")
    ] = "",
    watch: Annotated[bool, typer.Option("--watch", help="Until the run ends.")] = False,
    as_json: JsonOption = False,
    insecure: InsecureOption = False,
) -> None:
    """Shows what a run is doing, from its directory alone; or which runs there are."""
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
def resume(run: RunArgument, overrides: Overrides = None, verbose: VerboseOption = False) -> None:
    """Goes on with a run that was stopped or broke off, from its newest checkpoint."""
    from jobs.control import run_resume

    with exit_codes():
        if not run_resume(run, overrides or [], Console(), verbose):
            raise typer.Exit(UNREFLECTED)


@app.command()
def scale(
    run: RunArgument,
    data_workers: Annotated[
        int | None, typer.Option(min=1, help="Workers of the data group from now on.")
    ] = None,
    memory_workers: Annotated[
        int | None, typer.Option(min=1, help="Workers of the memory group from now on.")
    ] = None,
    wait_s: Annotated[
        float, typer.Option("--wait-s", min=0, max=86400, help="For the resources of new ones.")
    ] = 60.0,
    no_wait: NoWaitOption = False,
) -> None:
    """Gives a group of a running run another number of workers while the other group goes on."""
    from jobs.control import run_scale

    with exit_codes():
        run_scale(run, data_workers, memory_workers, wait_s, Console(), no_wait)


@app.command()
def submit(
    kind: Annotated[
        Literal["train", "tune", "evaluate"],
        typer.Argument(metavar="COMMAND", help="train, tune or evaluate."),
    ],
    target: Annotated[
        str, typer.Argument(metavar="CONFIG", help="The command's config, search or run.")
    ],
    overrides: Overrides = None,
    address: AddressOption = LOCAL_DASHBOARD,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Don't follow the job.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Of train: go on with the run.")] = False,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="KEY[=VALUE]", help="For the job; KEY: as it is here."),
    ] = None,
    working_dir: Annotated[
        str | None,
        typer.Option("--working-dir", metavar="DIR", help="Send this folder's code."),
    ] = None,
    on_cluster: Annotated[
        list[str] | None,
        typer.Option("--on-cluster", metavar="PATH", help="Local paths below it are not sent."),
    ] = None,
    install: Annotated[
        bool, typer.Option("--install", help="Have the job install what differs there.")
    ] = False,
    python: Annotated[
        str, typer.Option("--python", metavar="COMMAND", help="The cluster's Python.")
    ] = "python3",
    driver_cpus: Annotated[float, typer.Option(min=0, help="Reserved for the driver.")] = 1.0,
    driver_gpus: Annotated[float, typer.Option(min=0, help="Reserved for the driver.")] = 0.0,
    max_package_mib: Annotated[
        float, typer.Option("--max-package-mib", min=0, max=500, help="More is not sent.")
    ] = 100.0,
    check_timeout: Annotated[
        float, typer.Option("--check-timeout", min=1, help="Seconds for the nodes to answer.")
    ] = 60.0,
    insecure: InsecureOption = False,
) -> None:
    """Runs train, tune or evaluate on a Ray cluster; follows it, and exits as it does."""
    with exit_codes():
        from jobs.submit.submit import Terms, parse_env, run_submit

        terms = Terms(
            address=address,
            insecure=insecure,
            wait=not no_wait,
            env=parse_env(env or []),
            working_dir=working_dir,
            on_cluster=on_cluster or (),
            install=install,
            python=python,
            driver={"CPU": driver_cpus, "GPU": driver_gpus},
            max_package_mib=max_package_mib,
            check_timeout_s=check_timeout,
        )
        if code := run_submit(kind, target, overrides or [], terms, Console(), resume):
            raise typer.Exit(code)


@app.command()
def logs(
    job: Annotated[str, typer.Argument(metavar="RUN|JOB", help="A submitted run or job.")],
    address: AddressOption = LOCAL_DASHBOARD,
    follow: Annotated[
        bool, typer.Option("--follow", help="To the job's end; exit as it does.")
    ] = False,
    insecure: InsecureOption = False,
) -> None:
    """Shows the log of a submitted job."""
    with exit_codes():
        from jobs.submit.follow import run_logs

        if code := run_logs(job, address, insecure, follow, Console(ends_with_reader=True)):
            raise typer.Exit(code)


if __name__ == "__main__":
    app()
