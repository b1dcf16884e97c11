"""The Ray of a run: its workers' niceness, a folder for its sockets, and whose cluster it joins."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray

from actors.wire import ConfigError
from orchestrator.nodes.ray_address import SOCKET_IN_TEMP, SOCKET_PATH_BYTES
from orchestrator.processes.ray_session import ray_session
from tests.unit.orchestrator.scripted import a_config

pytestmark = (
    pytest.mark.ray
)  # a Ray of its own: its niceness, its temp folder and whose it is are what is tested

ROOT = Path(__file__).resolve().parents[2]
JOIN = """
import sys
from orchestrator.processes.ray_session import ray_session
from tests.unit.orchestrator.scripted import a_config
with ray_session(a_config(), False, print, lambda text: print("warned:", text)):
    pass
"""


@pytest.fixture
def no_ray(own_tmp: Path) -> Iterator[None]:
    """Ends the Ray that the session's modules share; the next module that needs it starts it."""
    ray.shutdown()
    yield
    ray.shutdown()


def niceness_of_a_worker() -> int:
    def mine() -> int:
        return os.nice(0)

    return int(ray.get(ray.remote(num_cpus=0)(mine).remote()))


@pytest.mark.usefixtures("no_ray")
def test_workers_are_as_nice_as_the_command_and_the_setting_says(
    own_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the longest folder whose sockets the system allows; one more byte is refused."""
    room = SOCKET_PATH_BYTES - len(SOCKET_IN_TEMP.format(pid=os.getpid()))
    longest = own_tmp / ("t" * (room - len(str(own_tmp)) - 1))
    longest.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", f"{longest}t")
    with pytest.raises(ConfigError, match="RAY_TMPDIR=/tmp"), ray_session(a_config(), False):
        pass
    monkeypatch.setenv("RAY_TMPDIR", str(longest))
    config = a_config(ray={"num_cpus": 1, "worker_niceness": 3})
    with ray_session(config, False):
        assert niceness_of_a_worker() == os.nice(0) + 3


@pytest.mark.usefixtures("shared_ray")
def test_a_run_and_check_say_whose_cluster_they_join() -> None:
    address = ray.get_runtime_context().gcs_address
    environment = {**os.environ, "RAY_ADDRESS": address, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", JOIN],
        env=environment, capture_output=True, text=True, timeout=120, check=True, cwd=ROOT,
    )  # fmt: skip
    me = psutil.Process().username()
    said = f"joins the Ray cluster at {address} (from the environment variable RAY_ADDRESS): "
    assert f"{said}started by you ({me}), up for " in done.stdout
    assert ", 1 node, 2 CPUs" in done.stdout
    assert "warned" not in done.stdout


@pytest.mark.usefixtures("shared_ray")
def test_check_says_so_too() -> None:
    address = ray.get_runtime_context().gcs_address
    code = (
        "from jobs.check.resources import available_resources\n"
        "from tests.unit.orchestrator.scripted import a_config\n"
        "print(repr(available_resources(a_config()).joined))\n"
        f"print(available_resources(a_config(ray={{'address': {address!r}}})).joined)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=120, check=True, cwd=ROOT,
    )  # fmt: skip
    nowhere, there = done.stdout.strip().splitlines()
    assert nowhere == "''"
    assert f"joins the Ray cluster at {address} (from ray.address of the config)" in there
