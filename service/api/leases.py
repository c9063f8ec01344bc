"""Leases: at most one of a seller's processes streams on a channel at a time."""

import json
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from service.api.dependencies import CallingSeller, ChannelId, ServicesOf, body_as
from service.api.documentation import LEASE, json_body
from service.api.problems import responses
from service.api.rendering import moment
from service.api.schemas import HOLDER_PATTERN, LeaseBody
from service.domain.errors import Unauthorized
from service.domain.lease_errors import LeaseHeld

router = APIRouter(tags=["sessions"])


@router.post(
    "/v1/sessions/{channel_id}/lease",
    responses={200: LEASE, **responses(Unauthorized, LeaseHeld)},
    openapi_extra=json_body(LeaseBody),
)
async def take_lease(
    request: Request, services: ServicesOf, terms: CallingSeller, channel_id: ChannelId
) -> Response:
    """Take the channel's lease, or renew it as its holder. The channel need not be known yet.

    A lease bounds nothing that is paid. It says which of a seller's processes delivers.
    """
    body = await body_as(LeaseBody, request)
    ends = await services.leases.take(terms.seller_id, channel_id, body.holder, body.ttl_seconds)
    if ends is None:
        raise LeaseHeld("another holder has the lease of this channel")
    answer = {"channelId": channel_id, "holder": body.holder, "expiresAt": moment(ends)}
    return Response(json.dumps(answer), media_type="application/json")


@router.delete(
    "/v1/sessions/{channel_id}/lease", status_code=204, responses=responses(Unauthorized)
)
async def release_lease(
    services: ServicesOf,
    terms: CallingSeller,
    channel_id: ChannelId,
    holder: Annotated[str, Query(pattern=HOLDER_PATTERN)],
) -> Response:
    """Give the lease back. One that somebody else holds, or nobody, stays as it is."""
    await services.leases.release(terms.seller_id, channel_id, holder)
    return Response(status_code=204)
