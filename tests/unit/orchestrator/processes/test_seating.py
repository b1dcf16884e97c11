from __future__ import annotations

from typing import Any

import pytest

from actors.settings.run import DATA, EVALUATOR, MEMORY
from orchestrator.errors import InterruptedRunError, PlacementError
from orchestrator.nodes.placement import Seats
from orchestrator.processes.seating import Seating
from tests.unit.orchestrator.scripted import a_config


class Group:
    """A placement group that is ready, or never is."""

    def __init__(self, bundles: list[dict[str, float]], ready: bool) -> None:
        self.bundles, self.ready = bundles, ready

    def wait(self, timeout_seconds: float) -> bool:
        return self.ready


class Ray:
    """What `seating` asks of Ray: so many placement groups get their resources."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.held: list[Group] = []

    def placement_group(
        self, bundles: list[dict[str, float]], bundle_label_selector: list[dict[str, str]] | None
    ) -> Group:
        group = Group(bundles, len(self.held) < self.room)
        self.held.append(group)
        return group

    def remove_placement_group(self, group: Group) -> None:
        self.held.remove(group)

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 4.0}

    def available_resources(self) -> dict[str, float]:
        return {"CPU": 1.0}


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    ray = Ray(room=2)
    monkeypatch.setattr("orchestrator.processes.seating.ray", ray)
    for name in ("placement_group", "remove_placement_group"):
        monkeypatch.setattr(f"orchestrator.processes.seating.{name}", getattr(ray, name))
    return ray


def a_seating(**workers: int) -> Seating:
    sizes = {group: {"workers": {"num_workers": num}} for group, num in workers.items()}
    own: Any = "the run's own"
    return Seating(a_config(evaluation={"every": 0, "cpus": 1}, **sizes), Seats(own, 1))


def never() -> str | None:
    return None


def test_the_workers_of_the_beginning_sit_in_the_runs_own_bundles(ray: Ray) -> None:
    seating = a_seating(data=2, memory=1)
    seats = [seating.of(*s) for s in ((DATA, 0), (DATA, 1), (MEMORY, 0), (EVALUATOR, 0))]
    assert seats == [("the run's own", index) for index in (1, 2, 3, 4)]
    assert ray.held == []


def test_each_added_worker_sits_in_a_placement_group_of_its_own(ray: Ray) -> None:
    seating = a_seating()
    seating.add({DATA: 2, MEMORY: 2}, 1.0, never)
    places = [seating.of(DATA, 1), seating.of(MEMORY, 1)]
    assert places == [(ray.held[0], 0), (ray.held[1], 0)]  # type: ignore[comparison-overlap]
    assert ray.held[0].bundles == [{"CPU": 1.0}]


def test_seats_of_the_beginning_are_not_reserved_twice(ray: Ray) -> None:
    a_seating(data=3).add({DATA: 3}, 1.0, never)
    assert ray.held == []


def test_where_one_can_not_be_had_none_is_kept_and_asked_and_available_are_named(ray: Ray) -> None:
    with pytest.raises(PlacementError) as raised:
        a_seating().add({DATA: 4}, 0.0, never)
    assert ray.held == []
    assert "3 more worker(s) after 0 s: CPU: asked 3 more, available 1 of 4" in str(raised.value)


def test_a_stop_ends_the_wait_and_keeps_none(ray: Ray) -> None:
    with pytest.raises(InterruptedRunError, match="the run has ended"):
        a_seating().add({DATA: 4}, 60.0, lambda: "the run has ended")
    assert ray.held == []


def test_a_shrink_gives_back_what_it_ends_and_an_end_all(ray: Ray) -> None:
    seating = a_seating()
    seating.add({MEMORY: 3}, 1.0, never)
    first, _ = ray.held
    seating.remove(MEMORY, 2)
    assert ray.held == [first]
    seating.close()
    assert ray.held == []
