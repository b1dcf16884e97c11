"""The device of a trainer's process: taken at its start, its memory told in heartbeats."""

from __future__ import annotations

import psutil
import torch

from actors.spec import WorkersSpec
from actors.wire import ConfigError


def take_device(group: str, workers: WorkersSpec) -> torch.device:
    """Where a worker computes; sets how many threads torch has.

    Raises:
        ConfigError: GPUs are asked for and torch sees none.
    """
    torch.set_num_threads(max(1, int(workers.cpus)))
    if workers.gpus > 0 and not torch.cuda.is_available():
        raise ConfigError(
            f"{group}.workers.gpus is {workers.gpus:g}, but torch {torch.__version__} sees no "
            "CUDA device here; install a CUDA build of torch, or set it to 0"
        )
    return torch.device("cuda" if workers.gpus > 0 else "cpu")


def used_bytes(device: torch.device) -> tuple[int, int]:
    """Memory of this process on the host, and what its torch holds of the card. Any thread may
    ask.
    """
    host_bytes = int(psutil.Process().memory_info().rss)
    return host_bytes, torch.cuda.memory_reserved() if device.type == "cuda" else 0
