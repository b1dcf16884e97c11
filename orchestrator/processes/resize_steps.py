"""The steps by which a group on Ray gets another number of workers while its peer goes on.

    prepare   reserves bundles and starts processes of the added ranks, layers included; the group
              trains on
    switch    between two intervals: the ranks that stay leave their process group, all ranks join a
              new one, and each restores the checkpoint of the last interval
    tidy      ends the removed ranks and releases their bundles; the group trains already

Ranks that stay keep their process, layer and GPU, so nothing is loaded twice and no second copy
needs memory. A failure in `prepare` is undone; one in `switch` is a failure of the group, which is
then restarted with its new size. Everything here waits; called on threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ray.actor import ActorHandle

from actors.wire import Location
from orchestrator.loop.exchange import GroupCheckpoint
from orchestrator.processes.launch import Launcher
from orchestrator.processes.rank_group import RankGroup

Stop = Callable[[], str | None]


class ResizeSteps:
    """Carries out one resize at a time.

    Args:
        launcher: owns the processes and their bundles.
    """

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self._new_sizes: dict[str, int] = {}
        self._added: dict[str, list[tuple[ActorHandle, Location]]] = {}

    def prepare(self, sizes: Mapping[str, int], wait_s: float, stop: Stop) -> None:
        """Starts the workers that groups of these sizes lack.

        Args:
            sizes: numbers of workers of the groups that change.
            wait_s: for resources.
            stop: asked twice a second; a reason ends the wait.

        Raises:
            PlacementError: asked and available; nothing that was added is left.
            TandemError: a process could not be started; likewise.
        """
        launcher = self._launcher
        launcher.seating.add(sizes, wait_s, stop)
        try:
            self._added = launcher.make_added(sizes, stop)
        except BaseException:  # Ctrl-C, too: nothing may be left behind
            for name in sizes:
                launcher.seating.remove(name, launcher.size(name))
            raise
        self._new_sizes = dict(sizes)

    def switch(
        self, old: RankGroup, incarnation: int, saved: GroupCheckpoint, stop: Stop
    ) -> tuple[RankGroup, list[ActorHandle]]:
        """The group with its new size, and the actors that were removed from it, for `tidy`.

        Args:
            old: the group, between two intervals.
            incarnation: of its processes.
            saved: its state after the last one.
            stop: as in `prepare`.

        Raises:
            TandemError: a process died meanwhile; all of the group's are ended.
        """
        name = old.name
        num, added = self._new_sizes.pop(name), self._added.pop(name, [])
        self._launcher.set_size(name, num)
        group = RankGroup(
            name, [*old.actors[:num], *(actor for actor, _ in added)], old.heartbeat_s
        )
        group.locations = [*old.locations[:num], *(where for _, where in added)]
        try:
            self._launcher.regroup(group, incarnation, saved, stop)
        except BaseException:  # Ctrl-C, too: nothing may be left behind
            self._launcher.end([*old.actors, *group.actors])
            self._launcher.forget(name)
            raise
        return group, old.actors[num:]

    def tidy(self, name: str, removed: list[ActorHandle]) -> None:
        """Ends the actors that were removed from a group, and releases their bundles."""
        self._launcher.end(removed)
        self._launcher.forget(name)
