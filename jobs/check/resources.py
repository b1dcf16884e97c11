"""What there is to run on: this machine, or the Ray cluster that a config names.

Called by `check`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import ray
import torch

from orchestrator.nodes.autoscaler import possible_nodes, scaler_state
from orchestrator.nodes.nodes import Node, cluster_nodes
from orchestrator.nodes.ray_address import Given, given_address, refuse_long_temp_folder
from orchestrator.processes.ray_session import join
from orchestrator.settings.config import Config

MIB = 1 << 20
RAY_STORE_FRAC = 0.3  # Ray's own choice of its object store, of the memory that is free
RAY_SHM_FRAC = 0.95
RAY_STORE_MAX_BYTES = 200 * 10**9


@dataclass(frozen=True)
class AvailableResources:
    """What there is to run on.

    Attributes:
        where: in words.
        resources: CPUs, GPUs and `object_store_memory`, as Ray counts them.
        free_bytes: memory that is free; None where it is not this machine's.
        gpu_bytes: memory of its smallest GPU; None without one, or where it can't be seen.
        nodes: of a cluster; none for this machine, whose embedded Ray has no labels.
        autoscales: whether a cluster has an autoscaler that may add nodes.
        possible: all nodes that the cluster could have with it; none where that is not known.
        joined: of a cluster: whose it is, and where its address came from.
        is_mine: whether it is this user's; so is this machine.
        is_here: whether it is this machine.
    """

    where: str
    resources: Mapping[str, float]
    free_bytes: int | None
    gpu_bytes: int | None
    nodes: Sequence[Node] = ()
    autoscales: bool = False
    possible: Sequence[Node] = ()
    joined: str = ""
    is_mine: bool = True
    is_here: bool = False


def available_resources(config: Config) -> AvailableResources:
    """What the config's Ray would give out: this machine's, or a running cluster's.

    Raises:
        ConfigError: the cluster can't be reached, or no Ray could be started here.
    """
    if given := given_address(config.ray.address, os.environ):
        return _cluster(given)
    refuse_long_temp_folder(os.environ, os.getpid())
    memory = psutil.virtual_memory()
    store = min(RAY_STORE_FRAC * memory.available, RAY_STORE_MAX_BYTES)
    if os.path.isdir("/dev/shm"):
        store = min(store, RAY_SHM_FRAC * psutil.disk_usage("/dev/shm").total)
    if config.ray.object_store_mib is not None:
        store = config.ray.object_store_mib * MIB
    cards = torch.cuda.device_count()
    resources = {
        "CPU": float(config.ray.num_cpus or os.cpu_count() or 1),
        "GPU": float(cards if config.ray.num_gpus is None else config.ray.num_gpus),
        "object_store_memory": float(store),
    }
    sizes = [torch.cuda.get_device_properties(i).total_memory for i in range(cards)]
    gpu_bytes = min(sizes, default=None)
    return AvailableResources(
        "this machine", resources, int(memory.available), gpu_bytes, is_here=True
    )


def _cluster(given: Given) -> AvailableResources:
    joined, is_mine = join(given)
    try:
        found = {str(name): float(amount) for name, amount in ray.cluster_resources().items()}
        return AvailableResources(
            where=f"the Ray cluster at {given.address}",
            resources=found,
            free_bytes=None,
            gpu_bytes=None,
            nodes=cluster_nodes(),
            autoscales=scaler_state() is not None,
            possible=possible_nodes(),
            joined=joined,
            is_mine=is_mine,
        )
    finally:
        ray.shutdown()


def free_disk(url: str) -> int | None:
    """Free bytes where a local run would be written; None for other storage."""
    if "://" in url:
        return None
    place = Path(url).absolute()
    while not place.exists():
        place = place.parent
    return int(psutil.disk_usage(str(place)).free)
