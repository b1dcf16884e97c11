"""Who may reach the service: loopback and a token, unless one asks for less by name."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from actors.wire import ConfigError
from jobs.cli import app
from jobs.serve.http_api import token_digest
from jobs.serve.serve import (
    ServeOptions,
    exposures,
    is_loopback,
    refuse_busy,
    run_serve,
    token_of,
)
from orchestrator.console import Console
from orchestrator.stop_signals import stop_signals


@pytest.mark.parametrize(
    ("host", "here"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("a.b", False)],
)
def test_loopback_is_known(host: str, here: bool) -> None:
    assert is_loopback(host) == here
    assert (exposures(ServeOptions(host)) == []) == here


def test_other_machines_are_refused_by_what_they_could_do(tmp_path: Path) -> None:
    plain, open_ = exposures(ServeOptions("0.0.0.0")), exposures(ServeOptions("::", no_token=True))
    assert len(plain) == 1
    assert "plain HTTP" in plain[0]
    assert "whoever reaches it may ask and tell" in open_[1]
    done = CliRunner().invoke(app, ["serve", str(tmp_path), "--host", "0.0.0.0"])
    assert done.exit_code == 2
    assert "or give --insecure" in " ".join(done.output.split())


def test_a_new_token_is_long_and_another_each_time() -> None:
    first, second = token_of(ServeOptions()), token_of(ServeOptions())
    assert first is not None
    assert re.fullmatch(r"[\w-]{40,}", first)
    assert first != second
    assert token_of(ServeOptions(no_token=True)) is None
    assert token_digest(first) != token_digest(f"{first} ")


def test_a_token_comes_from_the_first_line_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("0123456789abcdef\nmore\n")
    assert token_of(ServeOptions(token_file=str(file))) == "0123456789abcdef"
    file.write_text("short\n")
    with pytest.raises(ConfigError, match="at least 16 characters in its first line, got 5"):
        token_of(ServeOptions(token_file=str(file)))
    with pytest.raises(ConfigError, match="can't be read"):
        token_of(ServeOptions(token_file=str(tmp_path / "none")))
    with pytest.raises(ConfigError, match="either --token-file or --no-token"):
        token_of(ServeOptions(token_file=str(file), no_token=True))


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port}: can't be listened on"):
            refuse_busy("127.0.0.1", port)
    refuse_busy("127.0.0.1", port)


@pytest.mark.parametrize("as_json", [False, True])
def test_the_token_is_printed_once_and_a_signal_ends_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    given: list[str | None] = []
    events: list[str] = []

    @contextmanager
    def serving(run: str, options: ServeOptions, token: str | None) -> Iterator[str]:
        given.append(token)
        yield "http://127.0.0.1:8000"
        events.append("ended")

    with monkeypatch.context() as patch, stop_signals() as flag:
        patch.setattr("jobs.serve.serve.serving", serving)
        timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        run_serve("runs/x", ServeOptions(), Console(width=200), as_json, flag)
        timer.join()
    (token,) = given
    assert token is not None
    assert events == ["ended"]
    shown = capsys.readouterr().out
    assert shown.count(token) == 1
    if as_json:
        assert json.loads(shown) == {"url": "http://127.0.0.1:8000", "replicas": 1, "token": token}
