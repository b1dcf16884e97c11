"""Arguments of `tandem submit` and `tandem logs`; nothing else."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from jobs.exit_codes import exit_codes
from jobs.options import LOCAL_DASHBOARD, AddressOption, InsecureOption, Overrides
from orchestrator.console import Console


def submit(
    kind: Annotated[
        Literal["train", "tune", "evaluate", "teach"],
        typer.Argument(metavar="COMMAND", help="train, tune, evaluate or teach."),
    ],
    target: Annotated[
        str, typer.Argument(metavar="CONFIG", help="The command's config, search or run.")
    ],
    overrides: Overrides = None,
    address: AddressOption = LOCAL_DASHBOARD,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not follow the job.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="With train: continue the run.")] = False,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="KEY[=VALUE]", help="Set for the job; KEY: as it is here."),
    ] = None,
    working_dir: Annotated[
        str | None,
        typer.Option("--working-dir", metavar="DIR", help="Send the code in this folder."),
    ] = None,
    on_cluster: Annotated[
        list[str] | None,
        typer.Option("--on-cluster", metavar="PATH", help="Paths below it are there: not sent."),
    ] = None,
    install: Annotated[
        bool, typer.Option("--install", help="Have the job install packages that differ there.")
    ] = False,
    python: Annotated[
        str, typer.Option("--python", metavar="COMMAND", help="Python of the cluster.")
    ] = "python3",
    driver_cpus: Annotated[float, typer.Option(min=0, help="CPUs reserved for the driver.")] = 1.0,
    driver_gpus: Annotated[float, typer.Option(min=0, help="GPUs reserved for the driver.")] = 0.0,
    max_package_mib: Annotated[
        float,
        typer.Option("--max-package-mib", min=0, max=500, help="Largest package that is sent."),
    ] = 100.0,
    check_timeout: Annotated[
        float,
        typer.Option("--check-timeout", min=1, help="Seconds to wait for the nodes to answer."),
    ] = 60.0,
    insecure: InsecureOption = False,
) -> None:
    """Runs train, tune, evaluate or teach on a Ray cluster; follows it and exits with its code."""
    with exit_codes():
        from jobs.submit.submit import SubmitOptions, parse_env, run_submit

        options = SubmitOptions(
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
        if code := run_submit(kind, target, overrides or [], options, Console(), resume):
            raise typer.Exit(code)


def logs(
    job: Annotated[str, typer.Argument(metavar="RUN|JOB", help="A submitted run or job.")],
    address: AddressOption = LOCAL_DASHBOARD,
    follow: Annotated[
        bool, typer.Option("--follow", help="Follow the job to its end and exit with its code.")
    ] = False,
    insecure: InsecureOption = False,
) -> None:
    """Shows the log of a submitted job."""
    with exit_codes():
        from jobs.submit.follow import run_logs

        if code := run_logs(job, address, insecure, follow, Console(ends_with_reader=True)):
            raise typer.Exit(code)
