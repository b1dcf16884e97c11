"""A Ray cluster's job server, seen from the machine that submits: who may connect, and how.

All requests to the cluster go through here, over HTTP, as JSON; no answer is unpickled. Uses Ray's
token authentication: the token is found where Ray finds it (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH,
~/.ray/auth_token), sent in a header, and never printed.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import platform
import socket
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import ray
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient

from actors.formats import first_line
from actors.wire import ConfigError, TandemError
from orchestrator.nodes.private_ray import CHATTY_LOGGERS, UPLOAD_LOGGERS, token_header
from orchestrator.nodes.ray_address import unreachable

TIMEOUT_S = 15.0  # of one small request
AGENT_S = 60.0  # for the head's agent to start, after the head itself
AGENT_POLL_S = 1.0
NO_AGENT = "No available agent"  # in Ray's answer
OVERRIDING = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")  # Ray prefers these to an explicit address
GET_A_TOKEN = (
    "set RAY_AUTH_TOKEN_PATH to a file with the cluster's token, or RAY_AUTH_TOKEN to the token "
    "(on the cluster's head: ray get-auth-token)"
)


class JobServerError(TandemError):
    """The job server refused a request; the message has its answer."""

    heading = "error"


@dataclass(frozen=True)
class Address:
    """Where a job server listens."""

    scheme: str
    host: str
    port: int

    @property
    def url(self) -> str:
        """As a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether connections stay on this machine."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(text: str) -> Address:
    """Parses `http(s)://HOST[:PORT]`, or `HOST[:PORT]` for HTTP; default: the dashboard's port.

    Raises:
        ConfigError: anything else, for example Ray's other addresses.
    """
    parts = urlsplit(text if "://" in text else f"http://{text}")
    try:
        port = parts.port
    except ValueError:
        port = -1
    wrong = parts.path.strip("/") or parts.query or parts.username
    if parts.scheme not in ("http", "https") or not parts.hostname or port == -1 or wrong:
        raise ConfigError(
            f"--address {text}: expected the URL of the cluster's dashboard, e.g. "
            "http://127.0.0.1:8265 or https://ray.example.org (not ray://…, and without a path)"
        )
    default = 443 if parts.scheme == "https" else 8265
    return Address(parts.scheme, parts.hostname, port or default)


def exposures(address: Address, has_token: bool) -> list[str]:
    """What is unsafe about a connection to `address`, each with what to do."""
    if address.is_loopback:
        return []
    found = []
    if address.scheme == "http":
        found.append(
            "over plain HTTP anyone on the network path can read and change the token and what is "
            "sent; tunnel it (ssh -L 8265:127.0.0.1:8265 HEAD, then --address "
            "http://127.0.0.1:8265) or put the dashboard behind HTTPS"
        )
    if not has_token:
        found.append(
            "without a token anyone who reaches the cluster can run code on it; start it with "
            f"RAY_AUTH_MODE=token, and here {GET_A_TOKEN}"
        )
    return found


def token_source() -> str:
    """Where Ray looks for its token first, for messages; never the token itself."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        if os.environ.get(name):
            return name
    return "~/.ray/auth_token"


def find_token() -> dict[str, str]:
    """The header with Ray's token; empty without one, or if RAY_AUTH_MODE is `disabled`.

    Raises:
        ConfigError: the token can't be read.
    """
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled":
        return {}
    try:
        return token_header()
    except AuthenticationError as err:
        raise ConfigError(f"Ray's token can't be read: {first_line(err)}; {GET_A_TOKEN}") from err


def connect(text: str, insecure: bool, warn: Callable[[str], None]) -> JobServer:
    """A job server that answers, accepts our token and runs our versions of Ray and Python.

    Args:
        text: the address, as the user gave it.
        insecure: continue in spite of `exposures`.
        warn: called with each of them.

    Raises:
        ConfigError: what is wrong, what was expected, and what to do.
    """
    address = parse_address(text)
    token = find_token()
    found = exposures(address, bool(token))
    if found and not insecure:
        raise ConfigError(
            f"{address.url} is not this machine: " + "; and ".join(found) + "; or give --insecure"
        )
    for line in found:
        warn(f"--insecure: {address.url}: {line}")
    server = JobServer(address, token)
    server.check_versions()
    return server


class JobServer:
    """Client of a cluster's job server.

    Args:
        address: of the server.
        token: header from `find_token`.

    Raises:
        ConfigError: it can't be reached or refuses the token.
    """

    def __init__(self, address: Address, token: dict[str, str]) -> None:
        self.address = address
        self._token = token
        _refuse_dead(address)
        self.ray_version = str(self._get("/api/version").get("ray_version", "unknown"))
        for name in CHATTY_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        with self._asking("connecting"), _without(OVERRIDING):
            self._client = JobSubmissionClient(address.url, headers=dict(token))
        for name in UPLOAD_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)

    @property
    def url(self) -> str:
        """Its address."""
        return self.address.url

    @property
    def has_token(self) -> bool:
        """Whether requests carry a token."""
        return bool(self._token)

    def check_versions(self) -> None:
        """Raises: ConfigError: the cluster runs another Ray or another minor Python."""
        local = platform.python_version()
        remote = str(self._get("/api/v0/cluster_metadata")["data"].get("pythonVersion", local))
        wrong = []
        if self.ray_version != ray.__version__:
            wrong.append(f"Ray: expected {ray.__version__} as here, got {self.ray_version}")
        if remote.split(".")[:2] != local.split(".")[:2]:
            wrong.append(f"Python: expected {local} as here, got {remote}")
        if wrong:
            raise ConfigError(
                f"the cluster at {self.url} runs other versions: " + "; ".join(wrong) + "; install "
                "the cluster's versions here, or requirements.lock on every node"
            )
        self.python_version = remote

    def status(self) -> dict[str, Any]:
        """The autoscaler's last report of the cluster's load; empty without one."""
        try:
            found = self._get("/api/cluster_status")["data"]["clusterStatus"]
        except (ConfigError, JobServerError, KeyError):
            return {}
        return found if isinstance(found, dict) else {}

    def submit(self, **job: Any) -> str:
        """Uploads what the cluster lacks and starts a job; returns its id.

        Raises:
            JobServerError: refused, or the head's agent, which starts jobs, does not start.
        """
        deadline = time.monotonic() + AGENT_S
        while True:
            try:
                with self._asking("submitting the job"):
                    return str(self._client.submit_job(**job))
            except JobServerError as err:
                if NO_AGENT not in str(err):
                    raise
                if time.monotonic() > deadline:
                    raise JobServerError(
                        f"{self.url}: the head's dashboard agent, which starts jobs, did not "
                        f"start in {AGENT_S:g} s; see dashboard_agent.log in the logs of Ray on "
                        "the head (is its port, 52365, taken by another Ray there? "
                        "ray start --dashboard-agent-listen-port gives it another)"
                    ) from err
                time.sleep(AGENT_POLL_S)

    def job(self, job_id: str) -> JobDetails:
        """The present state of a job. Raises: JobServerError: no job has that id."""
        with self._asking(f"asking for job {job_id}"):
            return self._client.get_job_info(job_id)

    def jobs(self) -> list[JobDetails]:
        """All submitted jobs."""
        with self._asking("listing the jobs"):
            return [job for job in self._client.list_jobs() if job.submission_id]

    def log(self, job_id: str) -> str:
        """A job's whole log."""
        with self._asking(f"reading the log of job {job_id}"):
            return str(self._client.get_job_logs(job_id))

    def follow(self, job_id: str) -> AsyncIterator[str]:
        """A job's log from its beginning, piece by piece, until the job ends."""
        return self._client.tail_job_logs(job_id)

    def stop(self, job_id: str) -> None:
        """Ends a job as `kill` would."""
        with self._asking(f"stopping job {job_id}"):
            self._client.stop_job(job_id)

    def delete(self, job_id: str) -> None:
        """Deletes the record of an ended job."""
        with self._asking(f"deleting job {job_id}"):
            self._client.delete_job(job_id)

    def _get(self, path: str) -> dict[str, Any]:
        """A small JSON answer, with a deadline, which Ray's client does not have."""
        request = urllib.request.Request(self.url + path, headers=self._token)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                found = json.load(answer)
        except urllib.error.HTTPError as err:
            raise _refused(self.url, err.code, self.has_token) from err
        except (OSError, ValueError) as err:  # no connection; no JSON
            raise ConfigError(_unreachable(self.address, err)) from err
        if not isinstance(found, dict):
            raise ConfigError(
                _unreachable(self.address, ValueError("the answer is not a JSON object"))
            )
        return found

    @contextmanager
    def _asking(self, doing: str) -> Iterator[None]:
        try:
            yield
        except AuthenticationError as err:
            code = 401 if "required" in str(err) else 403
            raise _refused(self.url, code, self.has_token) from err
        except (OSError, RuntimeError, ValueError) as err:  # what requests and Ray's client raise
            raise JobServerError(f"{self.url}: {doing}: {first_line(err)}") from err


def _refused(url: str, code: int, has_token: bool) -> ConfigError:
    if code == 401:
        return ConfigError(
            f"{url} requires a token, and none was found here; {GET_A_TOKEN}"
            if not has_token
            else f"{url} requires a token and did not receive the one sent; does a proxy remove it?"
        )
    if code == 403:
        return ConfigError(f"{url} refused the token of {token_source()} as wrong; {GET_A_TOKEN}")
    return ConfigError(
        f"{url} answered with HTTP status {code}; expected the dashboard of a Ray cluster with its "
        "job server (ray[default] on the head)"
    )


def _refuse_dead(address: Address) -> None:
    """Raises: ConfigError: nothing listens there, within 10 s; not tried through a proxy."""
    proxies = urllib.request.getproxies()
    if address.scheme in proxies and not urllib.request.proxy_bypass(address.host):
        return
    if what := unreachable(address.host, address.port):
        raise ConfigError(_no_dashboard(address, what))


def _unreachable(address: Address, err: Exception) -> str:
    reason = getattr(err, "reason", err)
    if isinstance(reason, socket.gaierror):
        what = f"there is no host {address.host}"
    elif isinstance(reason, ConnectionRefusedError):
        what = "nothing listens there"
    elif isinstance(reason, TimeoutError):
        what = f"no answer within {TIMEOUT_S:g} s"
    else:
        what = first_line(err)
    return _no_dashboard(address, what)


def _no_dashboard(address: Address, what: str) -> str:
    return (
        f"no Ray dashboard at {address.url} (from --address or its default): {what}; is the "
        "cluster up (ray status on its head), has its head ray[default], and is the tunnel open "
        "(ssh -L 8265:127.0.0.1:8265 HEAD, or ray dashboard cluster.yaml)?"
    )


@contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    saved = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(saved)
