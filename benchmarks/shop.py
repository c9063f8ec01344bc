"""The shop under test: one answer for nothing, and twice for a voucher.

Argument: the listening socket's descriptor. The load's vouchers come as bodies; here they become
the header that buyers send, for the free answer too.
"""

import os
import socket
import sys
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI
from vouchers import PRICE

from session_ledger.seller import PaidMiddleware, SessionServer, Verdict
from session_ledger.seller.fastapi import install, paid

_ANSWER = {"served": "x" * 200}


def shop(server: SessionServer) -> Any:
    """The application."""
    app = FastAPI()
    install(app)

    async def free() -> dict[str, str]:
        return _ANSWER

    async def dependent(_: Annotated[Verdict, Depends(paid(server))]) -> dict[str, str]:
        return _ANSWER

    app.add_api_route("/free", free, methods=["POST"])
    app.add_api_route("/middleware", free, methods=["POST"])
    app.add_api_route("/dependency", dependent, methods=["POST"])
    return _BodyAsHeader(PaidMiddleware(app, server, {"/middleware": PRICE}))


class _BodyAsHeader:
    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            message = await receive()
            body = message["body"]
            while message.get("more_body"):
                message = await receive()
                body += message["body"]
            if body:
                scope["headers"] = [*scope["headers"], (b"x-mpp-voucher", body)]
        await self._app(scope, receive, send)


def main() -> None:
    """Serve until the process is told to stop."""
    server = SessionServer(
        os.environ["RECIPIENT"],
        PRICE,
        os.environ["LEDGER_URL"],
        "localnet",
        api_key=os.environ["LEDGER_API_KEY"],
    )
    # Not as `fd=`: uvicorn takes that for a Unix socket, and small answers wait for each other.
    config = uvicorn.Config(shop(server), log_level="warning", access_log=False)
    uvicorn.Server(config).run([socket.socket(fileno=int(sys.argv[1]))])


if __name__ == "__main__":
    main()
