"""An HTTP application on Ray Serve, with replicas of its own, for as long as a block runs.

Knows nothing of what is served: the application is built in each replica's process. Ray Serve is
imported here alone; it comes with an extra.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import ray

from actors.wire import ConfigError, TandemError
from orchestrator.nodes.private_ray import without_notices
from orchestrator.processes.ray_session import start_own
from orchestrator.settings.config import RaySpec

NAME = "tandem"
CHATTY = ("ray.serve", "uvicorn", "uvicorn.error", "uvicorn.access")
OWN_CPUS = 1  # beside the replicas': Serve's own actors reserve none, but Ray wants one


class ServeError(TandemError):
    """The service did not start, or broke."""

    heading = "error"


@dataclass(frozen=True)
class Served:
    """What is served, and where.

    Attributes:
        build: makes the ASGI application, in a replica's process.
        host, port: where it listens.
        replicas, cpus: processes, and CPUs of each.
        waiting: requests that wait for a replica at most.
    """

    build: Callable[[], Any]
    host: str
    port: int
    replicas: int
    cpus: int
    waiting: int


@contextmanager
def serve_app(served: Served, verbose: bool) -> Iterator[None]:
    """Serves during the block, on the Ray that is connected or on one of its own.

    Raises:
        ConfigError: the extra is not installed, or its port can't be listened on.
        RayStartError: a Ray of its own did not come up.
        ServeError: the replicas did not start.
    """
    try:
        from ray import serve
    except ImportError as err:
        raise ConfigError(
            f"Ray Serve is not installed: {err}; pip install 'tandem-memory[serve]'"
        ) from err
    if not verbose:
        for name in CHATTY:
            logging.getLogger(name).setLevel(logging.CRITICAL)

    def build() -> Any:  # Serve takes nothing but a plain function for one that builds
        return served.build()

    own = not ray.is_initialized()
    if own:
        start_own(RaySpec(num_cpus=served.replicas * served.cpus + OWN_CPUS), verbose)
    try:
        with nullcontext() if verbose else without_notices():
            quiet = {"log_level": "INFO" if verbose else "ERROR", "enable_access_log": verbose}
            serve.start(
                http_options={"host": served.host, "port": served.port}, logging_config=quiet
            )
            try:
                deployment = serve.deployment(
                    name=NAME,
                    num_replicas=served.replicas,
                    max_ongoing_requests=8,
                    max_queued_requests=served.waiting,
                    ray_actor_options={"num_cpus": served.cpus},
                    logging_config=quiet,
                )(serve.ingress(build)(_Replica))
                try:
                    serve.run(deployment.bind(), name=NAME, route_prefix="/", logging_config=quiet)
                except RuntimeError as err:
                    raise ServeError(
                        f"the service did not start: {_last_line(err)}; --verbose shows Ray's own "
                        "messages"
                    ) from err
                yield
            finally:
                serve.shutdown()
    finally:
        if own:
            ray.shutdown()


class _Replica:
    """A replica's process: the application is all that it holds."""


def _last_line(err: BaseException) -> str:
    lines = [line.strip() for line in str(err).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(err).__name__
