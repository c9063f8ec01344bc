"""What is promised and not settled, for operators; a seller sees its own part."""

import base64
import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response

from service.api.dependencies import ServicesOf, calling_operator, calling_seller
from service.api.documentation import EXPOSURE
from service.api.problems import responses
from service.api.rendering import amount, moment
from service.application.exposure import Exposure, exposure_page
from service.domain.errors import InvalidRequest, Unauthorized
from service.domain.limits import PAGE_DEFAULT, PAGE_MAX
from service.domain.session import MILLIS
from service.domain.units import UnixMillis
from service.ports import ExposureBy, Unsettled

router = APIRouter(tags=["operators"])


async def _seen_seller(request: Request) -> str | None:
    """The seller whose sessions the caller may see; `None` for the operator, who sees all.

    Raises:
        Unauthorized: no token, or one that opens nothing.
    """
    try:
        await calling_operator(request)
    except Unauthorized:
        return (await calling_seller(request)).seller_id
    return None


@router.get("/v1/exposure", responses={200: EXPOSURE, **responses(Unauthorized)})
async def exposure(
    services: ServicesOf,
    seller_id: Annotated[str | None, Depends(_seen_seller)],
    by: Annotated[
        Literal["buyer", "seller"], Query(description="What a row stands for.")
    ] = "buyer",
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = PAGE_DEFAULT,
    cursor: Annotated[str | None, Query(max_length=1_024)] = None,
) -> Response:
    """What open and closing sessions are owed, and what their funding sources could pay now.

    The operator sees all sellers, a seller its own sessions. `available` is read from the chain for
    this answer: null when the chain does not answer, when no source is known, and behind the first
    1,000 sources of a page (ask for fewer rows). `headroom` is `available` less `unsettled`; other
    sellers' claims on the same source are in the operator's view only. `totals` is of all pages and
    comes with the first. The cost is in proportion to the sessions that are not settled.
    """
    page = await exposure_page(
        services.exposure,
        services.funding,
        services.settlement_terms,
        by=by,
        seller_id=seller_id,
        limit=limit,
        after=_name_of(cursor),
    )
    now = services.clock.now()
    body = {
        "by": by,
        "exposures": [_row_json(row, by, seller_id, now) for row in page.rows],
        "totals": None if page.total is None else _sums_json(page.total, now),
        "nextCursor": None if page.next_name is None else _cursor_of(page.next_name),
    }
    return Response(json.dumps(body), media_type="application/json")


def _row_json(
    exposure: Exposure, by: ExposureBy, seller_id: str | None, now: UnixMillis
) -> dict[str, Any]:
    row = exposure.row
    return {
        "buyer": row.name if by == "buyer" else None,
        "seller": row.name if by == "seller" else seller_id,
        **_sums_json(row.held, now),
        "funding": row.funding,
        "available": amount(exposure.available),
        "headroom": amount(exposure.headroom),
        "slot": exposure.slot,
    }


def _sums_json(held: Unsettled, now: UnixMillis) -> dict[str, Any]:
    oldest = held.oldest_at
    return {
        "openSessions": held.open_sessions,
        "closingSessions": held.closing_sessions,
        "unsettled": str(held.unsettled),
        "deposits": str(held.deposits),
        "oldestAt": moment(oldest),
        "ageSeconds": None if oldest is None else max(0, now - oldest) // MILLIS,
    }


def _cursor_of(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode()


def _name_of(cursor: str | None) -> str | None:
    """The name behind which a page begins.

    Raises:
        InvalidRequest: no page gave this cursor.
    """
    if cursor is None:
        return None
    try:
        name = base64.b64decode(cursor, altchars=b"-_", validate=True).decode()
    except ValueError:
        name = "\x00"
    if "\x00" in name:
        raise InvalidRequest("cursor must be one that an earlier page gave")
    return name
