"""The seller's feed: a page, or a stream that resumes where it was cut."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response
from starlette.responses import StreamingResponse

from service.api.dependencies import CallingSeller, ServicesOf, bearer_token
from service.api.documentation import EVENT_STREAM, EVENTS
from service.api.problems import responses
from service.api.rendering import event_text
from service.bootstrap import Services
from service.domain.errors import LedgerError, Unauthorized
from service.domain.limits import PAGE_DEFAULT, PAGE_MAX

router = APIRouter(tags=["events"])

START: Final = "0-0"
POLL_SECONDS: Final = 0.2
HEARTBEAT_SECONDS: Final = 15.0


@router.get("/v1/events", responses={200: EVENTS, **responses(Unauthorized)})
async def list_events(
    services: ServicesOf,
    terms: CallingSeller,
    after: Annotated[str, Query(max_length=40)] = START,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = PAGE_DEFAULT,
) -> Response:
    """The events of all the seller's streams behind a position of this feed."""
    rows = await services.queries.feed(terms.seller_id, after, limit)
    listed = ", ".join(event_text(row) for row in rows)
    behind = rows[-1].cursor if rows else after
    text = f'{{"events": [{listed}], "next": {json.dumps(behind)}}}'
    return Response(text, media_type="application/json")


@router.get(
    "/v1/events/stream",
    response_class=StreamingResponse,
    responses={200: EVENT_STREAM, **responses(Unauthorized)},
)
async def stream_events(
    request: Request,
    services: ServicesOf,
    terms: CallingSeller,
    after: Annotated[str | None, Query(max_length=40)] = None,
) -> Response:
    """The feed as server-sent events; resumes from `Last-Event-ID`."""
    start = request.headers.get("last-event-id") or after or START
    first = await services.queries.feed(terms.seller_id, start, 1)  # refuses a bad cursor with 400
    del first
    return StreamingResponse(
        _server_sent_events(services, terms.seller_id, bearer_token(request), start),
        media_type="text/event-stream",
        headers={"x-accel-buffering": "no"},
    )


async def _server_sent_events(
    services: Services, seller_id: str, api_key: str, cursor: str
) -> AsyncGenerator[str]:
    quiet = 0.0
    yield ": connected\n\n"
    while not services.stopping.is_set():
        try:
            rows = await services.queries.feed(seller_id, cursor, PAGE_MAX)
            if quiet >= HEARTBEAT_SECONDS:
                quiet = 0.0
                await services.directory.authenticate(api_key)  # a revoked key ends its streams
                yield ": still here\n\n"
        except LedgerError:
            return  # the client reconnects and resumes; an error cannot be told in a stream
        for row in rows:
            cursor = row.cursor
            yield f"id: {cursor}\nevent: {row.row.type}\ndata: {event_text(row)}\n\n"
        if not rows:
            quiet += POLL_SECONDS
            await asyncio.sleep(POLL_SECONDS)
