"""What a process holds of memory, and whether that grows over a run. Used by `memory` and `soak`.

Counted is what is anonymous: heap, stacks, and the pages of libraries that were written to. Not USS
("unique set size"), which counts every page that no other process has mapped at the moment: where a
rank is killed, whatever of the object store and of the libraries it alone had shared with the
driver becomes the driver's "own", though nobody has taken a byte. Not seen are the object store's
pages, which have a figure of their own.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import psutil

MIB = 1 << 20


def private_mib(process: psutil.Process) -> float:
    """Memory that the process took for itself, in MiB, whoever else lives or dies. Linux only.

    Raises: psutil.Error where it has ended.
    """
    taken = process.memory_info()
    return float(taken.rss - taken.shared) / MIB  # shared: whatever has a file behind it


def growth(samples: Sequence[float]) -> float:
    """Median of the last tenth minus that of the tenth after the first fifth."""
    tenth = max(1, len(samples) // 10)
    return statistics.median(samples[-tenth:]) - statistics.median(samples[2 * tenth : 3 * tenth])
