"""The resources that a run could use, of this machine or of the Ray cluster that its config names.

Also warns of what this machine's CPU is slow at.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import ray
import torch

from actors.machine.cpu_features import slow_bf16
from actors.settings.run import GROUPS
from orchestrator.nodes.autoscaler import possible_nodes, scaler_state
from orchestrator.nodes.nodes import Node, cluster_nodes
from orchestrator.nodes.ray_address import Given, given_address, refuse_long_temp_folder
from orchestrator.processes.ray_session import join
from orchestrator.settings.config import Config

MIB = 1 << 20
RAY_STORE_FRAC = 0.3  # of free memory: Ray's default size of its object store
RAY_SHM_FRAC = 0.95
RAY_STORE_MAX_BYTES = 200 * 10**9


@dataclass(frozen=True)
class AvailableResources:
    """Resources of this machine or of a cluster.

    Attributes:
        where: name for messages.
        resources: CPUs, GPUs and `object_store_memory`, as Ray counts them.
        free_bytes: free memory of this machine; None for a cluster.
        gpu_bytes: memory of the smallest GPU; None without one, or for a cluster.
        nodes: of a cluster; empty for this machine, whose embedded Ray has no labels.
        autoscales: whether the cluster has an autoscaler.
        possible: all nodes that the cluster could have with it; empty if unknown.
        joined: of a cluster: its owner, and where its address came from.
        is_mine: whether it is this machine or a cluster of this user.
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
    """The resources of the Ray that the config would use: embedded in this machine, or a cluster.

    Raises:
        ConfigError: the cluster can't be reached, or Ray can't be started here.
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
    """Free bytes of the file system of a local run directory; None for other storage."""
    if "://" in url:
        return None
    place = Path(url).absolute()
    while not place.exists():
        place = place.parent
    return int(psutil.disk_usage(str(place)).free)


def cpu_warnings(config: Config, resources: AvailableResources) -> list[str]:
    """What this machine's CPU is slow at; on a cluster, workers report it when they start."""
    if not resources.is_here:
        return []
    groups = ((name, config.group(name)) for name in GROUPS)
    found = [slow_bf16(name, group.precision, group.workers.gpus) for name, group in groups]
    return [warning for warning in found if warning is not None]
