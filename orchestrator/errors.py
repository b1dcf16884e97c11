"""Typed errors of the driver: what happened, to whom, and what to do. Each ends the run."""

from __future__ import annotations

from actors.wire import ConfigError, TandemError

# Ray's errors for an object of which no copy is left; by name, since this module knows no Ray.
LOST = ("ObjectLostError", "ObjectReconstructionFailedError", "ObjectFetchTimedOutError",
        "OwnerDiedError")  # fmt: skip


class PlacementError(ConfigError):
    """The cluster can't give what the groups ask for."""


class StoreTooSmallError(ConfigError):
    """The versions that a run keeps don't fit the object store."""


class RunExistsError(ConfigError):
    """The run directory is already there."""


class RayStartError(TandemError):
    """Ray did not start on this machine; the message says how long it was waited for."""

    heading = "error"


class GroupFailedError(TandemError):
    """A rank of a group died, hung or raised; the message names it and the first cause."""


class LostObjectError(GroupFailedError):
    """A rank's input is no longer in the object store: the node that held it was lost."""


class InterruptedRunError(TandemError):
    """A person or the scheduler asked the run to stop."""


def root_cause(err: BaseException) -> BaseException:
    """What the remote code raised, without Ray's wrapping.

    The error itself where Ray has nothing inside.
    """
    cause = getattr(err, "cause", None)
    return cause if isinstance(cause, BaseException) else err


def as_group_error(group: str, rank: int, err: BaseException, when: str) -> TandemError:
    """A rank's failure as one of our errors; those it raised itself keep their type and message."""
    cause = root_cause(err)
    if isinstance(cause, TandemError):
        return cause
    lines = str(cause).strip().splitlines() or [type(cause).__name__]
    # A constructor that raised comes as the text of its traceback, whose last line says what.
    line = lines[-1] if "creation task" in lines[0] else lines[0]
    kind = LostObjectError if type(cause).__name__ in LOST else GroupFailedError
    return kind(f"{group} rank {rank} failed {when}: {type(cause).__name__}: {line}")
