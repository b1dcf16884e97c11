"""The device of a process: chosen at its start, copies to it, and memory in use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch
from torch import Tensor

from actors.settings.groups import WorkersSpec
from actors.wire import ConfigError


def take_device(group: str, workers: WorkersSpec, deterministic: bool = True) -> torch.device:
    """The device of a worker; sets the number of torch's threads and, on a GPU, its kernels.

    Args:
        group, workers: to which the worker belongs.
        deterministic: as `RunSpec.deterministic`.

    Raises:
        ConfigError: GPUs are configured and torch sees none.
    """
    take_threads(workers.cpus)
    if workers.gpus > 0 and not torch.cuda.is_available():
        raise ConfigError(
            f"{group}.workers.gpus is {workers.gpus:g}, but torch {torch.__version__} sees no "
            "CUDA device here; install a CUDA build of torch, or set it to 0"
        )
    if workers.gpus > 0 and deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by cuBLAS
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return device_of(workers.gpus)


def take_threads(cpus: float) -> None:
    """Lets torch use as many threads as these CPUs, rounded down, and at least one."""
    torch.set_num_threads(max(1, int(cpus)))


def device_of(gpus: float) -> torch.device:
    """The device of a process that reserves so many GPUs."""
    return torch.device("cuda" if gpus > 0 else "cpu")


@contextmanager
def explain_nondeterminism() -> Iterator[None]:
    """Raises: ConfigError: the block needs a kernel that has no deterministic form."""
    try:
        yield
    except RuntimeError as err:
        if "does not have a deterministic implementation" not in str(err):
            raise
        kernel = str(err).split(" does not have")[0]
        raise ConfigError(
            f"{kernel} has no deterministic kernel on a GPU; set deterministic: false, after "
            "which replayed intervals may differ in their last bits"
        ) from err


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A host tensor on `device`. The host does not wait for a GPU: the copy is queued behind its
    present work, from page-locked memory.
    """
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def used_bytes(device: torch.device) -> tuple[int, int]:
    """Bytes of this process in host memory, and those that its torch has reserved on the GPU.
    Thread-safe.
    """
    host_bytes = int(psutil.Process().memory_info().rss)
    return host_bytes, torch.cuda.memory_reserved() if device.type == "cuda" else 0
