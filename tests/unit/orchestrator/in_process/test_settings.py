"""Settings that need processes are refused by name; deadlines and restarts are off."""

from __future__ import annotations

import math
from typing import Any

import pytest

from actors.wire import ConfigError
from orchestrator.in_process.settings import refuse_what_needs_processes, without_deadlines
from tests.unit.orchestrator.scripted import a_config

TWO = {"workers": {"num_workers": 2}}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"data": TWO}, "data.workers.num_workers is 2; at most 1"),
        ({"memory": TWO}, "memory.workers.num_workers is 2; at most 1"),
        ({"exchange": {"mode": "async"}}, "exchange.mode is async; lockstep only"),
        ({"data": {"workers": {"gpus": 2}}}, "data.workers.gpus 2 is 2 GPUs; at most 1"),
        (
            {"data": {"workers": {"gpus": 0.7}}, "evaluation": {"gpus": 0.5}},
            "data.workers.gpus 0.7 + evaluation.gpus 0.5 is 1.2 GPUs; at most 1",
        ),
        (
            {"memory": {"workers": {"node_labels": {"group": "memory"}}}},
            "memory.workers.node_labels asks for other nodes",
        ),
        (
            {"evaluation": {"cpus": 1, "node_labels": {"group": "memory"}}},
            "evaluation.node_labels asks for other nodes",
        ),
        ({"recovery": {"warm_spares": True}}, "recovery.warm_spares is true"),
        ({"ray": {"address": "10.0.0.1:6379"}}, "ray.address is 10.0.0.1:6379; no Ray is joined"),
    ],
)
def test_what_needs_processes_is_refused_by_the_name_of_its_setting(
    changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        refuse_what_needs_processes(a_config(**changes))
    assert named in str(refused.value)
    assert len(str(refused.value).splitlines()) == 3  # and nothing else is


def test_one_worker_of_each_group_in_lockstep_is_not_refused() -> None:
    refuse_what_needs_processes(a_config(ray={"address": "local"}))
    shared = {"workers": {"gpus": 0.4}}
    refuse_what_needs_processes(a_config(data=shared, memory=shared, evaluation={"gpus": 0.2}))


def test_the_loop_waits_for_ever_and_restarts_nothing() -> None:
    config = without_deadlines(a_config())
    assert config.deadlines.first_interval_s == math.inf
    assert config.deadlines.interval_floor_s == math.inf
    assert not config.recovers
