"""A job as the person sees it who waits for it: why it is pending, its log, its exit code.

The connection may be lost and found again; the job knows nothing of who looks. `tandem logs`, and
the second half of `tandem submit`.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any

import aiohttp
from ray.job_submission import JobDetails, JobStatus

from actors.wire import ConfigError, TandemError, one_line
from jobs.submit.job_server import JobServer, JobServerError, connect, exposures
from orchestrator.console import Console
from orchestrator.errors import InterruptedRunError

FAILED, STOPPED = 1, 130
POLL_S = 1.0
TELL_PENDING_S = 10.0  # between two lines on what a job waits for
QUIET_S = 30.0  # without a line of the log, after which the job is asked whether it still runs
PATIENCE_S = 120.0  # with a server that is away
RUN_KEY, NAME_KEY, DRIVER_KEY = "tandem_run", "tandem_name", "tandem_driver"  # of a job
RAYS_OWN = re.compile(
    r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+\s+INFO \S+\.py:\d+ -- |^Running entrypoint for job "
)


def run_logs(target: str, address: str, insecure: bool, follow: bool, console: Console) -> int:
    """Prints the log of a job, or of a run's newest one; returns the job's exit code where it was
    followed to its end, else 0.

    Raises:
        ConfigError: no such job.
    """
    server = connect(address, insecure, lambda text: _warn(console, text))
    job = find_job(server.jobs(), target)
    if follow:
        return follow_job(server, str(job.submission_id), console)
    log = LogPrinter(console)
    log.write(server.log(str(job.submission_id)))
    log.close()
    return 0


def find_job(jobs: list[JobDetails], target: str) -> JobDetails:
    """The job of that id, else the newest that made the run of that directory or name.

    Raises:
        ConfigError: there is none; names the newest that there are.
    """
    newest = sorted(jobs, key=lambda job: -(job.start_time or 0))
    wanted = target.rstrip("/")
    for fits in (
        lambda job: job.submission_id == target,
        lambda job: (job.metadata or {}).get(RUN_KEY) == wanted,
        lambda job: (job.metadata or {}).get(NAME_KEY) == wanted.rpartition("/")[2],
    ):
        if found := next(filter(fits, newest), None):
            return found
    known = ", ".join(str(job.submission_id) for job in newest[:5]) or "none"
    raise ConfigError(
        f"{target}: no job of that id and none that made a run of that name or directory; the "
        f"cluster's newest jobs: {known}"
    )


def exit_code(job: JobDetails) -> int:
    """Of a job that has ended: its command's own where Ray knows it."""
    if job.status == JobStatus.SUCCEEDED:
        return 0
    if job.status == JobStatus.STOPPED:
        return STOPPED
    code = job.driver_exit_code
    if code is None or code == 0:
        return FAILED
    return int(code) if code > 0 else 128 - int(code)  # by a signal, as a shell says it


def follow_job(server: JobServer, job_id: str, console: Console) -> int:
    """Waits for a job, printing what it waits for and then its log; returns its exit code.

    Raises:
        InterruptedRunError: Ctrl-C, or a server that stays away; the job goes on.
    """
    try:
        job = _await_start(server, job_id, console)
        asyncio.run(_print_log(server, job_id, LogPrinter(console)))
        job = _await_end(server, job_id)
    except KeyboardInterrupt as err:
        raise InterruptedRunError(f"detached: {goes_on(server, job_id)}") from err
    code = exit_code(job)
    told = job.driver_exit_code is not None and job.status != JobStatus.STOPPED
    if not told and job.message and job.status == JobStatus.FAILED:
        console.say(f"job {job_id}: {job.message.strip()}", "red")
    _say(console, f"job {job_id} {job.status.value.lower()}, exit code {code}")
    return code


def goes_on(server: JobServer, job_id: str) -> str:
    """That a job goes on, and the commands for it."""
    flags = " --insecure" if exposures(server.address, server.has_token) else ""
    mode = "RAY_AUTH_MODE=token " if server.has_token else ""  # Ray's own command needs telling
    return (
        f"job {job_id} goes on. Follow it: tandem logs {job_id} --follow --address {server.url}"
        f"{flags}; stop it with a last checkpoint: {mode}ray job stop {job_id} --address "
        f"{server.url}"
    )


def waiting_for(job: JobDetails, status: dict[str, Any]) -> str:
    """What a pending job waits for, from its own message and the cluster's load."""
    driver = (job.metadata or {}).get(DRIVER_KEY)
    usage = status.get("loadMetricsReport", {}).get("usage", {})
    parts = [
        f"{name} {total - used:g} of {total:g} free"
        for name in ("CPU", "GPU")
        if name in usage and len(usage[name]) == 2
        for used, total in [usage[name]]
    ]
    report = status.get("autoscalerReport") or {}
    coming = [str(node[1]) for node in report.get("pendingNodes") or []]
    coming += [f"{n} x {kind}" for kind, n in (report.get("pendingLaunches") or {}).items()]
    message = (job.message or "it has not started yet").strip().rstrip(".")
    message = message.removeprefix("Job has not started yet. ")
    text = message[:1].lower() + message[1:]
    if driver:
        text += f"; its driver asks for {driver}"
    if parts:
        text += "; the cluster has " + ", ".join(parts)
    if coming:
        text += "; nodes on their way: " + ", ".join(coming)
    return text


class LogPrinter:
    """Prints a log that comes in pieces, line by line.

    Leaves out what Ray says of itself; the console leaves out control characters, so that no log
    can take over a terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rest = ""
        self.num_chars = 0  # of all that was written

    def write(self, piece: str) -> None:
        """Prints the lines that are whole now."""
        self.num_chars += len(piece)
        *lines, self._rest = (self._rest + piece).split("\n")
        for line in lines:
            self._print(line)

    def close(self) -> None:
        """Prints what is left without an end of line."""
        if self._rest:
            self._print(self._rest)
        self._rest = ""

    def _print(self, line: str) -> None:
        if not RAYS_OWN.match(line):
            self._console.say(line)


async def _print_log(server: JobServer, job_id: str, log: LogPrinter) -> None:
    """The log to its end; begins again after what was printed where the connection breaks."""
    away_since: float | None = None
    while True:
        skip = log.num_chars
        try:
            stream = server.follow(job_id)
            while (piece := await _next_piece(stream, server, job_id)) is not None:
                away_since = None
                log.write(piece[skip:])
                skip = max(0, skip - len(piece))
            log.close()
            return
        except (aiohttp.ClientError, OSError, RuntimeError, TandemError) as err:
            now = time.monotonic()
            away_since = now if away_since is None else away_since
            if now - away_since > PATIENCE_S:
                raise InterruptedRunError(
                    f"{server.url} has not answered for {PATIENCE_S:g} s ({one_line(err)}); "
                    f"{goes_on(server, job_id)}"
                ) from err
            await asyncio.sleep(POLL_S)


async def _next_piece(stream: Any, server: JobServer, job_id: str) -> str | None:
    """None: the log is at its end."""
    reading = asyncio.ensure_future(anext(stream, None))
    while not reading.done():
        await asyncio.wait({reading}, timeout=QUIET_S)
        if (
            not reading.done()
            and (await asyncio.to_thread(server.job, job_id)).status.is_terminal()
        ):
            await asyncio.wait({reading}, timeout=QUIET_S)
            if not reading.done():  # the job has ended, and the connection does not say so
                reading.cancel()
                return None
    piece: str | None = reading.result()
    return piece


def _await_start(server: JobServer, job_id: str, console: Console) -> JobDetails:
    told_at = time.monotonic()
    told = ""
    while (job := _patiently(server, job_id)).status == JobStatus.PENDING:
        if time.monotonic() - told_at > TELL_PENDING_S:
            told_at = time.monotonic()
            text = f"job {job_id} is pending: {waiting_for(job, server.status())}"
            if text != told:
                _say(console, text)
            told = text
        time.sleep(POLL_S)
    return job


def _await_end(server: JobServer, job_id: str) -> JobDetails:
    while not (job := _patiently(server, job_id)).status.is_terminal():
        time.sleep(POLL_S)
    return job


def _patiently(
    server: JobServer, job_id: str, clock: Callable[[], float] = time.monotonic
) -> JobDetails:
    """The job as it is, asked again while the server is away."""
    deadline = clock() + PATIENCE_S
    while True:
        try:
            return server.job(job_id)
        except JobServerError as err:
            if clock() > deadline:
                raise InterruptedRunError(
                    f"{server.url} has not answered for {PATIENCE_S:g} s ({one_line(err)}); "
                    f"{goes_on(server, job_id)}"
                ) from err
            time.sleep(POLL_S)


def _say(console: Console, text: str) -> None:
    console.say(text)


def _warn(console: Console, text: str) -> None:
    console.say(f"warning: {text}", style="yellow")
