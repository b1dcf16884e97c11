"""Following a job: why it is pending, its log, its exit code. `tandem logs`, and the second half of
`tandem submit`.

The connection may be lost and restored; the job does not depend on it.
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
PENDING_LINE_S = 10.0  # between two lines on what a job waits for
QUIET_S = 30.0  # without a line of the log, after which the job's state is checked
PATIENCE_S = 120.0  # with an unreachable server
RUN_KEY, NAME_KEY, DRIVER_KEY = "tandem_run", "tandem_name", "tandem_driver"  # of a job
RAY_LINES = re.compile(
    r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+\s+INFO \S+\.py:\d+ -- |^Running entrypoint for job "
)


def run_logs(target: str, address: str, insecure: bool, follow: bool, console: Console) -> int:
    """Prints the log of a job, or of a run's newest one; returns the job's exit code if it was
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
    """The job with that id, or the newest that made the run with that directory or name.

    Raises:
        ConfigError: there is none; names the newest jobs.
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
    """Exit code of an ended job: that of its command if Ray knows it."""
    if job.status == JobStatus.SUCCEEDED:
        return 0
    if job.status == JobStatus.STOPPED:
        return STOPPED
    code = job.driver_exit_code
    if code is None or code == 0:
        return FAILED
    return int(code) if code > 0 else 128 - int(code)  # ended by a signal; as in a shell


def follow_job(server: JobServer, job_id: str, console: Console) -> int:
    """Waits for a job, printing what it waits for and then its log; returns its exit code.

    Raises:
        InterruptedRunError: Ctrl-C, or the server stays unreachable; the job continues.
    """
    try:
        job = _await_start(server, job_id, console)
        asyncio.run(_print_log(server, job_id, LogPrinter(console)))
        job = _await_end(server, job_id)
    except KeyboardInterrupt as err:
        raise InterruptedRunError(f"detached: {goes_on(server, job_id)}") from err
    code = exit_code(job)
    is_known = job.driver_exit_code is not None and job.status != JobStatus.STOPPED
    if not is_known and job.message and job.status == JobStatus.FAILED:
        console.say(f"job {job_id}: {job.message.strip()}", "red")
    _say(console, f"job {job_id} {job.status.value.lower()}, exit code {code}")
    return code


def goes_on(server: JobServer, job_id: str) -> str:
    """A line that the job continues, with the commands to follow and stop it."""
    flags = " --insecure" if exposures(server.address, server.has_token) else ""
    mode = "RAY_AUTH_MODE=token " if server.has_token else ""  # needed by Ray's own command
    return (
        f"job {job_id} continues. Follow it: tandem logs {job_id} --follow --address {server.url}"
        f"{flags}; stop it with a last checkpoint: {mode}ray job stop {job_id} --address "
        f"{server.url}"
    )


def waiting_for(job: JobDetails, status: dict[str, Any]) -> str:
    """What a pending job waits for, from its message and the cluster's load."""
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
        text += f"; its driver needs {driver}"
    if parts:
        text += "; the cluster has " + ", ".join(parts)
    if coming:
        text += "; nodes starting: " + ", ".join(coming)
    return text


class LogPrinter:
    """Prints a log that arrives in pieces, line by line.

    Omits Ray's own lines; the console omits control characters, so that no log can control the
    terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rest = ""
        self.num_chars = 0  # written so far

    def write(self, piece: str) -> None:
        """Prints the complete lines so far."""
        self.num_chars += len(piece)
        *lines, self._rest = (self._rest + piece).split("\n")
        for line in lines:
            self._print(line)

    def close(self) -> None:
        """Prints the rest, which has no end of line."""
        if self._rest:
            self._print(self._rest)
        self._rest = ""

    def _print(self, line: str) -> None:
        if not RAY_LINES.match(line):
            self._console.say(line)


async def _print_log(server: JobServer, job_id: str, log: LogPrinter) -> None:
    """Prints the log to its end; resumes after the printed part if the connection breaks."""
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
    """The next piece of the log; None: the log has ended."""
    reading = asyncio.ensure_future(anext(stream, None))
    while not reading.done():
        await asyncio.wait({reading}, timeout=QUIET_S)
        if (
            not reading.done()
            and (await asyncio.to_thread(server.job, job_id)).status.is_terminal()
        ):
            await asyncio.wait({reading}, timeout=QUIET_S)
            if not reading.done():  # the job has ended, but the connection stays open
                reading.cancel()
                return None
    piece: str | None = reading.result()
    return piece


def _await_start(server: JobServer, job_id: str, console: Console) -> JobDetails:
    printed_at = time.monotonic()
    printed = ""
    while (job := _patiently(server, job_id)).status == JobStatus.PENDING:
        if time.monotonic() - printed_at > PENDING_LINE_S:
            printed_at = time.monotonic()
            text = f"job {job_id} is pending: {waiting_for(job, server.status())}"
            if text != printed:
                _say(console, text)
            printed = text
        time.sleep(POLL_S)
    return job


def _await_end(server: JobServer, job_id: str) -> JobDetails:
    while not (job := _patiently(server, job_id)).status.is_terminal():
        time.sleep(POLL_S)
    return job


def _patiently(
    server: JobServer, job_id: str, clock: Callable[[], float] = time.monotonic
) -> JobDetails:
    """The state of the job; retries while the server is unreachable."""
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
