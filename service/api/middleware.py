"""What every request passes, as plain ASGI: an id, a size limit, a measured time, its raw path."""

import secrets
import time
from typing import Final

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.domain.limits import BATCH_BODY_BYTES_MAX, BODY_BYTES_MAX
from service.observability import Metrics

BATCH_PATH: Final = "/v1/vouchers/verify-batch"


class RequestEnvelope:
    """Around every route."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = f"req_{secrets.token_hex(8)}"
        scope["request_id"] = request_id
        # Routing on the undecoded path keeps a `/` inside a channel id from being a separator.
        scope["path"] = scope.get("raw_path", scope["path"].encode()).decode("latin-1")
        status = 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"cache-control", b"no-store"),
                ]
            await send(message)

        limit = BATCH_BODY_BYTES_MAX if scope["path"] == BATCH_PATH else BODY_BYTES_MAX
        try:
            await self._app(scope, _limited(receive, scope, limit), answer)
        finally:
            metrics: Metrics = scope["app"].state.services.metrics
            metrics.requests.labels(status).inc()
            metrics.request_seconds.observe(time.perf_counter() - started)


def _limited(receive: Receive, scope: Scope, limit: int) -> Receive:
    refusal = HTTPException(413, f"the body is larger than {limit} bytes")
    declared = Headers(scope=scope).get("content-length", "")
    too_large = declared.isascii() and declared.isdecimal() and int(declared[:20]) > limit
    read = 0

    async def limited() -> Message:
        nonlocal read
        if too_large:
            raise refusal
        message = await receive()
        read += len(message.get("body", b""))
        if read > limit:
            raise refusal
        return message

    return limited
