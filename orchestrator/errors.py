"""Typed errors of the driver.

What happened, to whom, and what to do. All end a run; none is caught in passing.
"""

from __future__ import annotations

from actors.wire import ConfigError, TandemError


class PlacementError(ConfigError):
    """The cluster can't give what the groups ask for."""


class StoreTooSmallError(ConfigError):
    """The versions that a run keeps don't fit the object store."""


class RunExistsError(ConfigError):
    """The run directory is already there."""


class GroupFailedError(TandemError):
    """A rank of a group died, hung or raised; the message names it and the first cause."""


class InterruptedRunError(TandemError):
    """A person or the scheduler asked the run to stop."""
