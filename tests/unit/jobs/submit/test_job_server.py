from __future__ import annotations

import contextlib
import json
import platform
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._raylet import AuthenticationTokenLoader

from actors.wire import ConfigError
from jobs.cli import app
from jobs.submit.job_server import (
    Address,
    JobServer,
    JobServerError,
    connect,
    exposures,
    parse_address,
)

TOKEN = "the-right-one"
JOB = {"type": "SUBMISSION", "status": "RUNNING", "entrypoint": "tandem train [v1].yaml"}
JOBS = [JOB | {"submission_id": "my-run-1"}, JOB | {"type": "DRIVER", "job_id": "01"}]


class Dashboard(HTTPServer):
    """Answers as a Ray dashboard that asks for a token."""

    ray_version = ray.__version__
    python_version = platform.python_version()
    without_agent = 0  # so many jobs are refused because the head has no agent
    submitted = 0


class Answers(BaseHTTPRequestHandler):
    server: Dashboard

    def do_GET(self) -> None:
        got = self.headers.get("authorization")
        if got != f"Bearer {TOKEN}":
            self.send_response(403 if got else 401)
            self.end_headers()
            return
        answer: dict[str, Any] = {"version": "4", "ray_version": self.server.ray_version}
        if self.path.endswith("/api/jobs/"):
            answer = JOBS  # type: ignore[assignment]
        if self.path.endswith("cluster_metadata"):
            answer = {"data": {"pythonVersion": self.server.python_version}}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.submitted += 1
        has_agent = self.server.submitted > self.server.without_agent
        self.send_response(200 if has_agent else 500)
        self.end_headers()
        answer = '{"job_id": "a", "submission_id": "a"}'
        text = answer if has_agent else "No available agent to submit job, please try again later."
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def dashboard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Dashboard]:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    AuthenticationTokenLoader.instance().reset_cache()
    server = Dashboard(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()
    AuthenticationTokenLoader.instance().reset_cache()


def at(server: Dashboard) -> Address:
    return Address("http", "127.0.0.1", server.server_port)


def header(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:8265", "http://127.0.0.1:8265"),
        ("127.0.0.1", "http://127.0.0.1:8265"),
        ("https://ray.example.org/", "https://ray.example.org:443"),
        ("http://[::1]:9000", "http://[::1]:9000"),
    ],
)
def test_an_address_is_the_dashboard_s_url(text: str, url: str) -> None:
    assert parse_address(text).url == url


@pytest.mark.parametrize(
    "text", ["ray://head:10001", "http://", "http://h:port", "http://h/path", "http://me:pw@h"]
)
def test_other_addresses_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected the URL of the cluster's dashboard, e\.g\."):
        parse_address(text)


@pytest.mark.parametrize(
    ("address", "has_token", "num_found"),
    [
        ("http://127.0.0.1:8265", False, 0),
        ("http://localhost:8265", False, 0),
        ("http://[::1]:8265", False, 0),
        ("https://head:443", True, 0),
        ("https://head:443", False, 1),
        ("http://head:8265", True, 1),
        ("http://10.0.0.1:8265", False, 2),
    ],
)
def test_only_another_machine_needs_https_and_a_token(
    address: str, has_token: bool, num_found: int
) -> None:
    assert len(exposures(parse_address(address), has_token)) == num_found


def test_another_machine_over_plain_http_needs_insecure(dashboard: Dashboard) -> None:
    with pytest.raises(
        ConfigError, match=r"plain HTTP.*; and without a token.*; or give --insecure"
    ):
        connect("http://ray.invalid:8265", False, lambda text: None)


def test_insecure_warns_of_each_and_goes_on(dashboard: Dashboard) -> None:
    told: list[str] = []
    with pytest.raises(ConfigError, match="no Ray dashboard at"):
        connect("http://ray.invalid:8265", True, told.append)
    assert len(told) == 2


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of `tandem status`."""
    with pytest.raises(SystemExit) as ended:
        app(["status", "--storage", "none", *arguments])
    return int(ended.value.code or 0), *capsys.readouterr()


def test_a_status_asks_no_other_machine_without_token_and_https_but_for_insecure(
    dashboard: Dashboard, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, said = listed(capsys, "--address", "http://ray.invalid:8265")
    assert code == 2
    assert "error: http://ray.invalid:8265 is not this machine: over plain HTTP" in said
    assert "without a token" in said
    code, _, said = listed(capsys, "--address", "http://ray.invalid:8265", "--insecure")
    assert code == 2
    assert said.count("warning: --insecure: http://ray.invalid:8265") == 2
    assert "error: no Ray dashboard at http://ray.invalid:8265" in said


def test_a_status_sends_the_token_and_lists_the_jobs_that_were_submitted(
    dashboard: Dashboard, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    address = ("--address", at(dashboard).url)
    code, _, said = listed(capsys, *address)
    assert code == 2
    assert "requires a token, and none was found here" in said
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    AuthenticationTokenLoader.instance().reset_cache()
    code, said, _ = listed(capsys, *address)
    assert code == 0
    assert "my-run-1" in said
    assert "tandem train [v1].yaml" in said
    code, said, errors = listed(capsys, *address, "--json")
    assert (code, errors) == (0, "")
    assert [job["id"] for job in json.loads(said)["jobs"]] == ["my-run-1"]


def test_without_a_token_the_message_says_how_to_give_one(dashboard: Dashboard) -> None:
    with pytest.raises(
        ConfigError, match="requires a token, and none was found here; set RAY_AUTH"
    ):
        JobServer(at(dashboard), {})


def test_a_wrong_token_is_named_by_its_source_and_never_shown(
    dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/somewhere")
    with pytest.raises(ConfigError, match="refused the token of RAY_AUTH_TOKEN_PATH") as caught:
        JobServer(at(dashboard), header("a-wrong-one"))
    assert "a-wrong-one" not in str(caught.value)


def test_the_right_token_is_sent_wherever_ray_would_find_it(
    dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    server = connect(at(dashboard).url, False, lambda text: None)
    assert server.has_token
    assert server.ray_version == ray.__version__


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("ray_version", "2.9.0", f"Ray: expected {ray.__version__} as here, got 2.9.0"),
        ("python_version", "3.8.1", "Python: expected 3.* as here, got 3.8.1"),
    ],
)
def test_other_versions_are_refused(
    dashboard: Dashboard, field: str, value: str, message: str
) -> None:
    setattr(dashboard, field, value)
    with pytest.raises(ConfigError, match=message):
        JobServer(at(dashboard), header(TOKEN)).check_versions()


def test_an_address_where_nothing_listens_says_what_to_look_at(dashboard: Dashboard) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(ConfigError, match="nothing listens there; is the cluster up") as refused:
        JobServer(Address("http", "127.0.0.1", port), {})
    assert f"http://127.0.0.1:{port} (from --address or its default)" in str(refused.value)


def test_an_address_that_nobody_answers_at_is_given_up_within_ten_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server whose queue of connections is full: what is sent to it is dropped."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with contextlib.ExitStack() as open_ones:
        full = open_ones.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = full.getsockname()[1]
        for _ in range(2):
            client = open_ones.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
        began = time.monotonic()
        with pytest.raises(ConfigError, match="no answer within"):
            JobServer(Address("http", "127.0.0.1", port), {})
        assert time.monotonic() - began < 10


@pytest.fixture
def server(dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch) -> JobServer:
    monkeypatch.setattr("jobs.submit.job_server.AGENT_POLL_S", 0.01)
    return JobServer(at(dashboard), header(TOKEN))


def test_a_head_that_has_just_started_is_asked_again_until_its_agent_is_up(
    dashboard: Dashboard, server: JobServer
) -> None:
    dashboard.without_agent = 2
    assert server.submit(entrypoint="true") == "a"
    assert dashboard.submitted == 3


def test_a_head_whose_agent_does_not_come_up_says_where_to_look(
    dashboard: Dashboard, server: JobServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.submit.job_server.AGENT_S", 0.05)
    dashboard.without_agent = 10**9
    with pytest.raises(JobServerError, match=r"agent, which starts jobs, did not start in 0.05"):
        server.submit(entrypoint="true")
    assert dashboard.submitted > 1
