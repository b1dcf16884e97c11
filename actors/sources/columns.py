"""The document in the chosen columns of a row, and the errors where they are missing or no text."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from actors.formats import listed
from actors.sources.chats import ASSISTANT, USER, Place, read_chat
from actors.sources.documents import Document
from actors.wire import CorpusError

SHOWN_COLUMNS = 20
SETTINGS = (
    "give every row that column, or name others in the run's config: text_column, or prompt_column "
    "and completion_column, or messages_column"
)
TEXT, LIST = "text", "list"  # what a column may hold
IN_WORDS = {(TEXT,): "text", (LIST,): "a list of messages", (LIST, TEXT): "a list, or JSON text",
            (TEXT, LIST): "text, or a list of messages"}  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """The columns of a row that are read, and what they are.

    Attributes:
        names: in the order in which `documents` takes their values.
        kind: `text`: a text, or prompt and completion; `messages`: a chat and, where there is a
            second column, its tools; `exchange`: prompt and completion as a chat.
        if_missing: what to do where a row has no such column.
    """

    names: tuple[str, ...]
    kind: Literal["text", "messages", "exchange"] = "text"
    if_missing: str = SETTINGS

    def holds(self, name: str) -> tuple[str, ...]:
        """What a column may hold, besides nothing."""
        if self.kind == "text":
            return (TEXT,)
        if self.kind == "exchange":
            return (TEXT, LIST)
        return (LIST,) if name == self.names[0] else (LIST, TEXT)

    def is_optional(self, name: str) -> bool:
        """Whether a JSON line may lack the column."""
        return self.kind == "messages" and name != self.names[0]

    def documents(self, values: Sequence[Any], place: Place) -> list[Document]:
        """The documents of one row, given the values of its columns; none where a column that is
        needed is null, or where a text that would be predicted is blank.

        Args:
            values: one for each name.
            place: names the row, for messages.

        Raises:
            CorpusError: as `read_chat`.
        """
        if self.kind == "text":
            return document(values)
        first, second = (*values, None)[:2]
        if first is None or (self.kind == "exchange" and second is None):
            return []
        if self.kind == "messages":
            return [Document("", chat=read_chat(first, second, place))]
        prompt, completion = _turn(first, USER), _turn(second, ASSISTANT)
        chat = read_chat([*prompt, *completion], None, place, num_given=len(prompt))
        return [Document("", chat=chat)]


def _turn(value: Any, role: str) -> list[Any]:
    return [{"role": role, "content": value}] if isinstance(value, str) else [*value]


def document(values: Sequence[str | None]) -> list[Document]:
    """The document of one row, given its values of the chosen columns; empty where one is null or
    the last, which is predicted, is blank.
    """
    *given, text = values
    if text is None or not text.strip() or any(g is None for g in given):
        return []
    return [Document(text, given=given[0] or "" if given else "")]


def no_column(where: str, column: str, there: Sequence[str], then: str = SETTINGS) -> CorpusError:
    """The error for a missing column; names those present and the nearest one, and what to do."""
    near = difflib.get_close_matches(column, there, n=1, cutoff=0.5)
    return CorpusError(
        f"{where}: no column {column}"
        + (f"; did you mean {near[0]}?" if near else ";")
        + f" there are: {listed(there, SHOWN_COLUMNS) or 'none'}; {then}"
    )


def wrong_type(
    where: str, column: str, got: str, expected: tuple[str, ...] = (TEXT,)
) -> CorpusError:
    """The error for a column that holds something else than it should."""
    return CorpusError(
        f"{where}: column {column}: expected {IN_WORDS[expected]}, got {got}; choose another "
        "column, or convert it"
    )
