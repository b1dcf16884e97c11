"""The HTTP service of one replica: routes, the token, limits, errors as the OpenAI API has them.

    GET  /healthz, /v1/models, /v1/told
    POST /v1/completions, /v1/chat/completions, /v1/tell, /v1/untell

Every request but /healthz needs the token, which is compared before a body is read. What the pair
does is `jobs.serve.service`; each call of it runs on a thread, one after the other.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse

from actors.wire import ConfigError, TandemError
from jobs.serve.event_stream import event_stream
from jobs.serve.messages import Chat, Completions, Tell, Untell, error
from jobs.serve.replies import ChatReplies, CompletionReplies, Replies
from jobs.serve.service import (
    Completed,
    GoneError,
    OnPiece,
    Service,
    TooLongError,
    UnknownWriteError,
)

LARGEST_BODY = 8 << 20
INVALID, SERVER = "invalid_request_error", "server_error"
T = TypeVar("T")


def token_digest(token: str) -> str:
    """What replicas know of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def make_app(load: Callable[[], Service], digest: str | None) -> FastAPI:
    """The service as an ASGI application.

    Args:
        load: gives the pair, once, when the application starts.
        digest: of the token; None: no token is asked for.
    """
    began = int(time.time())
    turn = asyncio.Lock()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = await asyncio.to_thread(load)
        yield

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    async def on_pair(work: Callable[[Service], T]) -> T:
        """What the work returns, done on a thread with the writes that are kept now."""
        service: Service = app.state.service

        def do() -> T:
            service.refresh()
            return work(service)

        async with turn:
            return await asyncio.to_thread(do)

    @app.get("/healthz")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    def described(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": began, "owned_by": "tandem"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        name = await on_pair(lambda service: service.name)
        return {"object": "list", "data": [described(name)]}

    @app.get("/v1/models/{name}")
    async def model(name: str) -> Any:
        if name != app.state.service.name:
            message = f"no model {name!r}; this service has {app.state.service.name!r}"
            return JSONResponse(error(message, INVALID, "model", "model_not_found"), 404)
        return described(name)

    async def completed(
        body: Completions | Chat,
        kind: type[Replies],
        num_choices: int,
        work: Callable[[Service, OnPiece | None], Completed],
    ) -> Any:
        """What the work makes, whole or as a stream."""
        service: Service = app.state.service
        if body.model not in (None, service.name):
            message = f"no model {body.model!r}; this service has {service.name!r}"
            return JSONResponse(error(message, INVALID, "model", "model_not_found"), 404)
        replies = kind(service.name, body.voice, num_choices)
        if not body.stream:
            return replies.whole(await on_pair(lambda service: work(service, None)))

        def start(on_piece: OnPiece) -> Awaitable[Completed]:
            return on_pair(lambda service: work(service, on_piece))

        events = await event_stream(start, replies, body.ends_with_usage)
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    @app.post("/v1/completions")
    async def completions(body: Completions) -> Any:
        num_choices = len(body.prompts) * body.n
        return await completed(
            body, CompletionReplies, num_choices, lambda service, on: service.complete(body, on)
        )

    @app.post("/v1/chat/completions")
    async def chat(body: Chat) -> Any:
        return await completed(
            body, ChatReplies, body.n, lambda service, on: service.chat(body, on)
        )

    @app.post("/v1/tell")
    async def tell(body: Tell) -> dict[str, Any]:
        return await on_pair(lambda service: service.tell(body))

    @app.get("/v1/told")
    async def told() -> dict[str, Any]:
        return {"object": "list", "data": await on_pair(lambda service: service.told())}

    @app.post("/v1/untell")
    async def untell(body: Untell) -> dict[str, Any]:
        return await on_pair(lambda service: service.untell(body))

    add_errors(app)
    app.add_middleware(Gate, digest=digest)
    return app


def add_errors(app: FastAPI) -> None:
    """Turns what is raised into replies with a status, a message and a kind."""

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, err: RequestValidationError) -> JSONResponse:
        first = err.errors()[0]
        at = [str(part) for part in first["loc"] if part != "body"]
        where = ".".join(part for part in at if part.isidentifier()) or None
        text = f"{'.'.join(at)}: {first['msg']}" if at else f"the body: {first['msg']}"
        return JSONResponse(error(text, INVALID, where), 400)

    @app.exception_handler(UnknownWriteError)
    async def unknown(_request: Request, err: UnknownWriteError) -> JSONResponse:
        return JSONResponse(error(str(err), INVALID, "id", "write_not_found"), 404)

    @app.exception_handler(TooLongError)
    async def too_long(_request: Request, err: TooLongError) -> JSONResponse:
        return JSONResponse(error(str(err), INVALID, code="context_length_exceeded"), 400)

    @app.exception_handler(GoneError)
    async def gone(_request: Request, err: GoneError) -> JSONResponse:
        return JSONResponse(error(str(err), SERVER, code="pair_unavailable"), 503)

    @app.exception_handler(ConfigError)
    async def wrong(_request: Request, err: ConfigError) -> JSONResponse:
        return JSONResponse(error(str(err), INVALID), 400)

    @app.exception_handler(TandemError)
    async def failed(_request: Request, err: TandemError) -> JSONResponse:
        return JSONResponse(error(str(err), SERVER), 503)

    @app.exception_handler(404)
    @app.exception_handler(405)
    async def no_route(request: Request, err: Any) -> JSONResponse:
        text = f"no {request.method} {request.url.path} here; see docs/tell.md"
        return JSONResponse(error(text, INVALID), err.status_code)

    @app.exception_handler(Exception)
    async def broken(_request: Request, err: Exception) -> JSONResponse:
        return JSONResponse(error(f"{type(err).__name__}: the request failed", SERVER), 500)


class Gate:
    """Asks for the token and bounds the body, before anything else reads it.

    Args:
        app: the ASGI application behind it.
        digest: of the token; None: none is asked for.
    """

    def __init__(self, app: Any, digest: str | None) -> None:
        self._app, self._digest = app, digest

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        if scope["path"] != "/healthz" and not self._knows(headers.get(b"authorization", b"")):
            text = "no token, or not the one that tandem serve printed; send Authorization: Bearer"
            reply = JSONResponse(error(text, INVALID, code="invalid_api_key"), 401)
            await reply(scope, receive, send)
            return
        told = headers.get(b"content-length", b"0")
        if (int(told) if told.isdigit() else 0) > LARGEST_BODY:
            await _too_large(scope, receive, send)
            return
        body, is_whole = bytearray(), False
        while not is_whole:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            is_whole = not message.get("more_body", False)
            if len(body) > LARGEST_BODY:
                await _too_large(scope, receive, send)
                return
        given = iter([{"type": "http.request", "body": bytes(body), "more_body": False}])

        async def once() -> Any:
            first = next(given, None)
            return await receive() if first is None else first

        await self._app(scope, once, send)

    def _knows(self, header: bytes) -> bool:
        if self._digest is None:
            return True
        kind, _, token = header.decode("latin-1").partition(" ")
        given = token_digest(token.strip())
        return kind.lower() == "bearer" and hmac.compare_digest(given, self._digest)


async def _too_large(scope: Any, receive: Any, send: Any) -> None:
    text = f"the body is too large: at most {LARGEST_BODY >> 20} MiB"
    await JSONResponse(error(text, INVALID), 413)(scope, receive, send)
