"""What a cluster makes of restarts and of Ray's errors, with groups that are no processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from ray.exceptions import ObjectLostError

from actors.settings.run import DATA, MEMORY
from actors.wire import CheckpointError, Location
from orchestrator.errors import GroupFailedError, LostObjectError
from orchestrator.loop.events import Event, Failed, Restarted
from orchestrator.loop.exchange import Version
from orchestrator.nodes.placement import Seats
from orchestrator.processes.launch import Launcher
from orchestrator.processes.rank_group import RankGroup
from orchestrator.processes.ray_cluster import RayCluster, _lost_of
from tests.unit.orchestrator.loop.test_recovery import saved
from tests.unit.orchestrator.scripted import a_config, a_header, a_version, committed

LATE = GroupFailedError("data rank 0: has no process yet after 300 s")
LOST = ObjectLostError("abc", None, "")


class Groups(Launcher):
    """Makes groups of one actor on the node that is named next; what is in `fails` fails once."""

    def __init__(self, *node_ids: str) -> None:
        self.node_ids = list(node_ids)
        self.fails: dict[str, Exception] = {}
        self.ended: list[Any] = []

    def _maybe_fail(self, what: str) -> None:
        if what in self.fails:
            raise self.fails.pop(what)

    def make(self, names: Iterable[str], stop: object) -> dict[str, RankGroup]:
        self._maybe_fail("make")
        return {name: self._make(name) for name in names}

    def _make(self, name: str) -> RankGroup:
        group = RankGroup(name, [f"an actor on {self.node_ids[0]}"], 60.0)
        group.locations = [Location(name, 0, 1, self.node_ids.pop(0), "host", (), "")]
        return group

    def begin(
        self, groups: Iterable[RankGroup], incarnation: int, checkpoints: Mapping[str, Any],
        stop: object,
    ) -> None:  # fmt: skip
        self._maybe_fail("begin")

    def publish_first(self, group: RankGroup, number: int, exact: bool, stop: object) -> None:
        self._maybe_fail("publish")
        group.first_version = a_version(group.name, number)

    def end(self, actors: Iterable[Any]) -> None:
        self.ended.extend(actors)

    def end_all(self) -> None:
        pass


class Nodes:
    """The nodes that are alive, as Ray lists them."""

    def __init__(self, *alive: str) -> None:
        self.alive = list(alive)

    def nodes(self) -> list[dict[str, Any]]:
        return [{"NodeID": node, "Alive": node in self.alive} for node in ("a", "b", "c", "d")]


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Nodes:
    nodes = Nodes("a", "b", "c", "d")
    monkeypatch.setattr("orchestrator.processes.ray_cluster.ray", nodes)
    return nodes


def a_cluster(*node_ids: str) -> tuple[RayCluster, Groups]:
    """A cluster whose groups began on the first two nodes and are restarted on the others."""
    cluster = RayCluster(a_config(), "", Seats(None))  # type: ignore[arg-type]
    cluster._launcher = groups = Groups(*node_ids)
    cluster.start(lambda: None)
    return cluster, groups


def restarted(cluster: RayCluster, incarnation: int, publish: bool = False) -> Event:
    """What comes of a restart of the data group from its checkpoint of interval 2."""
    checkpoint = saved(committed(DATA, 2)).checkpoint
    cluster.restart(DATA, incarnation, checkpoint, None, publish)
    events: list[Event] = []
    while not events:
        events = cluster.poll(10.0)
    (event,) = events
    return event


def test_a_node_that_was_lost_is_remembered_by_the_start_after_one_that_failed(
    nodes: Nodes,
) -> None:
    cluster, groups = a_cluster("a", "b", "c")
    nodes.alive.remove("a")
    groups.fails["make"] = LATE
    assert restarted(cluster, 1) == Failed(DATA, 0, LATE)
    assert restarted(cluster, 2) == Restarted(DATA, 2, None, True, a_version(DATA, 2))
    cluster.stop()


def test_once_its_versions_are_published_again_a_lost_node_is_forgotten(nodes: Nodes) -> None:
    cluster, _ = a_cluster("a", "b", "c", "d")
    nodes.alive.remove("a")
    assert restarted(cluster, 1) == Restarted(DATA, 1, None, True, a_version(DATA, 2))
    assert restarted(cluster, 2) == Restarted(DATA, 2)
    cluster.stop()


def test_a_node_that_a_group_left_counts_as_long_as_its_versions_may_be_there(
    nodes: Nodes,
) -> None:
    cluster, _ = a_cluster("a", "b", "c", "d")
    assert restarted(cluster, 1) == Restarted(DATA, 1)
    nodes.alive.remove("a")
    assert restarted(cluster, 2) == Restarted(DATA, 2, None, True, a_version(DATA, 2))
    cluster.stop()


def test_a_version_is_published_again_where_that_is_asked_though_no_node_is_lost(
    nodes: Nodes,
) -> None:
    cluster, _ = a_cluster("a", "b", "c")
    event = restarted(cluster, 1, publish=True)
    assert event == Restarted(DATA, 1, None, False, a_version(DATA, 2))
    cluster.stop()


@pytest.mark.parametrize("what", ["begin", "publish"])
def test_a_restart_that_fails_half_way_leaves_no_actor(nodes: Nodes, what: str) -> None:
    cluster, groups = a_cluster("a", "b", "c")
    groups.fails[what] = LATE
    assert restarted(cluster, 1, publish=True) == Failed(DATA, 0, LATE)
    assert groups.ended == ["an actor on a", "an actor on c"]
    cluster.stop()


def test_a_checkpoint_that_is_nowhere_ends_the_run_with_the_way_on(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, groups = a_cluster("a", "b", "c")
    groups.fails["begin"] = LostObjectError("data rank 0 failed while starting: ObjectLostError")

    def refetch(saved: object, stored_part: object, then: str) -> None:
        raise CheckpointError(f"no sound copy; {then}")

    monkeypatch.setattr("orchestrator.processes.ray_cluster.refetch_checkpoint", refetch)
    event = restarted(cluster, 1)
    assert isinstance(event, Failed)
    assert "go on with: tandem resume" in str(event.cause)
    cluster.stop()


class Ref:
    """An object ref of that id."""

    def __init__(self, name: str) -> None:
        self._name = name

    def hex(self) -> str:
        return self._name


def a_pair(data_ref: str, memory_ref: str) -> tuple[Version, Version]:
    return (
        Version(DATA, 2, (a_header(DATA, 2),), (Ref(data_ref),)),
        Version(MEMORY, 3, (a_header(MEMORY, 3),), (Ref("x"), Ref(memory_ref))),
    )


@pytest.mark.parametrize(
    ("data_ref", "memory_ref", "lost"),
    [("abc", "y", (DATA,)), ("y", "abc", (MEMORY,)), ("y", "z", (DATA, MEMORY))],
    ids=["data", "memory", "not-said"],
)
def test_an_evaluation_says_whose_snapshot_was_lost(
    data_ref: str, memory_ref: str, lost: tuple[str, ...]
) -> None:
    assert _lost_of(a_pair(data_ref, memory_ref), LOST) == lost


def test_an_evaluation_that_fails_otherwise_has_lost_nothing() -> None:
    assert _lost_of(a_pair("abc", "abc"), ValueError("abc")) == ()


def test_headers_that_went_with_their_node_are_the_groups_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its reports are small and came; a header in the store did not."""
    from orchestrator.processes.rank_group import _Call, _Returned

    class Ray:
        @staticmethod
        def get(refs: list[str], timeout: float) -> None:
            raise LOST

        @staticmethod
        def wait(refs: list[str], num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
            return [], []

    monkeypatch.setattr("orchestrator.processes.rank_group.ray", Ray)
    group = RankGroup(DATA, ["an actor"], 60.0)
    group._call = _Call(4, {}, _Returned(["header"], ()), _Returned([], ()))
    (event,) = group.collect()
    assert isinstance(event, Failed)
    assert str(event.cause).startswith("data rank 0 failed after interval 4: ObjectLostError")
