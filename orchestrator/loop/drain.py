"""How a run stops with a last checkpoint: which interval both groups still reach, and until when.
Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.loop.schedule import GroupProgress, Plan
from orchestrator.settings.config import Config


@dataclass(frozen=True)
class Drain:
    """A run that is to stop with a last checkpoint of both groups.

    Attributes:
        interval: the last one of both groups; it ends with the checkpoint.
        until: the deadline for that, on the coordinator's clock.
        reason: why the run stops.
    """

    interval: int
    until: float
    reason: str

    def too_late(self, limit_s: float) -> str:
        """The reason of a stop whose checkpoint was not complete in time."""
        return f"{self.reason}; no new checkpoint came within recovery.drain_s ({limit_s:g} s)"


def next_common_version(plan: Plan, progress: Mapping[str, GroupProgress]) -> int | None:
    """The first interval with a version that no group has begun; None where none is left."""
    return plan.next_published(max(p.begun for p in progress.values()))


def plan_drain(
    config: Config, plan: Plan, progress: Mapping[str, GroupProgress], reason: str, now: float
) -> Drain | None:
    """The stop of a run after the first interval with a version that no group has begun.

    None where no such interval is left, where the run makes no checkpoints, or where
    `recovery.drain_s` is 0.
    """
    interval = next_common_version(plan, progress)
    drain_s = config.recovery.drain_s if config.checkpoints.every else 0.0
    if drain_s == 0 or interval is None:
        return None
    return Drain(interval, now + drain_s, reason)


def say_stop(config: Config) -> str:
    """What a run that is asked to stop does, for whoever asks."""
    if not config.checkpoints.every:
        return (
            "the run stops at once; it makes no checkpoints (checkpoints.every is 0), and a resume "
            "begins anew"
        )
    if config.recovery.drain_s == 0:
        return "the run stops at once, without another checkpoint (recovery.drain_s is 0)"
    return (
        "the run stops after a checkpoint of both groups, if one of their intervals is left for it "
        f"and ends within {config.recovery.drain_s:g} s (recovery.drain_s)"
    )
