"""Settings that need processes are refused by name; deadlines and restarts are off."""

from __future__ import annotations

from typing import Any

import pytest

from actors.wire import ConfigError
from orchestrator.in_process.settings import YEAR_S, refuse_what_needs_processes, without_deadlines
from orchestrator.settings.config import make_config
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


def test_the_loop_passes_no_deadline_restarts_nothing_and_its_config_is_sound() -> None:
    config = without_deadlines(a_config(deadlines={"storage_s": 7}))
    deadlines = config.deadlines
    assert deadlines.first_interval_s == deadlines.interval_floor_s == YEAR_S
    assert deadlines.evaluation_s == YEAR_S
    assert deadlines.storage_s == 7
    assert not config.recovers
    assert make_config(config.model_dump(by_alias=True)) == config
