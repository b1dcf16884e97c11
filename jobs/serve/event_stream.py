"""What a completion says while it is said, as server-sent events.

    thread: Service.complete or .chat, a call per piece -> queue -> this coroutine -> data: {...}

A client that has gone ends the completion with its next piece. What goes wrong before the first
piece is raised, so that it has a status of its own; later it is an event.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from actors.pair.speech import Piece
from actors.wire import TandemError
from jobs.serve.messages import error
from jobs.serve.replies import Replies
from jobs.serve.service import Completed, OnPiece

Item = Piece | Completed | BaseException


class ClientGoneError(TandemError):
    """Nobody reads the stream any more."""


async def event_stream(
    start: Callable[[OnPiece], Awaitable[Completed]], replies: Replies, ends_with_usage: bool
) -> AsyncIterator[bytes]:
    """Events of one completion, the first of which has been waited for.

    Args:
        start: does the work on a thread, and calls what it is given for each piece.
        replies: of this request.
        ends_with_usage: whether the last event says how many tokens it took.

    Raises:
        what the work raises before its first piece.
    """
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[Item]()
    gone = threading.Event()

    def on_piece(piece: Piece) -> None:
        if gone.is_set():
            raise ClientGoneError("the client has gone")
        loop.call_soon_threadsafe(queue.put_nowait, piece)

    async def work() -> None:
        try:
            queue.put_nowait(await start(on_piece))
        except Exception as err:  # it belongs to whoever reads the stream
            queue.put_nowait(err)

    task = asyncio.create_task(work())
    try:
        first = await queue.get()
    except BaseException:
        gone.set()
        raise
    if isinstance(first, BaseException):
        raise first

    async def events() -> AsyncIterator[bytes]:
        item: Item = first
        try:
            for chunk in replies.opening():
                yield _event(chunk)
            while isinstance(item, Piece):
                for chunk in replies.of_piece(item):
                    yield _event(chunk)
                item = await queue.get()
            if isinstance(item, BaseException):
                yield _event(error(f"{type(item).__name__}: {item}", "server_error"))
                return
            if ends_with_usage:
                yield _event(replies.of_usage(item.usage))
            yield b"data: [DONE]\n\n"
        finally:
            gone.set()
            await asyncio.wait([task])  # where this is cancelled, the work ends by itself

    return events()


def _event(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()
