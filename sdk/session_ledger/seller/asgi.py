"""Charges the routes of any ASGI application. Plain ASGI: it needs no framework."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, TypeAlias

from session_ledger.seller.answers import Answer
from session_ledger.seller.gate import Gate, Price
from session_ledger.seller.server import SessionServer
from session_ledger.seller.streaming import Streams
from session_ledger.voucher import VOUCHER_HEADER

Scope: TypeAlias = "MutableMapping[str, Any]"
Message: TypeAlias = "MutableMapping[str, Any]"
Receive: TypeAlias = "Callable[[], Awaitable[Message]]"
Send: TypeAlias = "Callable[[Message], Awaitable[None]]"
App: TypeAlias = "Callable[[Scope, Receive, Send], Awaitable[None]]"

_VOUCHER: Final = VOUCHER_HEADER.encode()


@dataclass(frozen=True, slots=True)
class PaidRoute:
    """What one path costs; a function is given the ASGI scope. `replays`: see `Gate`. The voucher
    of a `stream` pays for its first units, at least one."""

    price: Price = None
    replays: bool = False
    stream: bool = False


class PaidMiddleware:
    """Asks for a voucher on the paths in `routes`; `/feed/*` stands for all below `/feed/`.

    Every method but OPTIONS is charged; a WebSocket on such a path is refused. The application
    finds the payment as `request.state.payment`, and the stream of a streaming route as
    `request.state.stream`. A voucher whose request failed (an exception, or a status of 500 and
    more, before anything was delivered) is served when the buyer sends it again.
    """

    def __init__(
        self,
        app: App,
        server: SessionServer,
        routes: "Mapping[str, PaidRoute | int | str]",
        *,
        streams: Streams | None = None,
    ) -> None:
        self._app = app
        self._server = server
        self._streams = streams or Streams(server)
        self._routes: dict[str, tuple[PaidRoute, Gate]] = {}
        for path, route in routes.items():
            paid = route if isinstance(route, PaidRoute) else PaidRoute(route)
            self._routes[path] = paid, Gate(server, paid.price, paid.replays)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        path = _path_of(scope)
        found = self._route(path) if scope["type"] in {"http", "websocket"} else None
        if scope["type"] == "http" and (stream_id := self._streams.named_by(path)) is not None:
            await _send(send, await self._of_stream(scope, stream_id))
        elif found is None or scope.get("method") == "OPTIONS":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "payment required"})
        elif found[0].stream:
            await self._serve_stream(found[1], scope, receive, send)
        else:
            await self._serve(found[1], scope, receive, send)

    def _route(self, path: str) -> tuple[PaidRoute, Gate] | None:
        found = self._routes.get(path)
        while found is None and path:
            path = path.rpartition("/")[0]
            found = self._routes.get(f"{path}/*")
        return found

    async def _serve(self, gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
        verdict = await gate.judge(voucher_of(scope), scope)
        if isinstance(verdict, Answer):
            await _send(send, verdict)
            return
        scope.setdefault("state", {})["payment"] = verdict
        delivering = False

        async def watched(message: Message) -> None:
            nonlocal delivering
            if message["type"] == "http.response.start":
                delivering = message["status"] < HTTPStatus.INTERNAL_SERVER_ERROR
                if delivering:
                    _add(message, verdict.headers)
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            if not delivering:
                self._server.owe(verdict)

    async def _serve_stream(self, gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
        stream = await self._streams.open(voucher_of(scope), gate, scope)
        if isinstance(stream, Answer):
            await _send(send, stream)
            return

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                _add(message, {**stream.verdict.headers, **stream.headers})
            await send(message)

        try:
            scope.setdefault("state", {}).update(payment=stream.verdict, stream=stream)
            await self._app(scope, receive, named)
        finally:
            await stream.close()

    async def _of_stream(self, scope: Scope, stream_id: str) -> Answer:
        if scope["method"] == "POST":
            return await self._streams.top_up(stream_id, voucher_of(scope))
        return self._streams.status(stream_id)


def voucher_of(scope: Scope) -> str | None:
    """The voucher header, decoded as the reference's clients encode it."""
    values = [value for name, value in scope["headers"] if name.lower() == _VOUCHER]
    return b",".join(values).decode("latin-1") if values else None


def _add(message: Message, headers: Mapping[str, str]) -> None:
    added = [(name.encode(), value.encode()) for name, value in headers.items()]
    message["headers"] = [*message.get("headers", ()), *added]


def _path_of(scope: Scope) -> str:
    """The path as the application's routes know it, without the prefix that it is served under."""
    path, prefix = scope.get("path", ""), scope.get("root_path", "")
    return path[len(prefix) :] if path == prefix or path.startswith(f"{prefix}/") else path


async def _send(send: Send, answer: Answer) -> None:
    content = answer.content
    headers = {
        "content-type": "application/json",
        "content-length": str(len(content)),
        "cache-control": "no-store",
        **answer.headers,
    }
    await send(
        {
            "type": "http.response.start",
            "status": answer.status,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": content})
