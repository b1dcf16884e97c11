"""The official client of the OpenAI API talks to a served pair."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from actors.pair.conversation import conversation_ids, prompt_ids
from actors.pair.speech import Piece, SpeechOptions, speak
from actors.pair.tandem_model import load_tandem_model
from jobs.serve.http_api import make_app
from jobs.serve.service import Service
from tests.unit.actors.tiny_pair import exported
from tests.unit.jobs.serve.served import TOKEN, served, served_app

PROMPT = "The capital of Avaria is"
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}"
    "{% endif %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture(scope="module")
def templated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "chatty"
    exported(folder)
    (folder / "data_layer" / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def client_of(url: str, key: str = TOKEN) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def client(export: Path) -> Iterator[openai.OpenAI]:
    with served(str(export)) as url:
        yield client_of(url)


@pytest.fixture(scope="module")
def chatty(templated: Path) -> Iterator[openai.OpenAI]:
    with served(str(templated)) as url:
        yield client_of(url)


def test_the_client_lists_the_one_model(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "tandem"
    with pytest.raises(openai.NotFoundError, match="this service has 'tiny'"):
        client.models.retrieve("gpt")


@pytest.mark.parametrize("voice", ["own", "help", "memory"])
def test_streamed_pieces_add_up_to_the_completion(client: openai.OpenAI, voice: str) -> None:
    asked = {"model": "tiny", "prompt": [PROMPT, "Ships"], "max_tokens": 12, "n": 2, "seed": 3}
    whole = client.completions.create(**asked, temperature=0.8, extra_body={"voice": voice})
    texts, reasons = ["", "", "", ""], [None] * 4
    stream = client.completions.create(
        **asked, temperature=0.8, stream=True, extra_body={"voice": voice}
    )
    num_events = 0
    for event in stream:
        num_events += 1
        for choice in event.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason
    assert texts == [choice.text for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert num_events > 8


def test_a_streamed_completion_never_shows_the_beginning_of_a_stop(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=12).choices[0].text
    stop = whole[3:6]
    stream = client.completions.create(
        model="tiny", prompt=PROMPT, max_tokens=12, stop=[stop], stream=True
    )
    pieces = [choice for event in stream for choice in event.choices]
    assert "".join(piece.text for piece in pieces) == whole[: whole.index(stop)]
    assert pieces[-1].finish_reason == "stop"


def test_a_chat_without_a_template_continues_the_last_turn(
    client: openai.OpenAI, export: Path
) -> None:
    model = load_tandem_model(str(export))
    [said] = speak(model, [prompt_ids(model, PROMPT)], SpeechOptions(max_tokens=8))
    reply = client.chat.completions.create(
        model="tiny",
        messages=[
            {"role": "user", "content": "Ships"},
            {"role": "assistant", "content": "reach"},
            {"role": "user", "content": [{"type": "text", "text": PROMPT}]},
        ],
        max_completion_tokens=8,
    )
    assert reply.choices[0].message.content == said.text
    assert reply.choices[0].message.role == "assistant"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == len(said.tokens)
    with pytest.raises(openai.BadRequestError, match="no chat template"):
        client.chat.completions.create(
            model="tiny",
            messages=[{"role": "system", "content": "a"}, {"role": "user", "content": "b"}],
        )


def test_a_chat_with_a_template_continues_the_conversation_as_it_writes_it(
    chatty: openai.OpenAI, templated: Path
) -> None:
    model = load_tandem_model(str(templated))
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROMPT}]
    text = f"system: Be brief.\nuser: {PROMPT}\nassistant:"
    ids = conversation_ids(model, turns)
    assert ids == model.tokenizer(text, add_special_tokens=False).input_ids
    [said] = speak(model, [ids], SpeechOptions(voice="own", max_tokens=10))
    stream = chatty.chat.completions.create(
        model="chatty",
        messages=turns,  # type: ignore[arg-type]
        max_tokens=10,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"voice": "own"},
    )
    events = list(stream)
    assert events[0].choices[0].delta.role == "assistant"
    pieces = [choice for event in events for choice in event.choices]
    assert "".join(piece.delta.content or "" for piece in pieces) == said.text
    assert pieces[-1].finish_reason == said.why
    assert events[-1].choices == []
    assert events[-1].usage is not None
    assert events[-1].usage.total_tokens == len(ids) + len(said.tokens)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"model": "gpt"}, openai.NotFoundError, "no model 'gpt'"),
        ({"max_tokens": 1024, "messages": [{"role": "user", "content": "a " * 9000}]},
         openai.BadRequestError, "tokens in all"),
        ({"messages": [{"role": "assistant", "content": "a"}]},
         openai.BadRequestError, "one of the user last"),
        ({"messages": [{"role": "tool", "content": "a"}]},
         openai.BadRequestError, "refuses them: no tools here"),
        ({"logprobs": True}, openai.BadRequestError, "logprobs"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]},
         openai.BadRequestError, "tools"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_wrong_is_an_error_of_the_client_streamed_or_not(
    chatty: openai.OpenAI,
    changes: dict[str, object],
    kind: type[openai.APIStatusError],
    message: str,
    stream: bool,
) -> None:
    asked = {"model": "chatty", "messages": [{"role": "user", "content": PROMPT}], **changes}
    with pytest.raises(kind, match=message) as raised:
        chatty.chat.completions.create(**asked, stream=stream)  # type: ignore[call-overload]
    assert raised.value.type == "invalid_request_error"
    if "tokens in all" in message:
        assert raised.value.code == "context_length_exceeded"


def test_another_key_is_refused(export: Path) -> None:
    with served(str(export)) as url, pytest.raises(openai.AuthenticationError, match="no token"):
        client_of(url, "another").chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": PROMPT}]
        )


class Watched(Service):
    """A service that says when a completion was ended from outside, or breaks in the middle."""

    def __init__(self, run: str, breaks_after: int | None = None) -> None:
        super().__init__(run)
        self.pieces, self.broken, self._breaks_after = 0, threading.Event(), breaks_after

    def complete(self, asked, on_piece=None):  # type: ignore[no-untyped-def]
        if on_piece is None:
            return super().complete(asked)

        def counted(piece: Piece) -> None:
            self.pieces += 1
            if self.pieces == self._breaks_after:
                raise ValueError("the third piece")
            on_piece(piece)

        try:
            return super().complete(asked, counted)
        except Exception:
            self.broken.set()
            raise


def test_a_client_that_goes_away_ends_its_completion(export: Path) -> None:
    service = Watched(str(export))
    with served_app(make_app(lambda: service, None)) as url:
        client = client_of(url)
        stream = client.completions.create(
            model="tiny", prompt=PROMPT, max_tokens=900, stop=["\x00"], stream=True
        )
        next(iter(stream))
        stream.close()
        assert service.broken.wait(30)
        assert service.pieces < 800
        assert client.completions.create(model="tiny", prompt=PROMPT, max_tokens=2).choices


def test_what_breaks_in_the_middle_is_an_error_of_the_stream(export: Path) -> None:
    service = Watched(str(export), breaks_after=3)
    with served_app(make_app(lambda: service, None)) as url:
        stream = client_of(url).completions.create(
            model="tiny", prompt=PROMPT, max_tokens=30, stream=True
        )
        got = []
        with pytest.raises(openai.APIError, match="ValueError: the third piece"):
            got.extend(stream)
        assert json.loads(got[0].model_dump_json())["object"] == "text_completion"


def test_the_page_on_chats_runs_as_it_stands(
    export: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Path(__file__).resolve().parents[4] / "docs" / "chat.md"
    [block] = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    model = load_tandem_model(str(export))
    with served(str(export)) as url:
        code = block.replace("http://127.0.0.1:8000", url)
        assert code != block
        exec(compile(code, str(page), "exec"), {"token": TOKEN})
    shown = capsys.readouterr().out
    ids = prompt_ids(model, PROMPT)
    [both] = speak(model, [ids], SpeechOptions("help", 8))
    [memory] = speak(model, [ids], SpeechOptions("memory", 24))
    assert shown == f"{both.text}\n{memory.text}"
