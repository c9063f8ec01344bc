"""Sellers' routes for their sessions: register, read, close, remove; and their settlements."""

import asyncio
import base64
import json
import uuid
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response

from service.api.dependencies import (
    IDEMPOTENCY_HEADER,
    CallingSeller,
    ChannelId,
    ServicesOf,
    answered_once,
    body_as,
)
from service.api.documentation import (
    CLOSED,
    IDEMPOTENT,
    REJECTIONS,
    SESSION,
    SESSIONS,
    SETTLEMENT,
    VOUCHERS,
    json_body,
)
from service.api.problems import responses
from service.api.rendering import (
    failure_json,
    moment,
    session_json,
    settlement_brief,
    settling_json,
    voucher_row,
)
from service.api.schemas import CloseBody, NewSessionBody
from service.application.close_session import close_session, remove
from service.application.commit import Outcome
from service.application.funding import observe_funding
from service.application.history import parse_instant, session_at
from service.application.open_session import register_session
from service.application.streams import SESSION as SESSION_TYPE
from service.application.streams import session_stream
from service.bootstrap import Services
from service.domain.errors import (
    ChainUnavailable,
    FundingSourceRefused,
    FundingSourceUnknown,
    IdempotencyKeyReused,
    InvalidRequest,
    PayerUnproven,
    SessionExists,
    SessionNotFound,
    SettlementNotFound,
    Unauthorized,
)
from service.domain.grant_errors import CHANNEL_REFUSALS
from service.domain.limits import CLOSE_WAIT_SECONDS_MAX, PAGE_DEFAULT, PAGE_MAX
from service.domain.session import Session
from service.domain.settlement import TERMINAL_STATUSES
from service.domain.units import parse_amount, parse_pubkey

router = APIRouter(tags=["sessions"])

Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]
Cursor = Annotated[str | None, Query(max_length=1_024)]
_WAIT_POLL_SECONDS = 0.1


@router.post(
    "/v1/sessions",
    status_code=201,
    responses={
        201: SESSION,
        **responses(
            Unauthorized, PayerUnproven, SessionExists, IdempotencyKeyReused, *CHANNEL_REFUSALS
        ),
    },
    openapi_extra={**json_body(NewSessionBody), **IDEMPOTENT},
)
async def register(request: Request, services: ServicesOf, terms: CallingSeller) -> Response:
    """Register a channel before its first voucher. The same terms again change nothing."""

    async def produce() -> Response:
        body = await body_as(NewSessionBody, request)
        _storable(body.channel_id, "channelId")
        source = _optional_pubkey(body.source_token_account, "sourceTokenAccount")
        swig = _optional_pubkey(body.swig_address, "swigAddress")
        channel_id = body.channel_id or _new_channel_id(request, terms.seller_id)
        payer = parse_pubkey(body.payer, "payer")
        default = terms.session_terms(channel_id, payer)
        wanted = replace(
            default,
            session_pubkey=parse_pubkey(body.session_pubkey, "sessionPubkey"),
            deposit=parse_amount(body.deposit, "deposit"),
            source_token_account=source,
            swig_address=swig,
            swig_role_id=None if swig is None else await _role(services, payer, swig),
            valid_until=body.valid_until,
            limits=default.limits if body.limits is None else body.limits.parsed(),
            grant_id=body.grant_id,
        )
        now = services.clock.now()
        if body.grant_id is not None:
            await services.grants.check_channel(wanted, now)
        elif terms.proven_payers_only and body.session_pubkey != payer:
            raise PayerUnproven("this service wants the payer's own signature for a session key")
        opened = await register_session(services.ledger, wanted, now)
        return _json(await _with_funding(services, opened), 201)

    return await answered_once(request, services, terms.seller_id, produce)


@router.get("/v1/sessions", responses={200: SESSIONS, **responses(Unauthorized)})
async def list_sessions(
    services: ServicesOf,
    terms: CallingSeller,
    state: Annotated[
        Literal["open", "closing", "settled", "failed", "removed"] | None, Query()
    ] = None,
    payer: Annotated[str | None, Query(max_length=128)] = None,
    limit: Limit = PAGE_DEFAULT,
    cursor: Cursor = None,
) -> Response:
    """A page of the seller's sessions, oldest first; removed ones only with `state=removed`."""
    rows = await services.queries.sessions(
        terms.seller_id,
        state=state,
        payer=_storable(payer, "payer"),
        limit=limit,
        after=_opened_cursor(cursor),
    )
    page = [session_json(SESSION_TYPE.load(row.projection), row.position) for row in rows]
    more = _sealed_cursor(rows[-1].cursor) if len(rows) == limit else None
    return _json({"sessions": page, "nextCursor": more})


@router.get(
    "/v1/sessions/{channel_id}",
    responses={200: SESSION, **responses(Unauthorized, SessionNotFound)},
)
async def show_session(
    services: ServicesOf,
    terms: CallingSeller,
    channel_id: ChannelId,
    at: Annotated[
        str | None, Query(max_length=40, description="A position, or an RFC 3339 time.")
    ] = None,
) -> Response:
    """The session context, now or as it was."""
    stream = session_stream(terms.seller_id, channel_id)
    if at is not None:
        session, position = await session_at(services.store, stream, parse_instant(at))
        return _json(session_json(session, position))
    held = await services.ledger.read(stream)
    if held is None or held.state is None or held.state.removed_at is not None:
        raise SessionNotFound("no voucher was verified and no open recorded for this channel")
    return _json(session_json(held.state, held.position))


@router.get(
    "/v1/sessions/{channel_id}/vouchers",
    responses={200: VOUCHERS, **responses(Unauthorized, SessionNotFound)},
)
async def list_vouchers(
    services: ServicesOf,
    terms: CallingSeller,
    channel_id: ChannelId,
    limit: Limit = PAGE_DEFAULT,
    cursor: Annotated[int, Query(ge=0, le=2**62)] = 0,
) -> Response:
    """The accepted vouchers, oldest first, as they were received. Removal hides none of them."""
    stream = session_stream(terms.seller_id, channel_id)
    rows = await services.queries.vouchers(stream.stream_id, after=cursor, limit=limit)
    if not rows and await services.ledger.read(stream) is None:
        raise SessionNotFound("no voucher was verified and no open recorded for this channel")
    more = rows[-1].row.position if len(rows) == limit else None
    listed = ", ".join(voucher_row(row) for row in rows)
    text = f'{{"vouchers": [{listed}], "nextCursor": {json.dumps(more)}}}'
    return Response(text, media_type="application/json")


@router.get(
    "/v1/sessions/{channel_id}/rejections",
    responses={200: REJECTIONS, **responses(Unauthorized)},
)
async def list_rejections(
    services: ServicesOf, terms: CallingSeller, channel_id: ChannelId
) -> Response:
    """Refused vouchers of one session: counted by reason, the last ones in full."""
    return await _rejections(services, terms.seller_id, channel_id)


@router.get("/v1/rejections", responses={200: REJECTIONS, **responses(Unauthorized)})
async def list_unknown_rejections(services: ServicesOf, terms: CallingSeller) -> Response:
    """Refused vouchers that name no known session."""
    return await _rejections(services, terms.seller_id, "")


@router.delete("/v1/sessions/{channel_id}", status_code=204, responses=responses(Unauthorized))
async def remove_session(
    services: ServicesOf, terms: CallingSeller, channel_id: ChannelId
) -> Response:
    """Remove a session from the seller's view. The log keeps everything, and the channel's old
    vouchers stay refused."""
    stream = session_stream(terms.seller_id, channel_id)
    await remove(services.ledger, stream, by=terms.seller_id, now=services.clock.now())
    return Response(status_code=204)


@router.post(
    "/v1/sessions/{channel_id}/close",
    status_code=202,
    responses={
        200: CLOSED,
        202: CLOSED,
        **responses(Unauthorized, SessionNotFound, FundingSourceUnknown, IdempotencyKeyReused),
    },
    openapi_extra={**json_body(CloseBody, required=False), **IDEMPOTENT},
)
async def close(
    request: Request,
    services: ServicesOf,
    terms: CallingSeller,
    channel_id: ChannelId,
    wait: Annotated[
        float, Query(ge=0, le=CLOSE_WAIT_SECONDS_MAX, description="Seconds to wait for the end.")
    ] = 0,
) -> Response:
    """Close the session and settle it; closing again gives the same settlement.

    202 while the settlement is under way, 200 once it is terminal.
    """
    stream = session_stream(terms.seller_id, channel_id)

    async def produce() -> Response:
        body = await body_as(CloseBody, request, optional=True)
        source = _optional_pubkey(body.source_token_account, "sourceTokenAccount")
        if source is not None:
            await observe_funding(
                services.ledger,
                services.funding,
                services.settlement_terms,
                stream,
                services.clock.now(),
                named=source,
            )
        closed = await close_session(
            services.ledger,
            stream,
            services.settlement_terms,
            source=source,
            by=terms.seller_id,
            now=services.clock.now(),
        )
        assert closed.state is not None
        session = await _until_terminal(services, closed.state, stream.stream_id, wait)
        assert session.settlement is not None
        done = session.settlement.status in TERMINAL_STATUSES
        failure = failure_json(session.settlement)
        return _json(
            {
                "channelId": channel_id,
                "state": session.state,
                "settlement": {**settlement_brief(session.settlement), "failure": failure},
            },
            200 if done else 202,
        )

    return await answered_once(request, services, terms.seller_id, produce)


@router.get(
    "/v1/settlements/{settlementId}",
    tags=["settlements"],
    responses={200: SETTLEMENT, **responses(Unauthorized, SettlementNotFound)},
)
async def show_settlement(
    services: ServicesOf,
    terms: CallingSeller,
    settlementId: Annotated[str, Path(max_length=64)],  # noqa: N803
) -> Response:
    """A settlement: its state, its attempts, and what keeps it from ending."""
    found = await services.queries.settlement(_storable(settlementId, "settlementId") or "")
    if found is None or found.seller_id != terms.seller_id:
        raise SettlementNotFound(f"no settlement {settlementId!r}")
    state = await services.ledger.settling(found.stream_id)
    assert state is not None
    return _json(settling_json(state))


async def _role(services: Services, payer: str, swig: str) -> int | None:
    """Our role in the payer's Swig wallet. Where it is not known now, nothing is settled from it
    until the wallet grants one."""
    try:
        mint = services.network.usdc_mint
        return (await services.funding["swig"].locate(payer, swig, mint)).swig_role_id
    except (ChainUnavailable, FundingSourceRefused):
        return None


async def _with_funding(services: Services, opened: Outcome[Session]) -> dict[str, Any]:
    """Read the funding source if the registration named one; the chain may not answer."""
    assert opened.state is not None
    stream = session_stream(opened.state.terms.seller_id, opened.state.terms.channel_id)
    if opened.state.source_token_account is None:
        return session_json(opened.state, opened.position)
    await observe_funding(
        services.ledger,
        services.funding,
        services.settlement_terms,
        stream,
        services.clock.now(),
    )
    held = await services.ledger.read(stream)
    assert held is not None
    assert held.state is not None
    return session_json(held.state, held.position)


async def _until_terminal(
    services: Services, session: Session, stream_id: str, seconds: float
) -> Session:
    """The session once its settlement is terminal, or as it is when the time is up."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while session.settlement is not None and session.settlement.status not in TERMINAL_STATUSES:
        remaining = deadline - loop.time()
        if remaining <= 0:
            break
        await asyncio.sleep(min(_WAIT_POLL_SECONDS, remaining))
        found = await services.ledger.session(stream_id)
        assert found is not None
        session = found[0]
    return session


async def _rejections(services: Services, seller_id: str, channel_id: str) -> Response:
    counts, recent = await services.queries.rejections(seller_id, channel_id)
    return _json(
        {
            "counts": [
                {"code": row.reason, "count": row.count, "lastAt": moment(row.last_at)}
                for row in counts
            ],
            "recent": [
                {
                    "code": row.reason,
                    "error": row.error,
                    "time": moment(row.at),
                    "rawVoucher": row.voucher,
                }
                for row in recent
            ],
        }
    )


def _new_channel_id(request: Request, seller_id: str) -> str:
    """A fresh id; the same one for duplicates under one Idempotency-Key, or each would open one."""
    key = request.headers.get(IDEMPOTENCY_HEADER)
    fresh = uuid.uuid4() if key is None else uuid.uuid5(uuid.NAMESPACE_OID, f"{seller_id} {key}")
    return str(fresh)


def _optional_pubkey(value: str | None, field: str) -> str | None:
    return None if value is None else parse_pubkey(value, field)


def _storable(value: str | None, field: str) -> str | None:
    if value is not None and "\x00" in value:
        raise InvalidRequest(f"{field} must not hold NUL")
    return value


def _sealed_cursor(cursor: str) -> str:
    return base64.urlsafe_b64encode(cursor.encode()).decode()


def _opened_cursor(cursor: str | None) -> str | None:
    if cursor is None:
        return None
    try:
        return _storable(base64.urlsafe_b64decode(cursor).decode(), "cursor")
    except ValueError:
        raise InvalidRequest("cursor must be one that an earlier page gave") from None


def _json(body: object, status: int = 200) -> Response:
    return Response(json.dumps(body), status, media_type="application/json")
