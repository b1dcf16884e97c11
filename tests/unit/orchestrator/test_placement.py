from __future__ import annotations

from typing import Any

import pytest

from actors.spec import DATA, MEMORY
from orchestrator.placement import EVALUATOR, bundle_index, bundles, evaluator_bundle, shortages
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
