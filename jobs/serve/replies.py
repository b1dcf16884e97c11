"""Replies of the completions as the OpenAI API has them: whole, and as the events of a stream."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from actors.pair.speech import Piece
from jobs.serve.service import Completed


class Replies(ABC):
    """Replies to one request.

    Args:
        model: name of the pair.
        voice: which voice speaks.
        num_choices: continuations that are asked for.
    """

    prefix, whole_kind, chunk_kind = "", "", ""

    def __init__(self, model: str, voice: str, num_choices: int) -> None:
        self._num_choices = num_choices
        self._common = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "voice": voice,
        }

    def whole(self, made: Completed) -> dict[str, Any]:
        """The reply without a stream."""
        choices = [
            {
                "index": choice["index"],
                **self.said(choice["text"]),
                "logprobs": None,
                "finish_reason": choice["why"],
            }
            for choice in made.choices
        ]
        return {**self._common, "object": self.whole_kind, "choices": choices, "usage": made.usage}

    def _chunk(self, index: int, delta: dict[str, Any], why: str | None) -> dict[str, Any]:
        choice = {"index": index, **delta, "logprobs": None, "finish_reason": why}
        return {**self._common, "object": self.chunk_kind, "choices": [choice]}

    def opening(self) -> Iterator[dict[str, Any]]:
        """Events before the first piece."""
        return iter(())

    @abstractmethod
    def said(self, text: str) -> dict[str, Any]:
        """A choice's text."""

    @abstractmethod
    def of_piece(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """Events of a piece."""

    def of_usage(self, usage: dict[str, int]) -> dict[str, Any]:
        """The event that says how many tokens it took."""
        return {**self._common, "object": self.chunk_kind, "choices": [], "usage": usage}


class CompletionReplies(Replies):
    """Of /v1/completions."""

    prefix, whole_kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def said(self, text: str) -> dict[str, Any]:
        """A choice's text."""
        return {"text": text}

    def of_piece(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """One event: the text, and why it ended."""
        yield self._chunk(piece.index, self.said(piece.text), piece.why)


class ChatReplies(Replies):
    """Of /v1/chat/completions."""

    prefix, whole_kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def said(self, text: str) -> dict[str, Any]:
        """A choice's message."""
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def opening(self) -> Iterator[dict[str, Any]]:
        """One event per choice: whose turn it is."""
        for index in range(self._num_choices):
            yield self._chunk(index, {"delta": {"role": "assistant", "content": ""}}, None)

    def of_piece(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """The text, then in an event of its own why it ended."""
        if piece.text:
            yield self._chunk(piece.index, {"delta": {"content": piece.text}}, None)
        if piece.why is not None:
            yield self._chunk(piece.index, {"delta": {}}, piece.why)
