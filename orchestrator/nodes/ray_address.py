"""Which Ray cluster a run is to use, whether it answers, and who owns it, found without Ray.

`ray.init` waits for minutes for an address at which nobody answers, and doesn't say where the
address came from. Starts nothing and joins nothing.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import psutil
import ray

from actors.wire import ConfigError
from orchestrator.nodes.private_ray import cluster_here

CONNECT_S, ANSWER_S = 3.0, 3.0  # for a head's connection, and for its answer
TRIED_S = 8.0  # for both and the name server, so that a person waits less than 10 s
ENVIRONMENT = "RAY_ADDRESS"
JOB_MARK = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for the drivers of jobs
AUTO, LOCAL = "auto", "local"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# A Ray head speaks gRPC: it answers HTTP/2's opening words with a frame of settings.
OPENING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
FRAME_HEAD_BYTES, SETTINGS = 9, 4
SOCKET_PATH_BYTES = 103 if sys.platform == "darwin" else 107
SOCKET_IN_TEMP = "/ray/session_2026-01-31_23-59-59_999999_{pid}/sockets/plasma_store"


@dataclass(frozen=True)
class Given:
    """An address that a run was given.

    Attributes:
        address: `HOST:PORT`, `auto`, or what else was given.
        source: where it came from, in words.
        undo: what to do to run on this machine alone.
    """

    address: str
    source: str
    undo: str

    def __str__(self) -> str:
        return f"{self.address} (from {self.source})"


def given_address(of_config: str | None, environment: Mapping[str, str]) -> Given | None:
    """The address of the Ray to join; None: a Ray for this run alone is started.

    Args:
        of_config: `ray.address`.
        environment: variables of the process.
    """
    there = environment.get(ENVIRONMENT)
    if of_config and not (of_config == AUTO and there):  # Ray lets the variable say which `auto` is
        found = Given(of_config, "ray.address of the config", "leave ray.address out")
    elif there and JOB_MARK in environment:
        found = Given(there, f"{ENVIRONMENT}, which Ray sets for a job", "start it outside the job")
    elif there:
        found = Given(there, f"the environment variable {ENVIRONMENT}", f"unset {ENVIRONMENT}")
    else:
        return None
    return None if found.address == LOCAL else found


def reach(given: Given) -> str:
    """`HOST:PORT` of a Ray head that answers, in at most 10 s.

    Raises:
        ConfigError: nobody answers there, or something else than a Ray head; says where the address
            came from and what to do.
    """
    if "://" in given.address:
        raise ConfigError(
            f"Ray at {given}: Tandem's driver runs on a node of the cluster, not through Ray "
            "Client or a dashboard; send the run there with: tandem submit train CONFIG --address "
            "http://HOST:8265; or start it on a node with HOST:6379 or `auto`"
        )
    address, found_by = given.address, ""
    if address == AUTO:
        try:
            here = cluster_here()
        except ConnectionError as err:
            raise ConfigError(
                f"Ray at {given}: no Ray runs on this machine; start one here (ray start --head), "
                f"join one (ray start --address HOST:6379), or {given.undo} to run on this machine "
                "alone"
            ) from err
        if here is None:
            return AUTO
        address, found_by = here, f", which is {here} here"
    host, port = _parse(given, address)
    wrong = unreachable(host, port, _no_head)
    if wrong is not None and host in LOOPBACK:  # a head may listen at the machine's address alone
        wrong = wrong if unreachable(ray.util.get_node_ip_address(), port, _no_head) else None
    if wrong is not None:
        raise ConfigError(
            f"Ray at {given}{found_by}: {wrong}; is the cluster up (ray status on its head)? "
            f"Correct the address, or {given.undo} to run on this machine alone"
        )
    return address


def _parse(given: Given, address: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port or parts.path:
        raise ConfigError(
            f"Ray at {given}: expected HOST:PORT of a cluster's head, e.g. 10.0.0.1:6379, or "
            f"{AUTO} for the cluster that this machine is a node of, or {LOCAL}"
        )
    return host, port


def unreachable(
    host: str, port: int, ask: Callable[[socket.socket], str | None] = lambda connection: None
) -> str | None:
    """What is wrong with a server there, found in at most 8 s; None: nothing.

    Args:
        host, port: of the server.
        ask: what is wrong with an open connection; None: nothing.
    """
    found: list[str | None] = []  # by a thread: looking up a name has no timeout
    trial = threading.Thread(
        target=lambda: found.append(_wrong_at(host, port, ask)), name="reach", daemon=True
    )
    trial.start()
    trial.join(TRIED_S)
    return found[0] if found else f"no answer within {TRIED_S:g} s"


def _wrong_at(host: str, port: int, ask: Callable[[socket.socket], str | None]) -> str | None:
    try:
        with socket.create_connection((host, port), timeout=CONNECT_S) as connection:
            return ask(connection)
    except socket.gaierror:
        return f"there is no host {host}"
    except ConnectionRefusedError:
        return "nothing listens there"
    except TimeoutError:
        return f"no answer within {CONNECT_S:g} s"
    except OSError as err:
        return f"it can't be reached: {err}"


def _no_head(connection: socket.socket) -> str | None:
    """Why no Ray head is at the other end; None: one may be."""
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return None  # it answers only clients with a certificate
    connection.settimeout(ANSWER_S)
    connection.sendall(OPENING)
    answer = b""
    while len(answer) < FRAME_HEAD_BYTES and (more := connection.recv(64)):
        answer += more
    if answer.startswith((b"HTTP/", b"<")):
        return (
            "a web server listens there and no Ray head (the dashboard's port is 8265, the head's "
            "6379)"
        )
    if len(answer) < FRAME_HEAD_BYTES or answer[3] != SETTINGS:
        return "something listens there that is no Ray head"
    return None


@dataclass(frozen=True)
class Owner:
    """The user whose processes a cluster's node on this machine runs as.

    Attributes:
        user: of the node's process; None where that can't be seen.
        is_me: this process has the same user.
        age_s: since the node was started; None where that can't be seen.
    """

    user: str | None = None
    is_me: bool = False
    age_s: float | None = None


def owner_of(address: str) -> Owner:
    """Owner of the node on this machine that belongs to the cluster at `address`; every driver runs
    on a node.
    """
    me = psutil.Process().username()
    for process in psutil.process_iter(["name", "cmdline", "username", "create_time"]):
        info = process.info
        if info["name"] == "raylet" and f"--gcs-address={address}" in (info["cmdline"] or ()):
            user = info["username"]
            return Owner(user, user == me, time.time() - info["create_time"])
    return Owner()


def whose(given: Given, address: str, owner: Owner, size: str) -> str:
    """The sentence that says which cluster a run joins.

    Args:
        given: the address as it was given.
        address: of the cluster's head.
        owner: of its node here.
        size: its nodes, CPUs and GPUs, in words.
    """
    given_as = "" if given.address == address else f"{given.address}, "
    age = "" if owner.age_s is None else f", up for {_age(owner.age_s)}"
    if owner.user is None:
        by = "by a user that can't be seen from here"
    else:
        by = f"by {'you' if owner.is_me else 'another user'} ({owner.user})"
    text = f"joins the Ray cluster at {address} ({given_as}from {given.source}): started {by}{age}"
    text += f", {size}"
    return text if owner.is_me else f"{text}; {given.undo} to run on this machine alone"


def _age(seconds: float) -> str:
    for unit, name in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"


def temp_folder(environment: Mapping[str, str]) -> tuple[str, str]:
    """The folder below which an embedded Ray keeps its sockets and logs, and what determines it."""
    for name in ("RAY_TMPDIR", *(["TMPDIR"] if sys.platform.startswith("linux") else [])):
        if name in environment:
            return environment[name], name
    return "/tmp", "Ray's default"


def refuse_long_temp_folder(environment: Mapping[str, str], pid: int) -> None:
    """Raises: ConfigError where the paths of an embedded Ray's sockets would be longer than the
    system allows.
    """
    folder, source = temp_folder(environment)
    inside = len(SOCKET_IN_TEMP.format(pid=pid))
    folder_bytes = len(os.fsencode(folder.rstrip("/")))
    if folder_bytes + inside > SOCKET_PATH_BYTES:
        raise ConfigError(
            f"{source}={folder}: Ray keeps sockets below it, and the path of one would have "
            f"{folder_bytes + inside} bytes where the system allows {SOCKET_PATH_BYTES}; set "
            f"RAY_TMPDIR to a folder whose path has at most {SOCKET_PATH_BYTES - inside}, e.g. "
            "RAY_TMPDIR=/tmp (TMPDIR can stay as it is)"
        )
