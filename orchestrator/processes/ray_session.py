"""The Ray cluster that a run uses: one already connected, one at an address, or one embedded for
the run alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import psutil
import ray

from actors.formats import first_line
from actors.wire import ConfigError
from orchestrator.errors import RayStartError
from orchestrator.nodes.private_ray import missing, started_with_niceness, without_notices
from orchestrator.nodes.ray_address import (
    Given,
    given_address,
    owner_of,
    reach,
    refuse_long_temp_folder,
    temp_folder,
    whose,
)
from orchestrator.settings.config import Config, RaySpec

QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "CRITICAL"}
# A Ray gives its own processes 30 s, whatever is asked for; on a busy machine the next try, whose
# files are in the page cache, often is in time.
STARTS = 2
END_S = 10  # for killed processes to be gone
Say = Callable[[str], None]


def _silent(text: str) -> None:
    """Says nothing."""


@contextmanager
def ray_session(
    config: Config, verbose: bool, say: Say = _silent, warn: Say = _silent
) -> Iterator[None]:
    """Connects to the cluster that the config or the environment names, or starts one for this run
    alone; does nothing where this process is connected already.

    Args:
        config: the run.
        verbose: let Ray's own messages through.
        say: receives whose cluster is joined, where one is.
        warn: receives the same where it is not this user's; and what this Ray lacks.

    Raises:
        ConfigError: nobody answers at the address, or it can't be used.
        RayStartError: a Ray for this run alone did not come up.
    """
    if ray.is_initialized():
        yield
        return
    given = given_address(config.ray.address, os.environ)
    if given is None:
        start_own(config.ray, verbose, warn)
    else:
        joined, is_mine = join(given, verbose)
        (say if is_mine else warn)(joined)
    try:
        for line in missing():
            warn(line)
        with nullcontext() if verbose else without_notices():
            yield
    finally:
        ray.shutdown()


def join(given: Given, verbose: bool = False) -> tuple[str, bool]:
    """Joins the cluster at an address; returns a sentence that names its owner, and whether that is
    this user.

    Another user's is joined all the same: `auto` or an address asks for the cluster that is there,
    and a shared one commonly runs as a user of its own.

    Raises:
        ConfigError: nobody answers there, or the cluster can't be used; says where the address came
            from and what to do.
    """
    address = reach(given)
    try:
        ray.init(address=address, **({} if verbose else QUIET))
    except Exception as err:  # Ray raises plain Exceptions here, too
        ray.shutdown()
        raise ConfigError(
            f"Ray at {given} can't be used: {first_line(err).rstrip('.')}; the driver has to run "
            f"on a node of the cluster, with its Ray ({ray.__version__} here) and, where it asks "
            f"for a token, with RAY_AUTH_MODE=token; or {given.undo} to run on this machine alone"
        ) from err
    address = ray.get_runtime_context().gcs_address
    nodes = [node for node in ray.nodes() if node["Alive"]]
    there = ray.cluster_resources()
    counts = [f"{there[kind]:g} {kind}s" for kind in ("CPU", "GPU") if there.get(kind)]
    size = ", ".join([f"{len(nodes)} node{'s' if len(nodes) > 1 else ''}", *counts])
    owner = owner_of(address)
    return whose(given, address, owner, size), owner.is_me


def start_own(spec: RaySpec, verbose: bool, warn: Say = _silent) -> None:
    """Starts a Ray for this process alone; once more where it does not come up.

    Args:
        spec: what it may use.
        verbose: let Ray's own messages through.
        warn: receives that it is tried once more.

    Raises:
        ConfigError: it can't be started on this machine as the settings ask.
        RayStartError: it did not come up.
    """
    refuse_long_temp_folder(os.environ, os.getpid())
    for left in reversed(range(STARTS)):
        before = {*psutil.Process().children()}
        try:
            _start(spec, verbose)
            return
        except RayStartError as err:
            _end({*psutil.Process().children()} - before)
            if not left:
                raise
            warn(f"{str(err).partition('. Is the')[0]}; it is started once more")


def _end(started: set[psutil.Process]) -> None:
    """Ends what a Ray that did not come up left, which would come up beside the next one."""
    for process in started:
        with suppress(psutil.NoSuchProcess):
            for each in [*process.children(recursive=True), process]:
                with suppress(psutil.NoSuchProcess):
                    each.kill()
    psutil.wait_procs(started, timeout=END_S)


def _start(spec: RaySpec, verbose: bool) -> None:
    began = time.monotonic()
    try:
        ray.init(
            address="local",
            num_cpus=spec.num_cpus,
            num_gpus=spec.num_gpus,
            object_store_memory=spec.object_store_mib and spec.object_store_mib * 2**20,
            include_dashboard=False,
            **started_with_niceness(spec.worker_niceness),
            **({} if verbose else QUIET),
        )
    except ValueError as err:
        ray.shutdown()
        raise ConfigError(f"Ray can't be started on this machine: {err}") from err
    except Exception as err:  # Ray raises plain Exceptions here, too
        ray.shutdown()
        logs = os.path.join(temp_folder(os.environ)[0], "ray", "session_latest", "logs")
        raise RayStartError(
            f"Ray did not come up on this machine: {first_line(err).rstrip('.')} (waited "
            f"{time.monotonic() - began:.0f} s). Is the machine overloaded, or short of memory, of "
            f"space in /dev/shm or of processes (ulimit -u)? Ray's logs are in {logs} "
            "(raylet.err, gcs_server.err); free something, or wait, and run the same command again"
        ) from err
