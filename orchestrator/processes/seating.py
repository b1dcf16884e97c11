"""The bundle of each worker: one of the run's placement group, or one of its own where a resize
added it.

Placement groups can't grow, so a worker that a resize adds gets one of its own, which is removed
with it. The bundles that a run began with stay reserved until its end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from actors.settings.run import EVALUATOR
from orchestrator.errors import InterruptedRunError, PlacementError
from orchestrator.loop.resize_rules import group_sizes
from orchestrator.nodes.placement import Resources, Seats, bundle, bundle_index, labels_of
from orchestrator.settings.config import Config

POLL_S = 0.5  # how late a stop is noticed

GroupRank = tuple[str, int]


class Seating:
    """Which bundle each worker of a run has.

    Args:
        config: the run as it began.
        seats: bundles as `placement.bundles` orders them.
    """

    def __init__(self, config: Config, seats: Seats) -> None:
        self._config, self._seats = config, seats
        self._own = group_sizes(config)
        self._added: dict[GroupRank, PlacementGroup] = {}

    def of(self, name: str, rank: int) -> tuple[PlacementGroup, int]:
        """The placement group of a worker, or of the evaluator, and the bundle in it."""
        if name == EVALUATOR or rank < self._own[name]:
            index = self._seats.first_bundle + bundle_index(self._config, name, rank)
            return self._seats.group, index
        return self._added[name, rank], 0

    def add(self, sizes: Mapping[str, int], wait_s: float, stop: Callable[[], str | None]) -> None:
        """Reserves the bundles that groups of these sizes lack; all of them or none.

        Args:
            sizes: numbers of workers.
            wait_s: for the resources.
            stop: asked twice a second; a reason ends the wait.

        Raises:
            PlacementError: asked and available.
            InterruptedRunError: a stop was requested meanwhile.
        """
        missing = [
            (name, rank)
            for name, num in sizes.items()
            for rank in range(self._own[name], num)
            if (name, rank) not in self._added
        ]
        wanted = {rank: bundle(self._config.group(rank[0]).workers) for rank in missing}
        made: dict[GroupRank, PlacementGroup] = {}
        deadline = time.monotonic() + wait_s
        try:
            for rank in missing:
                made[rank] = self._make_group(rank[0], wanted[rank])
            for group in made.values():
                while not group.wait(min(POLL_S, max(0.01, deadline - time.monotonic()))):
                    if reason := stop():
                        raise InterruptedRunError(reason)
                    if time.monotonic() > deadline:
                        labels = [labels_of(self._config, name) for name in sizes]
                        raise PlacementError(shortage(list(wanted.values()), labels, wait_s))
        except BaseException:  # Ctrl-C, too: nothing may be left behind
            for group in made.values():
                remove_placement_group(group)
            raise
        self._added |= made

    def _make_group(self, name: str, wanted: Resources) -> PlacementGroup:
        """A placement group for one worker, on a node with the labels of its group."""
        labels = labels_of(self._config, name)
        return placement_group([wanted], bundle_label_selector=[labels] if labels else None)

    def remove(self, name: str, num: int) -> None:
        """Releases the added bundles of a group from rank `num` on; their processes have ended."""
        for added in [key for key in self._added if key[0] == name and key[1] >= num]:
            remove_placement_group(self._added.pop(added))

    def close(self) -> None:
        """Releases all added bundles."""
        for name in self._own:
            self.remove(name, 0)


def shortage(wanted: Sequence[Resources], labels: Sequence[dict[str, str]], wait_s: float) -> str:
    """What is asked for, on nodes with which labels, and what the cluster has, by resource."""
    total, free = ray.cluster_resources(), ray.available_resources()
    lines = []
    for resource in ("CPU", "GPU"):
        if asked := sum(b.get(resource, 0.0) for b in wanted):
            have, of = free.get(resource, 0.0), total.get(resource, 0.0)
            lines.append(f"{resource}: asked {asked:g} more, available {have:g} of {of:g}")
    asked_labels = sorted({f"{key}={value}" for own in labels for key, value in own.items()})
    if asked_labels:
        lines.append(f"on nodes labelled {', '.join(asked_labels)}")
    return (
        f"not enough resources for {len(wanted)} more worker(s) after {wait_s:g} s: "
        f"{'; '.join(lines)}; add nodes, wait for other jobs to end, or ask for fewer"
    )
