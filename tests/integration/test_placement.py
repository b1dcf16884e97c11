"""Where a run's bundles land on a Ray that does not scale, and what is said where they can't."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

from orchestrator.errors import InterruptedRunError, PlacementError
from orchestrator.nodes.placement import Seats, make_group, reserve
from orchestrator.processes.seating import Seating
from orchestrator.run import train
from orchestrator.settings.config import Config, load_config

pytestmark = pytest.mark.usefixtures("shared_ray")


def config_of(workplace: Path, *overrides: str) -> Config:
    return load_config(str(workplace / "tiny.yaml"), ["name=placed", *overrides])


@pytest.fixture
def taken() -> Iterator[PlacementGroup]:
    """All CPUs, held by another run."""
    group = placement_group([{"CPU": 2}])
    assert group.wait(30)
    yield group
    remove_placement_group(group)


def states() -> list[str]:
    return [row["state"] for row in placement_group_table().values()]


def wait_until_none_is_pending() -> None:
    deadline = time.monotonic() + 10  # Ray removes them in the background
    while "PENDING" in states() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "PENDING" not in states()


def test_groups_go_where_their_labels_are(workplace: Path) -> None:
    (node,) = [n["NodeID"] for n in ray.nodes() if n["Alive"]]
    mine = f"node_labels={{ray.io/node-id: {node}}}"
    group = reserve(
        config_of(workplace, f"data.workers.{mine}", f"memory.workers.{mine}"), lambda: None
    )
    try:
        assert set(placement_group_table(group)["bundles_to_node_id"].values()) == {node}
    finally:
        remove_placement_group(group)


@pytest.mark.long
def test_a_group_stands_on_no_node_but_those_of_its_label(workplace: Path) -> None:
    group = make_group(config_of(workplace, "data.workers.node_labels.tandem-group=data"))
    try:
        assert not group.wait(2)
    finally:
        remove_placement_group(group)


@pytest.mark.long
def test_a_worker_that_is_added_stands_on_no_node_but_those_of_its_label(workplace: Path) -> None:
    (node,) = [n["NodeID"] for n in ray.nodes() if n["Alive"]]
    for labels, fits in ((f"ray.io/node-id: {node}", True), ("tandem-group: memory", False)):
        settings = ["memory.workers.cpus=0.5", f"memory.workers.node_labels={{{labels}}}"]
        config = config_of(workplace, *settings)
        added = Seating(config, Seats(None))  # type: ignore[arg-type]
        if fits:
            added.add({"memory": 2}, 10, lambda: None)
        else:
            with pytest.raises(PlacementError, match="on nodes labelled tandem-group=memory"):
                added.add({"memory": 2}, 1, lambda: None)
        added.close()
    wait_until_none_is_pending()


def test_a_label_that_no_node_has_is_refused_at_once_and_leaves_nothing(workplace: Path) -> None:
    config = config_of(workplace, "memory.workers.node_labels.tandem-group=memory")
    before, began = states(), time.monotonic()
    with pytest.raises(PlacementError) as refused:
        train(config)
    assert time.monotonic() - began < 10
    assert "memory: no node has the labels tandem-group=memory" in str(refused.value)
    assert "labels there are: " in str(refused.value)
    assert states() == before
    assert not Path(config.run_url).exists()


def test_a_run_waits_for_another_to_end_and_says_so(workplace: Path, taken: PlacementGroup) -> None:
    told: list[str] = []

    def give_back(text: str) -> None:
        told.append(text)
        remove_placement_group(taken)

    group = reserve(config_of(workplace), lambda: None, give_back)
    remove_placement_group(group)
    assert told[0] == "waiting for data 1 x (CPU 1), memory 1 x (CPU 1)"


@pytest.mark.long
def test_a_run_that_has_waited_long_enough_says_for_what(
    workplace: Path, taken: PlacementGroup
) -> None:
    config = config_of(workplace, "deadlines.start_s=1.2")
    with pytest.raises(PlacementError, match=r"not there after 1.2 s: waiting for data 1 x .CPU 1"):
        reserve(config, lambda: None)
    wait_until_none_is_pending()


def test_a_stop_ends_the_wait_and_gives_the_place_back(
    workplace: Path, taken: PlacementGroup
) -> None:
    with pytest.raises(InterruptedRunError, match="enough"):
        reserve(config_of(workplace), lambda: "enough")
    wait_until_none_is_pending()
