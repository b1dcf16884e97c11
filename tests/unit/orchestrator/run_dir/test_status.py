from __future__ import annotations

import json
import os
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from actors.settings.run import DATA, MEMORY
from actors.wire import ConfigError, Heartbeat, Location
from orchestrator.loop.resize_rules import Resize
from orchestrator.run_dir.metrics import Metrics
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.run_dir.status import Driver, Pulse, look, read_status, status_of
from orchestrator.settings.file_names import CONFIG, STATUS, SUMMARY
from tests.unit.orchestrator.scripted import a_config, a_report, an_evaluation

HERE = Driver("d", platform.node(), os.getpid(), psutil.Process().create_time(), 0.0, 1.0)
ELSEWHERE = Driver("d", "another-machine", 1, 0.0, 0.0, 1.0)
GONE = replace(HERE, pid_started=1.0)  # the process id was given to another one


def a_status(
    driver: Driver = HERE, at: float = 100.0, ended: str | None = None, **changes: Any
) -> dict[str, Any]:
    metrics = Metrics(started_at=0.0)
    for group in (DATA, MEMORY):
        metrics.add_interval([a_report(group, 3)], 2.0, 1)
    metrics.add_evaluation(an_evaluation(2, 2), final=False)
    metrics.add_resize(Resize(MEMORY, 2, 1, 2, 5.0, 0.2))
    where = Location(MEMORY, 1, 77, "node", "host", ("0",), "0")
    beat = Heartbeat(MEMORY, 1, 0, "training", 4, 65, 99.0, 3 << 20, 5 << 20)
    places = {MEMORY: [(where, beat)]}
    config = a_config(intervals=9, **changes)
    pulse = Pulse(at, at - 0.1, "training", ended)
    states = {DATA: "training", MEMORY: "waiting for a snapshot"}
    return status_of(config, metrics, places, {"last_interval": 2}, driver, pulse, states)


def put(folder: Path, status: dict[str, Any]) -> RunDir:
    run_dir = RunDir(str(folder))
    run_dir.write_json(STATUS, status)
    return run_dir


def test_a_status_holds_what_both_groups_last_did() -> None:
    data = a_status(memory={"workers": {"num_workers": 2}})["groups"][DATA]
    assert (data["interval"], data["version"], data["adopted"], data["lag"]) == (3, 3, 2, 1)
    assert data["losses"] == {"own": 1.5, "help": 1.5}
    assert data["steps_per_s"] == 20 / (8.0 + 2.0)
    assert data["waiting_frac"] == 0.2


def test_a_status_holds_where_each_rank_is_and_what_it_uses() -> None:
    (rank,) = a_status()["groups"][MEMORY]["ranks"]
    assert (rank["rank"], rank["node"], rank["phase"]) == (1, "node", "training")
    assert (rank["host_bytes"], rank["gpu_bytes"], rank["gpus"]) == (3 << 20, 5 << 20, ["0"])


def test_a_status_holds_the_phase_that_each_group_is_in() -> None:
    groups = a_status()["groups"]
    assert groups[DATA]["state"] == "training"
    assert groups[MEMORY]["state"] == "waiting for a snapshot"


def test_a_status_holds_checkpoints_resizes_and_held_out_figures() -> None:
    status = a_status()
    assert status["checkpoints"] == {"every": 10, "last_interval": 2}
    assert [row["after"] for row in status["resizes"]] == [2]
    assert status["heldout"]["heldout.own_loss"] == 2.0


def test_a_version_is_the_newest_that_is_out() -> None:
    status = a_status(exchange={"publish_every": 2})
    assert status["groups"][DATA]["version"] == 2


def test_a_run_that_has_done_nothing_yet_has_a_status_too() -> None:
    status = status_of(a_config(), Metrics(0.0), {}, {}, HERE, Pulse(1.0, 1.0, "training"))
    assert (status["interval"], status["groups"][DATA]["steps_per_s"]) == (0, None)
    assert json.loads(json.dumps(status)) == status


def no_wait(seconds: float) -> None:
    raise AssertionError("it was known without a second look")


def test_a_driver_whose_process_is_here_runs_however_old_its_heartbeat_is(tmp_path: Path) -> None:
    seen = look(put(tmp_path, a_status()), no_wait, lambda: 10_000.0)
    assert (seen.state, seen.age_s) == ("running", 9_900.0)


def test_a_fresh_heartbeat_of_another_machine_is_a_running_driver(tmp_path: Path) -> None:
    assert look(put(tmp_path, a_status(ELSEWHERE)), no_wait, lambda: 103.0).state == "running"


@pytest.mark.parametrize("now", [10_000.0, 50.0])
def test_a_heartbeat_that_moves_is_a_running_driver_whatever_the_clocks_say(
    tmp_path: Path, now: float
) -> None:
    run_dir = put(tmp_path, a_status(ELSEWHERE))
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        put(tmp_path, a_status(ELSEWHERE, at=102.0))

    assert look(run_dir, wait, lambda: now).state == "running"
    assert waits == [2.5]


@pytest.mark.parametrize("driver", [ELSEWHERE, GONE], ids=["elsewhere", "here"])
def test_a_heartbeat_that_stands_still_is_a_dead_driver(tmp_path: Path, driver: Driver) -> None:
    seen = look(put(tmp_path, a_status(driver)), lambda seconds: None, lambda: 10_000.0)
    assert (seen.state, seen.age_s) == ("silent", 9_900.0)


def test_a_run_that_ends_during_the_second_look_has_ended(tmp_path: Path) -> None:
    run_dir = put(tmp_path, a_status(ELSEWHERE))

    def wait(seconds: float) -> None:
        put(tmp_path, a_status(ELSEWHERE, at=101.0, ended="finished"))

    assert look(run_dir, wait, lambda: 10_000.0).state == "finished"


def test_a_run_that_has_ended_says_how(tmp_path: Path) -> None:
    run_dir = put(tmp_path, a_status(ELSEWHERE, ended="interrupted"))
    assert look(run_dir, no_wait, lambda: 10_000.0).state == "interrupted"


@pytest.mark.parametrize("ended", ["finished", "failed", "interrupted"])
def test_no_rank_of_a_run_that_has_ended_trains(tmp_path: Path, ended: str) -> None:
    memory = a_status(ended=ended)["groups"][MEMORY]
    (rank,) = memory["ranks"]
    assert (memory["state"], rank["phase"]) == ("ended", "ended")
    (rank,) = look(put(tmp_path, a_status(ended=ended))).status["groups"][MEMORY]["ranks"]
    assert rank["phase"] == "ended"


def test_a_rank_of_a_run_that_has_ended_shows_the_last_interval_that_there_was(
    tmp_path: Path,
) -> None:
    """It was ready for one more, which its heartbeat named. Earlier versions wrote that down."""
    old = a_status()
    assert [rank["interval"] for rank in old["groups"][MEMORY]["ranks"]] == [4]
    for status in (a_status(ended="finished"), {**old, "ended": "finished"}):
        seen = look(put(tmp_path, status))
        assert [rank["interval"] for rank in seen.status["groups"][MEMORY]["ranks"]] == [3]


def test_no_rank_whose_driver_died_trains(tmp_path: Path) -> None:
    seen = look(put(tmp_path, a_status(GONE)), lambda seconds: None, lambda: 10_000.0)
    (rank,) = seen.status["groups"][MEMORY]["ranks"]
    assert (seen.state, rank["phase"]) == ("silent", "silent")


def test_what_ranks_said_last_is_not_believed_of_a_status_that_an_older_version_left(
    tmp_path: Path,
) -> None:
    status = a_status(ended="finished")
    status["groups"][MEMORY]["ranks"][0]["phase"] = "training"
    (rank,) = look(put(tmp_path, status)).status["groups"][MEMORY]["ranks"]
    assert rank["phase"] == "ended"


def test_a_run_without_a_status_is_told_by_its_other_files(tmp_path: Path) -> None:
    run_dir = RunDir(str(tmp_path))
    assert look(run_dir).state == "no run"
    run_dir.write(CONFIG, "")
    assert look(run_dir).state == "starting"
    run_dir.write_json(SUMMARY, {"status": "finished"})
    assert look(run_dir).state == "finished"


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"format": 1}', '{"format": 9}'])
def test_a_file_that_is_no_status_is_refused_by_its_name(tmp_path: Path, content: str) -> None:
    run_dir = RunDir(str(tmp_path))
    run_dir.write(STATUS, content)
    with pytest.raises(ConfigError, match=r"status\.json"):
        read_status(run_dir)
