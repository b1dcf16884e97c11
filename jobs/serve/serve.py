"""`tandem serve`: starts the HTTP service of a finished run on Ray Serve, until it is stopped.

    this process -> a Ray of its own -> Ray Serve: proxy on HOST:PORT -> replicas, a pair each

Replicas know nothing of each other: what one is told it keeps beside the export, where the others
find it. The token is printed once, and replicas get its digest alone.
"""

from __future__ import annotations

import ipaddress
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from actors.wire import ConfigError
from orchestrator.console import Console
from orchestrator.reporting.task_progress import TaskProgress
from orchestrator.run_dir.run_dir import find_export
from orchestrator.stop_signals import StopFlag

if TYPE_CHECKING:
    from fastapi import FastAPI

    from jobs.serve.service import Service

LOOPBACK, PORT = "127.0.0.1", 8000
WAITING = 100  # requests that wait for a replica; more are told to come again
LEAST_TOKEN = 16
POLL_S = 0.2
INSTALL = "pip install 'tandem-memory[serve]'"


@dataclass(frozen=True)
class ServeOptions:
    """Options of the command.

    Attributes:
        host, port: where it listens.
        replicas: processes that each hold the pair.
        cpus: of each.
        token_file: its first line is the token; None: a new one is made and printed.
        no_token: whoever reaches the port is served.
        insecure: allow a host that other machines reach.
        verbose: show Ray's own messages.
    """

    host: str = LOOPBACK
    port: int = PORT
    replicas: int = 1
    cpus: int = 1
    token_file: str | None = None
    no_token: bool = False
    insecure: bool = False
    verbose: bool = False


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def exposures(options: ServeOptions) -> list[str]:
    """What is dangerous about serving there; nothing on loopback."""
    if is_loopback(options.host):
        return []
    found = [
        f"{options.host} is reached from other machines, and over plain HTTP anyone on the way "
        "reads and changes the token and what is said; listen on loopback behind a tunnel (ssh -L) "
        "or a proxy with HTTPS"
    ]
    if options.no_token:
        found.append("with --no-token whoever reaches it may ask and tell")
    return found


def token_of(options: ServeOptions) -> str | None:
    """The token that clients have to send; None: none.

    Raises:
        ConfigError: its file can't be read, or holds none.
    """
    if options.no_token:
        if options.token_file is not None:
            raise ConfigError("give either --token-file or --no-token")
        return None
    if options.token_file is None:
        return secrets.token_urlsafe(32)
    try:
        with open(options.token_file, encoding="utf-8") as file:
            token = file.readline().strip()
    except (OSError, ValueError) as err:
        raise ConfigError(f"--token-file {options.token_file}: can't be read: {err}") from err
    if len(token) < LEAST_TOKEN:
        raise ConfigError(
            f"--token-file {options.token_file}: expected at least {LEAST_TOKEN} characters in its "
            f"first line, got {len(token)}; e.g. openssl rand -base64 32 > {options.token_file}"
        )
    return token


def refuse_busy(host: str, port: int) -> None:
    """Raises: ConfigError: the port is taken, or the host is not this machine's."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as err:
        raise ConfigError(
            f"--host {host} --port {port}: can't be listened on: {err.strerror or err}; choose "
            "another --port, or a --host of this machine"
        ) from err


def load_service(run: str, cpus: int) -> Service:
    """The pair of one replica."""
    from jobs.serve.service import Service

    return Service(run, cpus)


def build_app(run: str, cpus: int, digest: str | None) -> FastAPI:
    """The application of one replica, built in its process."""
    from jobs.serve.http_api import make_app

    return make_app(partial(load_service, run, cpus), digest)


@contextmanager
def serving(run: str, options: ServeOptions, token: str | None) -> Iterator[str]:
    """Serves during the block; gives the service's URL. Afterwards nothing of it is left.

    Raises:
        ConfigError: no finished run there, or the port is taken.
        TandemError: Ray or a replica did not start.
    """
    try:
        from jobs.serve.http_api import token_digest
    except ImportError as err:
        raise ConfigError(f"tandem serve needs FastAPI: {err}; {INSTALL}") from err
    from orchestrator.processes.ray_serve import Served, serve_app

    find_export(run)
    place = run if "://" in run else os.path.abspath(os.path.expanduser(run))
    refuse_busy(options.host, options.port)
    digest = None if token is None else token_digest(token)
    build = partial(build_app, place, options.cpus, digest)
    served = Served(build, options.host, options.port, options.replicas, options.cpus, WAITING)
    with serve_app(served, options.verbose):
        yield f"http://{options.host}:{options.port}"


def run_serve(
    run: str,
    options: ServeOptions,
    console: Console,
    as_json: bool,
    stop: StopFlag,
) -> None:
    """Serves until a signal asks to stop.

    Raises:
        ConfigError: as `serving`; or other machines would reach it without --insecure.
    """
    dangers = exposures(options)
    if dangers and not options.insecure:
        raise ConfigError(f"{'; and '.join(dangers)}; or give --insecure")
    for line in dangers:
        console.say(f"warning: --insecure: {line}", style="yellow")
    token = token_of(options)
    with ExitStack() as stack:
        with TaskProgress() as progress:
            progress(f"starting Ray, and {options.replicas} replica(s) that load the pair")
            url = stack.enter_context(serving(run, options, token))
        is_new = token is not None and options.token_file is None
        if as_json:
            shown = {"url": url, "replicas": options.replicas, "token": token if is_new else None}
            console.print_json(json.dumps(shown))
        else:
            console.say(f"serving {run} at {url}/v1 with {options.replicas} replica(s)")
            if is_new:
                console.say(f"token, shown this once: {token}")
            console.say("Ctrl-C ends it")
        stop.arm()  # Ray took the signals when it started
        while stop.reason() is None:
            time.sleep(POLL_S)
