"""The HTTP service of an exported pair in this process, and a plain HTTP client."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import uvicorn
from fastapi import FastAPI

from jobs.serve.http_api import make_app, token_digest
from jobs.serve.serve import load_service

TOKEN = "a-token-of-this-test"


@contextmanager
def served(run: str, token: str | None = TOKEN) -> Iterator[str]:
    """The URL of a server of that run."""
    digest = None if token is None else token_digest(token)
    with served_app(make_app(partial(load_service, run, 1), digest)) as url:
        yield url


@contextmanager
def served_app(app: FastAPI) -> Iterator[str]:
    """The URL of a server on a thread; it has ended after the block."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def call(
    url: str, path: str, body: Any = None, token: str | None = TOKEN, raw: bytes | None = None
) -> tuple[int, Any]:
    """Status and JSON of one request; GET without a body."""
    data = raw if raw is not None else None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(f"{url}{path}", data, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as err:
        return err.code, json.loads(err.read())
