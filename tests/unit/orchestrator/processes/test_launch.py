"""What a launcher keeps and ends, with actors that are no processes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from ray.exceptions import RayError

from actors.settings.run import DATA, GROUPS, MEMORY
from actors.wire import Location
from orchestrator.errors import GroupFailedError
from orchestrator.nodes.placement import Seats
from orchestrator.processes.launch import Launcher
from tests.unit.orchestrator.interleaved import interrupted_at
from tests.unit.orchestrator.scripted import a_config

WHERE = Location(DATA, 0, 1, "node", "host", (), "")


class Method:
    """An actor's method: a call is a ref."""

    def __init__(self, ray: Ray, name: str) -> None:
        self._ray, self._name = ray, name

    def remote(self, *arguments: Any) -> str:
        ref = f"{self._name} {next(self._ray.numbers)}"
        self._ray.calls.append(ref)
        return ref


class Actor:
    """A process of which only what was asked is known."""

    def __init__(self, ray: Ray) -> None:
        self._ray = ray

    def __getattr__(self, name: str) -> Method:
        return Method(self._ray, name)


class Ray:
    """What `launch` asks of Ray: no more than so many actors can be made, and no call of `fails`
    ends well.
    """

    def __init__(self, room: int = 100, fails: str = "nothing") -> None:
        self.room, self.fails = room, fails
        self.numbers = itertools.count()
        self.made: list[Actor] = []
        self.killed: list[Actor] = []
        self.calls: list[str] = []

    def options(self, **options: Any) -> Ray:
        return self

    def remote(self, *arguments: Any) -> Actor:
        if len(self.made) == self.room:
            raise ValueError("Ray takes no more actors")
        self.made.append(Actor(self))
        return self.made[-1]

    def wait(self, refs: list[str], timeout: float) -> tuple[list[str], list[str]]:
        return refs, []

    def get(self, ref: str) -> Location | None:
        if ref.startswith(self.fails):
            raise RayError("it died")
        return WHERE

    def kill(self, actor: Actor, no_restart: bool) -> None:
        self.killed.append(actor)

    def get_runtime_context(self) -> Ray:
        return self

    def get_node_id(self) -> str:
        return "another node"


Launched = Callable[[Ray], Launcher]


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Launched:
    """A launcher of two workers for each group, on that Ray."""

    def make(ray: Ray) -> Launcher:
        monkeypatch.setattr("orchestrator.processes.launch.ray", ray)
        monkeypatch.setattr("orchestrator.processes.launch.RankActor", ray)
        config = a_config(**{group: {"workers": {"num_workers": 2}} for group in GROUPS})
        launcher = Launcher(config, "", Seats(None))  # type: ignore[arg-type]
        monkeypatch.setattr(launcher, "options", lambda *asked: {})
        return launcher

    return make


def no_stop() -> None:
    return None


@pytest.mark.parametrize("room", [1, 3])
def test_where_an_actor_cant_be_made_those_before_it_are_ended(
    launcher: Launched, room: int
) -> None:
    ray = Ray(room)
    with pytest.raises(ValueError, match="no more actors"):
        launcher(ray).make(GROUPS, no_stop)
    assert ray.killed == ray.made
    assert len(ray.made) == room


def test_a_rank_without_a_process_leaves_no_actor_of_its_group(launcher: Launched) -> None:
    ray = Ray(fails="locate 3")
    with pytest.raises(GroupFailedError, match="failed while starting"):
        launcher(ray).make(GROUPS, no_stop)
    assert len(ray.made) == 4
    assert ray.killed == ray.made


def test_a_spare_that_took_its_place_is_ended_with_the_others(launcher: Launched) -> None:
    ray = Ray()
    it = launcher(ray)
    it.warm(DATA)
    ray.room, spares = 2, list(ray.made)
    with pytest.raises(ValueError, match="no more actors"):
        it.make(GROUPS, no_stop)
    assert ray.killed == spares


def test_a_rank_that_is_late_is_asked_what_it_does_and_not_its_spare(
    launcher: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = Ray()
    it = launcher(ray)
    ranks = it.make([DATA], no_stop)[DATA]
    it.warm(DATA)
    asked: dict[tuple[str, int], Any] = {}

    def late_start(late: Any, processes: dict[Any, Any], *rest: Any) -> GroupFailedError:
        asked.update({rank: processes[rank][0] for rank in late})
        return GroupFailedError("late")

    monkeypatch.setattr("orchestrator.processes.launch.late_start", late_start)
    monkeypatch.setattr(ray, "wait", lambda refs, timeout: ([], refs))
    with pytest.raises(GroupFailedError, match="late"):
        it.await_all(ranks.call_all("regroup"), 0.0, "did not leave its old group", no_stop)
    assert asked == {(DATA, rank): actor for rank, actor in enumerate(ranks.actors)}


def test_added_ranks_that_cant_all_be_made_are_ended(launcher: Launched) -> None:
    ray = Ray(room=1)
    with pytest.raises(ValueError, match="no more actors"):
        launcher(ray).make_added({DATA: 3, MEMORY: 3}, no_stop)
    assert len(ray.made) == 1
    assert ray.killed == ray.made


def test_added_ranks_get_the_size_to_come_and_the_launcher_keeps_its_own(
    launcher: Launched,
) -> None:
    it = launcher(Ray())
    assert len(it.make_added({DATA: 4}, no_stop)[DATA]) == 2
    assert it.size(DATA) == 2


def test_two_groups_that_are_resized_at_once_both_have_their_size(launcher: Launched) -> None:
    """At whatever place one thread is interrupted by the other."""
    turns = 0
    while True:
        it = launcher(Ray())
        data, memory = partial(it.set_size, DATA, 3), partial(it.set_size, MEMORY, 1)
        if not interrupted_at(turns, Launcher.set_size.__code__, data, memory):
            break
        assert (it.size(DATA), it.size(MEMORY)) == (3, 1)
        assert {name: it.spec.group(name).workers.num_workers for name in GROUPS} == {
            DATA: 3,
            MEMORY: 1,
        }
        turns += 1
    assert turns > 0
