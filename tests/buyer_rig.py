"""A paid application over HTTP, and clients that pay it, for tests on the real service."""

import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from session_ledger.buyer import AutoPay, KeySigner, Limits
from session_ledger.seller import PaidMiddleware, SessionServer


def paid_application(url: str, api_key: str, recipient: str, price: int, served: list[str]) -> Any:
    """`/paid` costs a price and writes its query down; `/free` costs nothing."""

    async def paid(request: Request) -> Response:
        served.append(request.url.query)
        return JSONResponse({"served": len(served)})

    async def free(_: Request) -> Response:
        return JSONResponse({"free": True})

    server = SessionServer(recipient, price, api_url=url, network="localnet", api_key=api_key)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with server:
            yield

    routes = [Route("/paid", paid, methods=["GET", "POST"]), Route("/free", free)]
    app = Starlette(routes=routes, lifespan=lifespan)
    return PaidMiddleware(app, server, {"/paid": price})


@contextmanager
def listening(app: Any) -> Iterator[str]:
    """The application on a port of its own, in a thread; gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as socket_:
        config = uvicorn.Config(app, lifespan="on", log_config=None, ws="none", loop="asyncio")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([socket_],), daemon=True)
        thread.start()
        try:
            host, port = socket_.getsockname()
            yield f"http://{host}:{port}"
        finally:
            server.should_exit = True
            thread.join(10)


def session_of(url: str, owner: KeySigner, recipient: str, price: int, **changes: Any) -> AutoPay:
    """A client with a session that may pay this recipient a hundred times, registered."""
    limits = {
        "allowed_recipients": (recipient,),
        "max_payment_amount": price,
        "max_calls": 100,
        "max_total_amount": 100 * price,
        **changes.pop("limits", {}),
    }
    duration = changes.pop("duration", 3_600)
    given: dict[str, Any] = {
        "network": "localnet",
        "owner_signer": owner,
        "max_payment_amount": price,
        "max_total": 10_000 * price,
        "allowed_recipients": [recipient],
        "ledger_url": url,
        **changes,
    }
    payer = AutoPay(**given)
    payer.create_session()
    payer.register(Limits(**limits), duration=duration)
    return payer
