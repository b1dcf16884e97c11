from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import psutil
import pytest
import ray

from actors.wire import ConfigError
from jobs.check.resources import available_resources
from orchestrator.errors import RayStartError
from orchestrator.nodes import ray_address
from orchestrator.nodes.private_ray import CLUSTER_HERE
from orchestrator.nodes.ray_address import (
    Given,
    Owner,
    given_address,
    owner_of,
    reach,
    refuse_long_temp_folder,
    temp_folder,
    whose,
)
from orchestrator.processes.ray_session import ray_session
from tests.unit.orchestrator.scripted import a_config

VARIABLE = "the environment variable RAY_ADDRESS"
SOON_S = 10.0


def from_variable(address: str) -> Given:
    found = given_address(None, {"RAY_ADDRESS": address})
    assert found is not None
    return found


def refusal(given: Given) -> str:
    began = time.monotonic()
    with pytest.raises(ConfigError) as refused:
        reach(given)
    assert time.monotonic() - began < SOON_S
    return str(refused.value)


@contextmanager
def listening(answer: bytes | None) -> Iterator[str]:
    """The address of something that says those bytes to whoever speaks first; None: nothing."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(64)
                if answer is not None:
                    connection.sendall(answer)
                connection.recv(64)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def unused() -> str:
    """An address at which nobody listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_the_config_goes_before_the_variable() -> None:
    given = given_address("head:6379", {"RAY_ADDRESS": "other:6379"})
    assert given == Given("head:6379", "ray.address of the config", "leave ray.address out")


def test_auto_of_the_config_is_what_the_variable_says_as_ray_has_it() -> None:
    given = given_address("auto", {"RAY_ADDRESS": "other:6379"})
    assert given is not None
    assert (given.address, given.source) == ("other:6379", VARIABLE)


def test_the_variable_of_a_job_is_known_as_rays_own() -> None:
    given = given_address(None, {"RAY_ADDRESS": "a:1", "RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"})
    assert given is not None
    assert "which Ray sets for a job" in given.source


@pytest.mark.parametrize("of_config", [None, "local"])
def test_nothing_or_local_means_a_ray_for_this_run_alone(of_config: str | None) -> None:
    assert given_address(of_config, {}) is None
    assert given_address(None, {"RAY_ADDRESS": of_config or ""}) is None


def test_an_address_where_nobody_listens_is_refused_with_its_source(unused: str) -> None:
    text = refusal(from_variable(unused))
    assert text == (
        f"Ray at {unused} (from {VARIABLE}): nothing listens there; is the cluster up (ray status "
        "on its head)? Correct the address, or unset RAY_ADDRESS to run on this machine alone"
    )


def test_so_is_that_of_the_config(unused: str) -> None:
    given = given_address(unused, {})
    assert given is not None
    text = refusal(given)
    assert f"Ray at {unused} (from ray.address of the config): nothing listens" in text
    assert "leave ray.address out" in text


def test_something_that_never_answers_is_no_ray() -> None:
    with listening(None) as address:
        assert "no answer within" in refusal(from_variable(address))


def test_nor_is_something_that_answers_otherwise() -> None:
    with listening(b"SSH-2.0-OpenSSH_9.6\r\n") as address:
        assert "no Ray head" in refusal(from_variable(address))


def test_the_dashboards_port_is_distinguished_from_the_heads() -> None:
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        text = refusal(from_variable(f"127.0.0.1:{server.server_port}"))
    finally:
        server.shutdown()
        server.server_close()
    assert "a web server listens there" in text
    assert "8265" in text


def test_a_host_that_does_not_exist_is_named() -> None:
    assert "there is no host nowhere.invalid" in refusal(from_variable("nowhere.invalid:6379"))


def test_a_name_server_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [] * released.wait(60))
    monkeypatch.setattr(ray_address, "TRIED_S", 0.2)
    try:
        assert "no answer within 0.2 s" in refusal(from_variable("head:6379"))
    finally:
        released.set()


@pytest.mark.parametrize("address", ["head", "head:port", "10.0.0.1:6379/x", ":6379"])
def test_what_is_no_address_is_refused(address: str) -> None:
    assert "expected HOST:PORT" in refusal(from_variable(address))


@pytest.mark.parametrize("address", ["ray://10.0.0.1:10001", "http://10.0.0.1:8265"])
def test_other_kinds_of_address_lead_to_submit(address: str) -> None:
    text = refusal(from_variable(address))
    assert f"Ray at {address} (from {VARIABLE})" in text
    assert "tandem submit train CONFIG" in text


def test_auto_without_a_cluster_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_here(*_: object) -> str:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(str(CLUSTER_HERE), none_here)
    text = refusal(from_variable("auto"))
    assert f"Ray at auto (from {VARIABLE}): no Ray runs on this machine" in text
    assert "ray start --head" in text


def test_auto_names_the_cluster_that_has_ended(
    monkeypatch: pytest.MonkeyPatch, unused: str
) -> None:
    monkeypatch.setattr(str(CLUSTER_HERE), lambda *_: unused)
    text = refusal(from_variable("auto"))
    assert f"Ray at auto (from {VARIABLE}), which is {unused} here: nothing listens there" in text


def test_a_server_of_grpc_counts_as_a_head() -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        assert reach(from_variable(f"127.0.0.1:{port}")) == f"127.0.0.1:{port}"
    finally:
        server.stop(None)


@pytest.mark.parametrize("with_variable", [True, False])
def test_a_run_and_check_refuse_a_dead_address_before_ray_waits_for_it(
    monkeypatch: pytest.MonkeyPatch, unused: str, with_variable: bool
) -> None:
    assert not ray.is_initialized()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = a_config(ray={} if with_variable else {"address": unused})
    if with_variable:
        monkeypatch.setenv("RAY_ADDRESS", unused)
    began = time.monotonic()
    with pytest.raises(ConfigError, match="nothing listens there"), ray_session(config, False):
        pass
    with pytest.raises(ConfigError, match="nothing listens there"):
        available_resources(config)
    assert time.monotonic() - began < SOON_S


def test_the_owner_is_the_user_of_the_clusters_node_here() -> None:
    """The node's process is known by its name and the address that it was given."""
    address = "10.9.8.7:6379"
    code = "import sys, time; open('/proc/self/comm', 'w').write('raylet'); time.sleep(60)"
    node = subprocess.Popen([sys.executable, "-c", code, f"--gcs-address={address}"])
    try:
        deadline = time.monotonic() + SOON_S
        while psutil.Process(node.pid).name() != "raylet":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        owner = owner_of(address)
        assert (owner.user, owner.is_me) == (psutil.Process().username(), True)
        assert owner.age_s is not None
        assert owner_of("10.9.8.7:6380") == Owner()
    finally:
        node.kill()
        node.wait()


def test_a_run_says_whose_cluster_it_joins() -> None:
    given = from_variable("auto")
    text = whose(given, "10.0.0.1:6379", Owner("bob", False, 3 * 3600.0), "2 nodes, 8 CPUs")
    assert text == (
        f"joins the Ray cluster at 10.0.0.1:6379 (auto, from {VARIABLE}): started by another user "
        "(bob), up for 3 h, 2 nodes, 8 CPUs; unset RAY_ADDRESS to run on this machine alone"
    )
    mine = whose(given, "10.0.0.1:6379", Owner("ann", True, 5.0), "1 node, 8 CPUs")
    assert mine.endswith("started by you (ann), up for 5 s, 1 node, 8 CPUs")
    assert "can't be seen" in whose(given, "10.0.0.1:6379", Owner(), "1 node")


def test_the_temp_folder_is_the_one_that_ray_takes() -> None:
    both = {"RAY_TMPDIR": "/r", "TMPDIR": "/t"}
    assert temp_folder(both) == ("/r", "RAY_TMPDIR")
    assert temp_folder({}) == ("/tmp", "Ray's default")
    if sys.platform.startswith("linux"):
        assert temp_folder({"TMPDIR": "/t"}) == ("/t", "TMPDIR")


def test_a_long_temp_folder_is_refused_with_what_helps() -> None:
    long = "/" + "t" * 89
    with pytest.raises(ConfigError) as refused:
        refuse_long_temp_folder({"TMPDIR": long}, 12345)
    assert str(refused.value).startswith(f"TMPDIR={long}: Ray keeps sockets below it")
    assert "set RAY_TMPDIR to a folder" in str(refused.value)
    refuse_long_temp_folder({"TMPDIR": long, "RAY_TMPDIR": "/tmp"}, 12345)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="macOS has another limit")
def test_the_longest_folder_is_the_one_that_the_systems_limit_allows() -> None:
    pid, session = 12345, "session_2026-11-29_17-10-00_123456_12345"
    room = 107 - len(f"/ray/{session}/sockets/plasma_store")
    refuse_long_temp_folder({"TMPDIR": "/" + "t" * (room - 1)}, pid)
    with pytest.raises(ConfigError, match=f"at most {room}, e.g. RAY_TMPDIR=/tmp"):
        refuse_long_temp_folder({"TMPDIR": "/" + "t" * room}, pid)


def test_a_run_and_check_refuse_a_long_temp_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not ray.is_initialized()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", "/" + "t" * 89)
    with pytest.raises(ConfigError, match="Ray keeps sockets"), ray_session(a_config(), False):
        pass
    with pytest.raises(ConfigError, match="Ray keeps sockets"):
        available_resources(a_config())


def test_a_ray_that_does_not_come_up_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed_out(**_: object) -> None:
        raise Exception("The current node timed out during startup. This could happen because …")

    assert not ray.is_initialized()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", timed_out)
    with pytest.raises(RayStartError) as failed, ray_session(a_config(), False):
        pass
    text = str(failed.value)
    assert "Ray did not come up on this machine: The current node timed out during startup" in text
    assert "(waited 0 s)" in text
    assert "/ray/session_latest/logs" in text


def test_nor_is_a_cluster_that_answers_and_then_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(**_: object) -> None:
        raise RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.40.0")

    monkeypatch.setattr(ray, "init", refuses)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.setattr("orchestrator.processes.ray_session.reach", lambda given: given.address)
    with pytest.raises(ConfigError) as failed, ray_session(a_config(), False):
        pass
    text = str(failed.value)
    assert text.startswith(f"Ray at head:6379 (from {VARIABLE}) can't be used: Version mismatch")
