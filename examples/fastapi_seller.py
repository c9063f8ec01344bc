"""A paid API in FastAPI: one route at a price, one stream that is paid line by line.

    LEDGER_URL=http://localhost:8000 LEDGER_API_KEY=... RECIPIENT=... NETWORK=localnet \
        uvicorn --app-dir examples fastapi_seller:app --port 3000

Needs `session-ledger-client[fastapi]` and uvicorn.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Request
from fastapi.responses import StreamingResponse

from session_ledger.seller import (
    PaidMiddleware,
    PaidRoute,
    SessionServer,
    Streams,
    Verdict,
    pause_event,
)
from session_ledger.seller.fastapi import install, paid

PRICE = "10000"
LINE_PRICE = "500"

server = SessionServer(
    os.environ["RECIPIENT"],
    PRICE,
    os.environ.get("LEDGER_URL", "http://localhost:8000"),
    os.environ.get("NETWORK", "localnet"),
    api_key=os.environ.get("LEDGER_API_KEY"),
)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    """Close the connections to the ledger in the end."""
    async with server:
        yield


app = FastAPI(lifespan=lifespan)
install(app)


@app.get("/weather")
async def weather(payment: Annotated[Verdict, Depends(paid(server))]) -> dict[str, str]:
    """Costs PRICE a request."""
    return {"sky": "clear", "paid": str(payment.amount_paid)}


@app.get("/poem")
async def poem(request: Request, lines: int = 10) -> StreamingResponse:
    """Costs LINE_PRICE a line; a client that has no credit left is told so by an event."""

    async def written() -> AsyncIterator[bytes]:
        for number in range(1, lines + 1):
            await asyncio.sleep(0)  # a poet thinks here
            yield b"data: line %d\n\n" % number

    delivered = request.state.stream.deliver(written(), notice=pause_event)
    return StreamingResponse(delivered, media_type="text/event-stream")


app.add_middleware(
    PaidMiddleware,
    server=server,
    routes={"/poem": PaidRoute(LINE_PRICE, stream=True)},
    streams=Streams(server),
)
