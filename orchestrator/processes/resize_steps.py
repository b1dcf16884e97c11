"""Gives a group another number of workers while its peer goes on.

    prepare   seats and processes of the added ranks, up to their built layers; the group trains on
    switch    between two intervals: the ranks that stay leave their old group in place, all meet
              anew, and each takes the checkpoint of the last interval
    tidy      ends the ranks that go, and gives their seats back; the group trains already

Ranks that stay keep their process, layer and card, so nothing is loaded twice and no second copy
needs room. What fails while it is prepared is undone; what fails in the switch is a failure of the
group, which is then made anew with its new size. Everything here waits; called on threads of
`cluster`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from actors.wire import Location
from orchestrator.loop.exchange import GroupCheckpoint
from orchestrator.processes.launch import Launcher
from orchestrator.processes.rank_group import RankGroup

Stop = Callable[[], str | None]


class ResizeSteps:
    """Carries out one resize at a time.

    Args:
        launcher: owns the processes and their seats.
    """

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self._wanted: dict[str, int] = {}
        self._added: dict[str, list[tuple[Any, Location]]] = {}

    def prepare(self, sizes: Mapping[str, int], wait_s: float, stop: Stop) -> None:
        """Brings up what groups of these sizes lack.

        Args:
            sizes: numbers of workers of the groups that change.
            wait_s: for resources.
            stop: asked twice a second; a reason ends the wait.

        Raises:
            PlacementError: asked and available; nothing is left of what was added.
            TandemError: a process could not be started; likewise.
        """
        launcher = self._launcher
        launcher.seating.add(sizes, wait_s, stop)
        try:
            self._added = launcher.make_added(sizes, stop)
        except BaseException:
            for name in sizes:
                launcher.seating.remove(name, launcher.size(name))
            raise
        self._wanted = dict(sizes)

    def switch(
        self, old: RankGroup, incarnation: int, saved: GroupCheckpoint, stop: Stop
    ) -> tuple[RankGroup, list[Any]]:
        """The group with its new size, and the actors that it leaves behind, for `tidy`.

        Args:
            old: the group, between two intervals.
            incarnation: of its processes.
            saved: its state after the last one.
            stop: as in `prepare`.

        Raises:
            TandemError: a process died meanwhile; all of the group's are ended.
        """
        name = old.name
        num, added = self._wanted.pop(name), self._added.pop(name, [])
        self._launcher.set_size(name, num)
        group = RankGroup(
            name, [*old.actors[:num], *(actor for actor, _ in added)], old.heartbeat_s
        )
        group.locations = [*old.locations[:num], *(where for _, where in added)]
        try:
            self._launcher.regroup(group, incarnation, saved, stop)
        except BaseException:
            self._launcher.end([*old.actors, *group.actors])
            self._launcher.forget(name)
            raise
        return group, old.actors[num:]

    def tidy(self, name: str, left: list[Any]) -> None:
        """Ends the actors that a group left behind, and gives back the seats that it lacks."""
        self._launcher.end(left)
        self._launcher.forget(name)
