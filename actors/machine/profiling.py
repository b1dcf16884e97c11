"""A trace of one interval, for chrome://tracing or Perfetto."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from actors.storage import storage_errors, writable


@contextmanager
def traced(folder: str | None, name: str) -> Iterator[None]:
    """Writes a trace of the block to `folder`/`name`.json.gz; does nothing without a folder.

    `folder` may be any fsspec URL.

    Raises:
        StorageError: its storage is away or full.
    """
    if folder is None:
        yield
        return
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        yield
    with tempfile.TemporaryDirectory(prefix="tandem-trace-") as temporary:
        local = Path(temporary) / f"{name}.json.gz"
        profiler.export_chrome_trace(str(local))
        with storage_errors(f"{folder}/{local.name}", "the trace can't be written"):
            fs, target = writable(folder)
            fs.put_file(str(local), f"{target}/{local.name}")
