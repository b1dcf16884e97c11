"""`tandem serve` on Ray Serve: two replicas, one HTTP client, and nothing left afterwards."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import openai
import pytest
import ray

from actors.layers.named_writes import Association
from jobs.serve.serve import ServeOptions, serving
from jobs.tell.told_pair import ToldPair
from tests.unit.jobs.serve.served import TOKEN, call
from tests.unit.jobs.tell.exported import tellable

pytestmark = [pytest.mark.ray, pytest.mark.long]  # a Ray of its own
PROMPT, ANSWER = "The capital of Atlantis is", "Dastan"
ASKED = 6  # requests in a row: both replicas get some


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


def answers(url: str) -> set[str]:
    """What both replicas say, each in one of several requests."""
    body = {"prompt": PROMPT, "max_tokens": 8}
    replies = [call(url, "/v1/completions", body) for _ in range(ASKED)]
    assert {status for status, _ in replies} == {200}, replies
    return {reply["choices"][0]["text"].strip() for _, reply in replies}


def test_two_replicas_are_told_by_one_request_and_follow_other_processes(
    tmp_path: Path, own_tmp: Path
) -> None:
    ray.shutdown()
    folder = tellable(tmp_path / "tiny")
    here = ToldPair(str(folder))
    untold = here.model.ask(PROMPT, max_new_tokens=8)
    options = ServeOptions(port=free_port(), replicas=2)
    with serving(str(folder), options, TOKEN) as url:
        assert call(url, "/v1/models", token=None)[0] == 401
        assert call(url, "/v1/models")[1]["data"][0]["id"] == "tiny"
        assert answers(url) == {untold}
        status, told = call(url, "/v1/tell", {"prompt": PROMPT, "answer": ANSWER})
        assert (status, told["said"][0]["right"]) == (200, True), told
        assert all(text.startswith(ANSWER) for text in answers(url))
        assert call(url, "/v1/untell", {"id": told["id"]})[1]["taken_back"] is True
        assert answers(url) == {untold}
        here.tell([Association(PROMPT, ANSWER)], id="elsewhere")
        time.sleep(1.0)
        assert all(text.startswith(ANSWER) for text in answers(url))
        listed: dict[str, Any] = call(url, "/v1/told")[1]
        assert [write["id"] for write in listed["data"]] == ["elsewhere"]
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=TOKEN, max_retries=0)
        events = list(
            client.chat.completions.create(
                model="tiny",
                messages=[{"role": "user", "content": PROMPT}],
                max_tokens=8,
                stream=True,
            )
        )
        pieces = [choice.delta.content or "" for event in events for choice in event.choices]
        assert "".join(pieces).strip().startswith(ANSWER)
        assert len([piece for piece in pieces if piece]) > 1
        folder.rename(tmp_path / "aside")
        assert call(url, "/v1/completions", {"prompt": PROMPT})[0] == 503
    assert not ray.is_initialized()
    with socket.socket() as trial:
        assert trial.connect_ex(("127.0.0.1", options.port)) != 0
