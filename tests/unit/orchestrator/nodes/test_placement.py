from __future__ import annotations

from typing import Any

import pytest

from actors.settings.run import DATA, MEMORY
from orchestrator.errors import PlacementError
from orchestrator.nodes.autoscaler import ScalerState
from orchestrator.nodes.nodes import Node
from orchestrator.nodes.placement import (
    EVALUATOR,
    bundle_index,
    bundle_labels,
    bundles,
    check_resources,
    evaluator_bundle,
    label_shortages,
    shortages,
    waiting_for,
)
from orchestrator.settings.config import Config
from tests.unit.orchestrator.scripted import a_config


def workers(**data_and_memory: Any) -> dict[str, Any]:
    return {group: {"workers": resources} for group, resources in data_and_memory.items()}


def test_the_bundles_are_the_data_groups_the_memory_groups_and_the_evaluators() -> None:
    config = a_config(
        **workers(data={"cpus": 2, "gpus": 1}, memory={"cpus": 3, "gpus": 0.5}),
        evaluation={"cpus": 1, "gpus": 0.25},
    )
    assert bundles(config) == [
        {"CPU": 2.0, "GPU": 1.0},
        {"CPU": 3.0, "GPU": 0.5},
        {"CPU": 1.0, "GPU": 0.25},
    ]


def test_an_evaluator_that_reserves_nothing_has_no_bundle() -> None:
    assert evaluator_bundle(a_config()) == {}
    assert bundles(a_config()) == [{"CPU": 1.0}, {"CPU": 1.0}]


def test_bundle_indices_are_the_places_in_the_list_of_bundles() -> None:
    config = a_config(
        **workers(data={"cpus": 2}, memory={"cpus": 3}), evaluation={"cpus": 4, "every": 0}
    )
    cpus = [
        bundles(config)[bundle_index(config, group, 0)]["CPU"]
        for group in (DATA, MEMORY, EVALUATOR)
    ]
    assert cpus == [2.0, 3.0, 4.0]


def test_nothing_is_short_when_all_that_is_asked_is_there() -> None:
    assert shortages(a_config(), {"CPU": 2.0}) == []


def test_fractions_that_add_up_to_what_there_is_are_not_short() -> None:
    config = a_config(**workers(data={"gpus": 0.1}, memory={"gpus": 0.2}))
    assert shortages(config, {"CPU": 2.0, "GPU": 0.3}) == []


def test_each_resource_that_is_short_has_a_line_with_asked_and_available() -> None:
    config = a_config(**workers(data={"cpus": 4, "gpus": 1}, memory={"cpus": 2}))
    assert shortages(config, {"CPU": 2.0}) == [
        "CPU: asked 6 (data 1 x 4, memory 1 x 2), available 2",
        "GPU: asked 1 (data 1 x 1, memory 1 x 0), available 0",
    ]


@pytest.mark.parametrize(("cpus", "gpus", "short"), [(1.0, 9.0, "CPU"), (9.0, 0.5, "GPU")])
def test_only_the_resource_that_is_short_is_named(cpus: float, gpus: float, short: str) -> None:
    config = a_config(**workers(data={"gpus": 0.5}, memory={"gpus": 0.5}))
    lines = shortages(config, {"CPU": cpus, "GPU": gpus})
    assert [line.partition(":")[0] for line in lines] == [short]


def test_a_shortage_that_the_evaluator_makes_names_the_evaluator() -> None:
    (line,) = shortages(a_config(evaluation={"cpus": 3}), {"CPU": 4.0})
    assert "asked 5" in line
    assert "evaluator" in line


def labelled(**evaluation: Any) -> Config:
    """Two data workers and a memory worker, each group on nodes of its own."""
    return a_config(
        **workers(
            data={"num_workers": 2, "gpus": 1, "node_labels": {"tandem-group": "data"}},
            memory={"gpus": 1, "node_labels": {"tandem-group": "memory"}},
        ),
        evaluation=evaluation,
    )


def a_node(group: str, cpus: float = 8, gpus: float = 2) -> Node:
    return Node({"CPU": cpus, "GPU": gpus}, {"tandem-group": group, "ray.io/node-id": group})


def test_each_bundle_asks_for_the_labels_of_its_group() -> None:
    data, memory, head = ({"tandem-group": name} for name in ("data", "memory", "head"))
    assert bundle_labels(labelled()) == [data, data, memory]
    assert bundle_labels(labelled(cpus=1, node_labels=head)) == [data, data, memory, head]
    assert bundle_labels(a_config()) == [{}, {}]


def test_groups_whose_labelled_nodes_have_enough_are_not_short() -> None:
    assert label_shortages(labelled(), [a_node("data"), a_node("memory")]) == []


def test_a_label_that_no_node_has_is_named_with_its_group_and_the_labels_there_are() -> None:
    (line,) = label_shortages(labelled(), [a_node("data"), a_node("data"), Node({"CPU": 1})])
    assert line == (
        "memory: no node has the labels tandem-group=memory (set by memory.workers.node_labels); "
        "labels there are: tandem-group=data (2 node(s))"
    )


def test_too_little_on_the_nodes_of_a_label_is_short_however_much_others_have() -> None:
    nodes = [a_node("data", gpus=1), a_node("memory", gpus=64)]
    assert label_shortages(labelled(), nodes) == [
        "data: GPU asked on nodes with tandem-group=data: 2, available 1 on 1 of them"
    ]


def test_groups_that_ask_for_the_same_label_share_its_nodes() -> None:
    same = {"node_labels": {"pool": "a"}, "cpus": 2}
    config = a_config(**workers(data=same, memory=same))
    (line,) = label_shortages(config, [Node({"CPU": 3}, {"pool": "a"})])
    assert line.startswith("data and memory: CPU asked on nodes with pool=a: 4, available 3")


def test_the_labels_of_an_evaluator_are_looked_for_too() -> None:
    config = labelled(cpus=1, node_labels={"tandem-group": "head"})
    (line,) = label_shortages(config, [a_node("data"), a_node("memory")])
    assert line.startswith("evaluator: no node has the labels tandem-group=head")
    assert "evaluation.node_labels" in line


def test_labels_are_refused_where_no_nodes_are_known() -> None:
    with pytest.raises(PlacementError, match=r"data: no node has .*labels there are: none"):
        check_resources(labelled(), {"CPU": 9.0, "GPU": 9.0})


def test_a_run_says_what_it_waits_for_and_what_is_starting() -> None:
    state = ScalerState({"data": 2}, frozenset())
    assert waiting_for(labelled(cpus=2), state) == (
        "waiting for data 2 x (CPU 1, GPU 1) on nodes with tandem-group=data, "
        "memory 1 x (CPU 1, GPU 1) on nodes with tandem-group=memory, evaluator 1 x (CPU 2); "
        "starting: 2 data"
    )
