"""The Ray that a run uses: one that is there, one at an address, or one embedded for it alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import ray

from actors.wire import ConfigError
from orchestrator.config import Config


@contextmanager
def ray_session(config: Config, verbose: bool) -> Iterator[None]:
    """A Ray that is there already, the one at the configured address, or one embedded for this run
    alone.
    """
    if ray.is_initialized():
        yield
        return
    address = config.ray.address or os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {} if verbose else {"log_to_driver": False, "logging_level": "CRITICAL"}
    embedded: dict[str, Any] = {
        "num_cpus": config.ray.num_cpus,
        "num_gpus": config.ray.num_gpus,
        "object_store_memory": config.ray.object_store_mib and config.ray.object_store_mib * 2**20,
        "include_dashboard": False,
    }
    try:
        ray.init(address=address or "local", **quiet, **({} if address else embedded))
    except (ConnectionError, RuntimeError, ValueError) as err:
        where = f"at {address}" if address else "on this machine"
        raise ConfigError(f"Ray {where} can't be used: {err}") from err
    try:
        with nullcontext() if verbose else _without_rays_own_notices():
            yield
    finally:
        ray.shutdown()


@contextmanager
def _without_rays_own_notices() -> Iterator[None]:
    """Ray prints a paragraph for every process that dies, in the midst of a live view; the run says
    itself who died and what follows. There is no public switch for it.
    """
    module = sys.modules["ray._private.worker"]
    printed = getattr(module, "print_to_stdstream", None)
    if printed is None:  # another version of Ray: its notices stay
        yield
        return
    module.print_to_stdstream = lambda *_, **__: None  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.print_to_stdstream = printed  # type: ignore[attr-defined]
