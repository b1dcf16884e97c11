"""`tandem status`: one run as its directory shows it, or runs of a folder and jobs of a cluster.

Reads files only, so it works from any machine that reaches the storage.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table

from actors.formats import ABSENT, figure, mib
from actors.settings.run import GROUPS
from actors.wire import ConfigError
from orchestrator.console import Console
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.run_dir.run_status import RunStatus
from orchestrator.run_dir.status import Seen, look
from orchestrator.settings.file_names import CONFIG, SUMMARY

WATCH_S = 1.0
LOOKS = 16  # runs looked at in parallel


def run_status(run: str, console: Console, as_json: bool, watch: bool) -> None:
    """Shows one run, once or repeatedly until it ends.

    Raises:
        ConfigError: no run there, or its status can't be read.
    """
    run_dir = RunDir(run)
    seen = look(run_dir)
    if seen.state == RunStatus.NO_RUN:
        raise ConfigError(f"{run_dir.url}: {run_dir.no_run()}")
    looks = _looks(run_dir, seen, watch)
    if as_json:
        for seen in looks:
            console.print_json(
                data=as_values(run_dir.url, seen, cause_of(run_dir, seen)), indent=None
            )
    elif watch and console.is_interactive:
        with Live(_page(run_dir.url, seen), console=console, auto_refresh=False) as live:
            for seen in looks:
                live.update(_page(run_dir.url, seen), refresh=True)
    else:
        for seen in looks:
            console.print(_page(run_dir.url, seen))
    if not as_json and (cause := cause_of(run_dir, seen)):
        console.say(f"cause: {cause}")


def _looks(run_dir: RunDir, seen: Seen, watch: bool) -> Iterator[Seen]:
    """The first look and, with `watch`, further ones until the run has ended."""
    yield seen
    while watch and seen.state == RunStatus.RUNNING:
        time.sleep(WATCH_S)
        seen = look(run_dir)
        yield seen


def cause_of(run_dir: RunDir, seen: Seen) -> str | None:
    """Why a run failed or was interrupted, from its summary; None if it was not, or gives no cause.

    Raises:
        ConfigError: the summary can't be read.
    """
    if seen.state not in (RunStatus.FAILED, RunStatus.INTERRUPTED) or not run_dir.exists(SUMMARY):
        return None
    cause = json.loads(run_dir.read(SUMMARY)).get("cause")
    return None if cause is None else str(cause)


def as_values(url: str, seen: Seen, cause: str | None = None) -> dict[str, Any]:
    """A run's state and status as one JSON object, with the cause if it failed."""
    why = {} if cause is None else {"cause": cause}
    return {"url": url, "state": seen.state, "age_s": seen.age_s, **why, **seen.status}


def run_list(
    storage: str, address: str | None, console: Console, as_json: bool, insecure: bool = False
) -> None:
    """Lists the runs under a folder, and a cluster's jobs if an address is given.

    Args:
        storage: the folder.
        address: of the cluster's dashboard.
        console: that prints them.
        as_json: print one JSON object.
        insecure: also connect without a token, or over plain HTTP to another machine.

    Raises:
        ConfigError: the folder or the cluster can't be reached, or the connection is unsafe.
        JobServerError: the cluster does not answer as it should.
    """
    folder = RunDir(storage)
    names = [name for name in folder.list_folders() if folder.exists(f"{name}/{CONFIG}")]
    with ThreadPoolExecutor(LOOKS) as pool:  # a dead driver needs a second look
        looks = pool.map(lambda name: look(RunDir(folder.path(name))), names)
        runs = dict(zip(names, looks, strict=True))
    jobs = list_jobs(address, insecure) if address else []
    if as_json:
        values = [as_values(folder.path(name), seen) for name, seen in runs.items()]
        console.print_json(data={"runs": values, "jobs": jobs}, indent=None)
        return
    console.say(f"{'runs' if runs else 'no runs'} under {folder.url}")
    if runs:
        table = Table("run", "state", "interval", "data workers", "memory workers", "last update")
        table.columns[0].overflow = "fold"
        for name, seen in runs.items():
            table.add_row(name, _state(seen), *_row(seen))
        console.print(table)
    if address:
        console.say(f"jobs at {address}")
        table = Table()
        for heading in ("job", "state", "command"):
            table.add_column(heading, overflow="fold")
        for job in jobs:
            table.add_row(job["id"], job["state"], job["command"])
        console.print(table)


def list_jobs(address: str, insecure: bool) -> list[dict[str, str]]:
    """The jobs that were submitted to a cluster, asked as `tandem submit` does.

    Raises:
        ConfigError: it can't be reached, refuses the token, or the connection is unsafe.
        JobServerError: it does not answer as it should.
    """
    from jobs.submit.job_server import connect

    def warn(text: str) -> None:
        Console(stderr=True).say(f"warning: {text}", "yellow")

    return [
        {"id": job.submission_id or "", "state": job.status.value, "command": job.entrypoint}
        for job in connect(address, insecure, warn).jobs()
    ]


def _state(seen: Seen) -> str:
    if seen.state == RunStatus.SILENT:
        return f"silent: its driver died, last update {seen.age_s:.0f} s ago"
    return seen.state.replace("_", " ")


def _row(seen: Seen) -> tuple[str, ...]:
    if not (status := seen.status):
        return (ABSENT,) * 4
    workers = (str(status["groups"][group]["workers"]) for group in GROUPS)
    interval = f"{status['interval']}/{status['intervals']}"
    return (interval, *workers, f"{max(0.0, seen.age_s):.0f} s ago")


def _page(url: str, seen: Seen) -> RenderableType:
    head = f"{url}: {_state(seen)}"
    if not (status := seen.status):
        return head
    driver, doing = (
        status["driver"],
        f", {status['phase']}" if seen.state == RunStatus.RUNNING else "",
    )
    lines = [
        f"{head}{doing}; interval {status['interval']}/{status['intervals']}, "
        f"{status['wall_s']:.0f} s; driver process {driver['pid']} on {driver['host']}, last "
        f"update {max(0.0, seen.age_s):.0f} s ago",
    ]
    saved = status["checkpoints"]
    newest = saved.get("last_interval")
    lines.append(
        f"checkpoints: {saved.get('written', 0)} written, newest of interval "
        f"{ABSENT if newest is None else newest}, {mib(saved.get('bytes', 0))}; restarts: "
        f"{status['restarts']}"
    )
    if status["heldout"]:
        figures = status["heldout"]
        lines.append(
            f"held out at v{figures['data_version']}: own {_figure(figures, 'own_loss')}  help "
            f"{_figure(figures, 'help_loss')}  recall agreement "
            f"{_figure(figures, 'recall_agreement')}"
        )
    lines += [
        f"resized: {row['group']} {row['before']} -> {row['after']} after interval "
        f"{row['interval']}, paused for {row['pause_s']:.2f} s"
        for row in status["resizes"]
    ]
    return Group(*lines, _groups_table(status), _ranks_table(status))


def _figure(figures: Mapping[str, Any], name: str) -> str:
    return figure(figures.get(f"heldout.{name}"), ".3f")


def _groups_table(status: Mapping[str, Any]) -> Table:
    table = Table("", *(f"{group} group" for group in GROUPS))
    groups = [status["groups"][group] for group in GROUPS]

    rows = {
        "workers": [str(g["workers"]) for g in groups],
        "step": [f"{g['step']}/{max(g['total_steps'], g['step'])}" for g in groups],
        "steps/s": [figure(g["steps_per_s"], ".2f") for g in groups],
        "tokens/s": [figure(g["tokens_per_s"], ",.0f") for g in groups],
        "losses": ["  ".join(f"{k} {v:.3f}" for k, v in g["losses"].items()) for g in groups],
        "version": [f"{g['version']}, adopted {g['adopted']}" for g in groups],
        "lag": [str(g["lag"]) for g in groups],
        "waiting": [figure(g["waiting_frac"], ".0%") for g in groups],
        "incarnation": [f"{g['incarnation']} ({g['restarts']} restarts)" for g in groups],
    }
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table


def _ranks_table(status: Mapping[str, Any]) -> Table:
    table = Table("rank", "host", "node", "process", "GPUs", "phase", "memory", "GPU memory")
    for group in GROUPS:
        for rank in status["groups"][group]["ranks"]:
            table.add_row(
                f"{group} {rank['rank']}",
                rank["host"],
                rank["node"][:12],
                str(rank["pid"]),
                " ".join(rank["gpus"]) or ABSENT,
                f"{rank['phase']}, interval {rank['interval']}",
                mib(rank["host_bytes"], 0),
                mib(rank["gpu_bytes"], 0) if rank["gpu_bytes"] else ABSENT,
            )
    return table
