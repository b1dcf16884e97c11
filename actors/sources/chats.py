"""Chats of a corpus: lists of messages, checked message by message before a template writes them.

Does not know templates or tokenizers: what a chat's text is, `actors.tokenizers.chat` says.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.wire import CorpusError

ASSISTANT, TOOL, USER = "assistant", "tool", "user"
FIRST_ROLES = ("system", "developer")  # of the first message only
ROLES = (*FIRST_ROLES, USER, ASSISTANT, TOOL)
SHOWN_CHARS = 40
OTHER_KEYS = ({"from", "value"}, {"speaker", "text"})  # how other formats name role and content

Place = Callable[[], str]


def _somewhere() -> str:
    return "a chat"


@dataclass(frozen=True)
class Chat:
    """A conversation.

    Attributes:
        messages: each with role and content, and whatever else a template may read of it
            (tool_calls, name, reasoning_content, ...).
        tools: JSON schemas of the tools that the assistant could call; None: none.
        num_given: messages at the beginning whose assistant turns are read, not learned.
        place: names its file and line, for messages.
    """

    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Any, ...] | None = None
    num_given: int = 0
    place: Place = field(default=_somewhere, compare=False, repr=False)

    @property
    def text(self) -> str:
        """What its messages say, without the marks of a template."""
        return "\n".join(text for message in self.messages for text in texts_of(message))

    @property
    def learned(self) -> list[int]:
        """Numbers of the messages that are to be learned."""
        turns = range(self.num_given, len(self.messages))
        return [n for n in turns if self.messages[n]["role"] == ASSISTANT]


def texts_of(message: Mapping[str, Any]) -> Iterator[str]:
    """The texts in a message's content, which is a text or a list of parts."""
    content = message.get("content")
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        yield from (part["text"] for part in content)


def read_chat(messages: Any, tools: Any, place: Place, num_given: int = 0) -> Chat:
    """The chat of a row.

    Args:
        messages: the row's list.
        tools: a list of JSON schemas, the same as JSON text, or None.
        place: names the row.
        num_given: see `Chat`.

    Raises:
        CorpusError: a message without role or content, an unknown role, roles out of order, an
            assistant's turn that says nothing, or none at all; tools that are no list of objects.
    """
    found = tuple(_message(each, number, place) for number, each in enumerate(messages, start=1))
    _check_order(found, place)
    chat = Chat(found, _tools(tools, place), num_given, place)
    if not chat.learned:
        where = f"after the {num_given} that are given " if num_given else ""
        raise CorpusError(
            f"{place()}: none of its {len(found) - num_given} messages {where}is an assistant's, "
            "so nothing could be learned of it; take the row out, or add the answer"
        )
    return chat


def _message(message: Any, number: int, place: Place) -> Mapping[str, Any]:
    def wrong(what: str) -> CorpusError:
        return CorpusError(f"{place()}: message {number}: {what}")

    if not isinstance(message, Mapping):
        raise wrong(f"expected an object with role and content, got {_shown(message)}")
    kept = {key: _without_nulls(value) for key, value in message.items() if value is not None}
    if "role" not in kept:
        other = any(keys <= kept.keys() for keys in OTHER_KEYS)
        hint = "; rename its keys to role and content" if other else ""
        raise wrong(f"no role; there are: {', '.join(map(str, kept)) or 'none'}{hint}")
    role, content = kept["role"], kept.get("content")
    if role not in ROLES:
        near = difflib.get_close_matches(str(role), ROLES, n=1, cutoff=0.5)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise wrong(f"role {_shown(role)}: expected one of {', '.join(ROLES)}{meant}")
    if isinstance(content, list):
        for part in content:
            if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
                raise wrong(f"expected content of text, got a part {_shown(part)}; leave it out")
    elif content is not None and not isinstance(content, str):
        raise wrong(f"expected content of text, got {_shown(content)}; convert it")
    says_nothing = not any(text.strip() for text in texts_of(kept))
    if role == ASSISTANT and says_nothing and not kept.get("tool_calls"):
        raise wrong("an assistant's turn without text or tool_calls; take it out")
    if role != ASSISTANT and content is None:
        raise wrong(f"no content; there are: {', '.join(map(str, kept))}")
    return kept


def _check_order(messages: Sequence[Mapping[str, Any]], place: Place) -> None:
    before: str | None = None
    for number, message in enumerate(messages, start=1):
        role = message["role"]
        if role in FIRST_ROLES:
            wanted = number == 1
        elif role == TOOL:
            wanted = before in (ASSISTANT, TOOL)
        elif role == ASSISTANT:
            wanted = before in (USER, TOOL)
        else:
            wanted = before != USER
        if not wanted:
            raise CorpusError(
                f"{place()}: message {number}: {role} after {before or 'nothing'}; expected "
                "system first or not at all, then user and assistant in turn, and tool after an "
                "assistant's call; join messages of one role, or take the row out"
            )
        before = role


def _tools(tools: Any, place: Place) -> tuple[Any, ...] | None:
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except json.JSONDecodeError as err:
            raise CorpusError(
                f"{place()}: its tools are not JSON: {err.msg} at column {err.colno}"
            ) from err
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise CorpusError(
            f"{place()}: expected tools as a list of JSON schemas, got {_shown(tools)}"
        )
    return tuple(_without_nulls(tool) for tool in tools)


def _without_nulls(value: Any) -> Any:
    """The value without keys whose value is null: Parquet gives every row the keys of all."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    cut = text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"
    return f"{type(value).__name__} {cut}"
