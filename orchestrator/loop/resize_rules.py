"""Whether a group may have another number of workers, and the config with it. Pure.

The global batch stays what the config says, so a resize changes speed and nothing else; see
docs/decisions/0007.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from actors.settings.run import GROUPS
from actors.wire import ConfigError
from orchestrator.loop.schedule import GroupProgress, Plan
from orchestrator.settings.config import Config, make_config


@dataclass(frozen=True)
class Resize:
    """One group's resize, as the report tells it.

    Attributes:
        group: which one.
        interval: the last one with the old number of workers.
        before, after: numbers of workers.
        prepare_s: seconds until the added workers were ready, while the group trained on.
        pause_s: seconds from the end of that interval until the group could begin the next.
    """

    group: str
    interval: int
    before: int
    after: int
    prepare_s: float
    pause_s: float

    def __str__(self) -> str:
        return (
            f"the {self.group} group has {self.after} worker(s) instead of {self.before} after "
            f"interval {self.interval}: ready in {self.prepare_s:.1f} s, paused for "
            f"{self.pause_s:.2f} s"
        )


def group_sizes(config: Config) -> dict[str, int]:
    """Workers by group."""
    return {group: config.group(group).workers.num_workers for group in GROUPS}


def with_sizes(config: Config, sizes: Mapping[str, int]) -> Config:
    """The config with other numbers of workers.

    Raises:
        ConfigError: a group has fewer sequences in its batch than passes.
    """
    values = config.model_dump(by_alias=True)
    for group, num in sizes.items():
        values[group]["workers"]["num_workers"] = num
    return make_config(values, source="resize")


def refuse_resize(
    config: Config, sizes: Mapping[str, int], plan: Plan, progress: Mapping[str, GroupProgress]
) -> str | None:
    """Why the groups of a run in progress can't be given other sizes; None where they can.

    Args:
        config: as the run is now.
        sizes: new numbers of workers, by group.
        plan: of the run.
        progress: of both groups.
    """
    if not config.checkpoints.every:
        return "a resize needs checkpoints, and checkpoints.every is 0 in this run"
    try:
        with_sizes(config, sizes)
    except ConfigError as err:
        return str(err)
    for group in sizes:
        if plan.next_published(progress[group].begun) in (plan.intervals, None):
            return f"the {group} group has no interval left at whose end it could be resized"
    return None
