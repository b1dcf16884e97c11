"""Requests and replies of the HTTP service: completions as the OpenAI API has them, and tells.

Unknown fields are refused, since one that does nothing would be taken for one that does. Fields
that clients send by habit are taken at the one value that is meant here. No torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST_TOKENS = 1024  # of one completion
MOST_PROMPTS, MOST_CHOICES, MOST_MESSAGES = 64, 16, 1024
MOST_ASSOCIATIONS = 1000  # of one request
PROMPT_CHARS = 1 << 16


class Request(BaseModel):
    """Frozen, and without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Text = Annotated[str, Field(min_length=1, max_length=PROMPT_CHARS)]


class StreamOptions(Request):
    """What a stream ends with, beside its choices."""

    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


class Sampled(Request):
    """What both kinds of completion take. Greedy unless `temperature` is given."""

    model: str | None = None
    voice: Literal["own", "help", "memory"] = "help"
    temperature: float = Field(0.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    n: int = Field(1, ge=1, le=MOST_CHOICES)
    stop: Text | Annotated[list[Text], Field(max_length=4)] | None = None
    seed: int | None = Field(None, ge=0, lt=2**63)
    user: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logit_bias: dict[str, float] | None = Field(None, max_length=0)
    presence_penalty: Literal[0] | None = None
    frequency_penalty: Literal[0] | None = None

    @property
    def stops(self) -> list[str]:
        """Texts at which a completion ends, without them."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    @property
    def ends_with_usage(self) -> bool:
        """Whether the last event of a stream says how many tokens it took."""
        return self.stream_options is not None and self.stream_options.include_usage


class Completions(Sampled):
    """Body of /v1/completions."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=MOST_PROMPTS)]
    max_tokens: int = Field(16, ge=1, le=MOST_TOKENS)
    with_prompt: bool = Field(False, alias="echo")
    logprobs: None = None
    suffix: None = None
    best_of: Literal[1] | None = None

    @property
    def prompts(self) -> list[str]:
        """All prompts."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class TextPart(Request):
    """A part of a message: text, and nothing else."""

    type: Literal["text"]
    text: Annotated[str, Field(max_length=PROMPT_CHARS)]


class Message(Request):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str, Field(max_length=PROMPT_CHARS)] | list[TextPart]
    name: str | None = None
    tool_call_id: str | None = None

    @property
    def plain(self) -> dict[str, str]:
        """As chat templates take it."""
        content = self.content
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        given = {"name": self.name, "tool_call_id": self.tool_call_id}
        role = "system" if self.role == "developer" else self.role
        named = {key: value for key, value in given.items() if value is not None}
        return {"role": role, "content": text, **named}


class TextFormat(Request):
    """The one form of an answer."""

    type: Literal["text"]


class Chat(Sampled):
    """Body of /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    max_completion_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    response_format: TextFormat | None = None
    logprobs: Literal[False] | None = None
    tools: list[Any] | None = Field(None, max_length=0)

    @property
    def most_tokens(self) -> int | None:
        """Tokens of an answer at most; None: nothing is asked for."""
        return self.max_completion_tokens or self.max_tokens


class OneAssociation(Request):
    """A prompt, its answer, other wordings of the prompt and what they are about; as a turn of a
    chat where asked.
    """

    prompt: Text
    answer: Text
    say: list[Text] = Field(default_factory=list, max_length=MOST_PROMPTS)
    as_chat: bool = False
    subject: str = Field("", max_length=PROMPT_CHARS)


class Tell(Request):
    """Body of /v1/tell: one association, or several that are one write."""

    prompt: Text | None = None
    answer: Text | None = None
    say: list[Text] = Field(default_factory=list, max_length=MOST_PROMPTS)
    as_chat: bool = False
    subject: str = Field("", max_length=PROMPT_CHARS)
    associations: list[OneAssociation] | None = Field(
        None, min_length=1, max_length=MOST_ASSOCIATIONS
    )


class Untell(Request):
    """Body of /v1/untell: takes a write back, or with `on` only switches it."""

    id: str = Field(min_length=1, max_length=100)
    on: bool | None = None


def error(
    message: str, kind: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """A reply that says what is wrong, as clients of the OpenAI API read it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
