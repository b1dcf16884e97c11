"""The state of a run: in `summary.json`, in `status.json`, and as `tandem status` shows it."""

from __future__ import annotations

from enum import StrEnum


class RunStatus(StrEnum):
    """The state of a run: the first four say how it ended."""

    FINISHED = "finished"
    UNREFLECTED = "finished_unreflected"  # the memory did not catch up with the final data layer
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    RUNNING = "running"
    SILENT = "silent"  # its driver died
    STARTING = "starting"  # it has no status yet
    NO_RUN = "no run"


def is_finished(status: object) -> bool:
    """Whether a status, as a file holds it, is that of a run that came to its end."""
    return status in (RunStatus.FINISHED, RunStatus.UNREFLECTED)
