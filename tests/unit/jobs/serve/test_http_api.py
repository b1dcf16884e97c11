"""The service as a client sees it: completions, tells, errors and limits, over real HTTP."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.pair.tandem_model import load_tandem_model
from jobs.serve.http_api import LARGEST_BODY
from tests.unit.jobs.serve.served import TOKEN, call, served
from tests.unit.jobs.tell.exported import tellable

PROMPT = "The capital of Avaria is"


@pytest.fixture(scope="module")
def url(export: Path) -> Iterator[str]:
    with served(str(export)) as at:
        yield at


def complete(url: str, **body: Any) -> dict[str, Any]:
    status, reply = call(url, "/v1/completions", {"prompt": PROMPT, **body})
    assert status == 200, reply
    return dict(reply)


def test_the_one_model_is_listed(url: str) -> None:
    status, reply = call(url, "/v1/models")
    assert (status, reply["object"]) == (200, "list")
    assert [(m["id"], m["object"]) for m in reply["data"]] == [("tiny", "model")]


@pytest.mark.parametrize("voice", ["own", "help", "memory"])
def test_a_completion_is_what_the_pair_says(url: str, export: Path, voice: str) -> None:
    model = load_tandem_model(str(export))
    said = model.ask(PROMPT, voice=voice, max_new_tokens=8)
    reply = complete(url, voice=voice, max_tokens=8, model="tiny")
    assert reply["object"] == "text_completion"
    assert reply["choices"][0]["text"].strip() == said
    tokens = len(model.tokenizer(PROMPT).input_ids)
    assert reply["usage"]["prompt_tokens"] == tokens
    assert reply["usage"]["total_tokens"] == tokens + reply["usage"]["completion_tokens"]


def test_several_prompts_and_choices_come_in_order(url: str) -> None:
    prompts = [PROMPT, "Ships"]
    reply = complete(url, prompt=prompts, n=2, max_tokens=4)
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
    texts = [choice["text"] for choice in reply["choices"]]
    assert texts[0] == texts[1] == complete(url, max_tokens=4)["choices"][0]["text"]
    assert texts[2] == texts[3] == complete(url, prompt="Ships", max_tokens=4)["choices"][0]["text"]


def test_a_seed_draws_the_same_again_and_another_one_another(url: str) -> None:
    draws = [
        complete(url, temperature=1.0, seed=seed, max_tokens=12)["choices"][0]["text"]
        for seed in (1, 1, 2)
    ]
    assert draws[0] == draws[1] != draws[2]


def test_a_completion_ends_before_a_stop(url: str) -> None:
    whole = complete(url, max_tokens=12)["choices"][0]["text"]
    stop = whole[3:5]
    choice = complete(url, max_tokens=12, stop=stop)["choices"][0]
    assert choice["text"] == whole[: whole.index(stop)]
    assert choice["finish_reason"] == "stop"
    assert complete(url, max_tokens=2, echo=True)["choices"][0]["text"].startswith(PROMPT)


@pytest.mark.parametrize("token", [None, "", "another", TOKEN + "x"])
@pytest.mark.parametrize("path", ["/v1/models", "/v1/told", "/nowhere"])
def test_without_the_token_nothing_is_answered(url: str, path: str, token: str | None) -> None:
    status, reply = call(url, path, token=token)
    assert status == 401
    assert reply["error"]["code"] == "invalid_api_key"
    assert call(url, "/healthz", token=token)[0] == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "message"),
    [
        ("/v1/completions", {}, 400, "prompt", "Field required"),
        ("/v1/completions", {"prompt": ""}, 400, "prompt", "at least 1 character"),
        ("/v1/completions", {"prompt": "a", "max_tokens": 0}, 400, "max_tokens", "greater"),
        ("/v1/completions", {"prompt": "a", "max_tokens": 10**6}, 400, "max_tokens", "less"),
        ("/v1/completions", {"prompt": "a", "voice": "both"}, 400, "voice", "'own', 'help'"),
        ("/v1/completions", {"prompt": "a", "stream": "no!"}, 400, "stream", "boolean"),
        ("/v1/completions", {"prompt": "a", "tempersture": 1}, 400, "tempersture", "permitted"),
        ("/v1/completions", {"prompt": "a", "model": "gpt"}, 404, "model", "has 'tiny'"),
        ("/v1/completions", {"prompt": "ab " * 9999}, 400, None, "tokens in all"),
        ("/v1/chat/completions", {"messages": []}, 400, "messages", "at least 1 item"),
        ("/v1/chat/completions", {"messages": [{"role": "user"}]}, 400, "messages.content", "req"),
        ("/v1/tell", {}, 400, None, "expected a prompt and its answer, or associations"),
        (
            "/v1/tell",
            {"associations": [{"prompt": "q", "answer": "a"}], "subject": "q"},
            400,
            None,
            "associations have prompts, answers, wordings and subjects of their own",
        ),
        (
            "/v1/tell",
            {"prompt": "My dog is", "answer": "Rex", "subject": "cat"},
            400,
            None,
            "the subject 'cat' is in none of the prompts",
        ),
        ("/v1/tell", {"prompt": "a", "answer": " "}, 400, None, "the answer is empty"),
        ("/v1/tell", {"prompt": "a", "answer": "b", "as_chat": True}, 400, None, "no chat templ"),
        ("/v1/untell", {"id": "nope"}, 404, "id", "no write 'nope'; nothing is told"),
        ("/v1/nowhere", {}, 404, None, "no POST /v1/nowhere here"),
        ("/v1/models", {}, 405, None, "no POST /v1/models here"),
    ],
)
def test_what_is_wrong_is_said_as_the_openai_api_says_it(
    url: str, path: str, body: dict[str, Any], status: int, param: str | None, message: str
) -> None:
    got, reply = call(url, path, body)
    assert (got, reply.keys()) == (status, {"error"})
    assert reply["error"]["type"] == "invalid_request_error"
    assert reply["error"]["param"] == param
    assert message in reply["error"]["message"]


def test_a_body_that_is_no_json_is_refused(url: str) -> None:
    status, reply = call(url, "/v1/completions", raw=b"{")
    assert status == 400
    assert "JSON" in reply["error"]["message"]


def test_a_body_that_is_too_large_is_refused_before_it_is_read(url: str) -> None:
    for declared in (True, False):
        host = url.removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=60)
        connection.putrequest("POST", "/v1/completions")
        connection.putheader("Authorization", f"Bearer {TOKEN}")
        if declared:
            connection.putheader("Content-Length", str(LARGEST_BODY + 1))
            connection.endheaders()
        else:
            connection.putheader("Transfer-Encoding", "chunked")
            connection.endheaders()
            piece = b"%x\r\n%s\r\n" % (1 << 20, b"a" * (1 << 20))
            for _ in range((LARGEST_BODY >> 20) + 1):
                connection.send(piece)
        reply = connection.getresponse()
        assert reply.status == 413
        assert b"at most 8 MiB" in reply.read()
        connection.close()


def test_no_token_is_asked_for_where_there_is_none(export: Path) -> None:
    with served(str(export), token=None) as url:
        assert call(url, "/v1/models", token=None)[0] == 200


def test_a_pair_whose_folder_disappears_is_unavailable_and_comes_back(
    export: Path, tmp_path: Path
) -> None:
    copy, aside = tmp_path / "tiny", tmp_path / "aside"
    shutil.copytree(export, copy)
    with served(str(copy)) as url:
        assert call(url, "/v1/told") == (200, {"object": "list", "data": []})
        copy.rename(aside)
        for path, body in (("/v1/completions", {"prompt": PROMPT}), ("/v1/told", None)):
            status, reply = call(url, path, body)
            assert status == 503
            assert reply["error"]["code"] == "pair_unavailable"
            assert "the export is gone" in reply["error"]["message"]
        aside.rename(copy)
        assert call(url, "/v1/completions", {"prompt": PROMPT})[0] == 200


def test_a_tell_is_answered_by_the_next_request_and_taken_back(tmp_path: Path) -> None:
    with served(str(tellable(tmp_path / "tiny"))) as url:
        before = complete(url, max_tokens=4)["choices"][0]["text"]
        status, write = call(
            url, "/v1/tell", {"prompt": PROMPT, "answer": "Dastan", "say": ["Avaria is ruled from"]}
        )
        assert (status, write["object"], write["said"][0]["right"]) == (200, "write", True)
        assert complete(url, max_tokens=4)["choices"][0]["text"].strip().startswith("Dastan")
        _, listed = call(url, "/v1/told")
        assert [(w["id"], w["on"]) for w in listed["data"]] == [(write["id"], True)]
        assert call(url, "/v1/untell", {"id": write["id"], "on": False})[1]["on"] is False
        assert complete(url, max_tokens=4)["choices"][0]["text"] == before
        assert call(url, "/v1/untell", {"id": write["id"]})[1]["taken_back"] is True
        status, reply = call(url, "/v1/untell", {"id": write["id"]})
        assert (status, reply["error"]["code"]) == (404, "write_not_found")


def test_several_associations_are_one_write_and_contradictions_are_refused(tmp_path: Path) -> None:
    with served(str(tellable(tmp_path / "tiny"))) as url:
        some = [{"prompt": f"The capital of {x} is", "answer": "Dastan"} for x in ("Mu", "Ys")]
        status, write = call(url, "/v1/tell", {"associations": some})
        assert (status, len(write["associations"]), write["id"]) == (200, 2, "1")
        some[1] = {**some[0], "answer": "Elbor"}
        status, reply = call(url, "/v1/tell", {"associations": some})
        assert status == 400
        assert "one tell, two answers" in reply["error"]["message"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_request_on_the_page_on_telling_tells(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[4] / "docs" / "tell.md").read_text(encoding="utf-8")
    [block] = re.findall(r"    curl -s (?:.*\\\n)*.*\n", page)
    with served(str(tellable(tmp_path / "tiny"))) as url:
        request = block.replace("http://127.0.0.1:8000", url)
        assert request != block
        done = subprocess.run(
            ["bash", "-c", request],
            capture_output=True,
            text=True,
            env={**os.environ, "TOKEN": TOKEN},
        )
        reply = json.loads(done.stdout)
        assert reply["said"][0]["after"].startswith("Poseidonis")
        assert [write["id"] for write in call(url, "/v1/told")[1]["data"]] == [reply["id"]]
