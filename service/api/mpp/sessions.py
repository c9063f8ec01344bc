"""Buyers' sessions: `/mpp/session/open`, `/voucher` and `/close`.

Answers have the fields that the reference's code reads, and beside them those of its documentation.
"""

import asyncio
from base64 import b64encode
from typing import Any, Final

import orjson
from fastapi import APIRouter, Request, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from service.api.dependencies import ServicesOf, wired
from service.api.mpp.answers import (
    WireBody,
    failure_code,
    wire_body,
    wire_error,
    wire_success,
)
from service.api.mpp.documentation import CLOSE, OPEN, VOUCHER
from service.api.mpp.sign_in import signed_in
from service.api.rendering import explorer_url, moment
from service.application.close_session import close_session
from service.application.open_for_buyer import OpenRequest
from service.application.sign_voucher import Signed, VoucherRequest
from service.application.streams import Stream
from service.bootstrap import Services
from service.domain.errors import (
    AmountNotRising,
    ChannelNotFound,
    InvalidRequest,
    NetworkMismatch,
)
from service.domain.failures import FAILURES
from service.domain.limits import (
    CHANNEL_ID_CHARS_MAX,
    IDLE_TIMEOUT_SECONDS_MAX,
    METADATA_CHARS_MAX,
    METER_CHARS_MAX,
    U64_MAX,
)
from service.domain.session import MILLIS, Session
from service.domain.settlement import TERMINAL_STATUSES, Settlement
from session_ledger.challenge import CHANNEL_PROGRAM
from session_ledger.voucher import SIGNATURE_TYPE

router = APIRouter(tags=["buyers"])

CLOSE_SECONDS: Final = 25.0
"""How long a close waits for finality; the client gives up after 30."""
POLL_SECONDS: Final = 0.1
NONCE_CHARS_MAX: Final = 128
_CONFLICT: Final = 409
_ACCEPTED: Final = 202


@router.post("/mpp/session/open", responses=OPEN.responses, openapi_extra=OPEN.extra)
async def open_session(request: Request, services: ServicesOf) -> Response:
    """Open a session with a deposit that the chain covers. Nothing is taken until it is closed."""
    body = await wire_body(request)
    wallet = body.wallet("buyer_wallet", "wallet")
    network = body.optional_text("network")
    if network is not None and network != services.network.name:
        raise NetworkMismatch(f"this service is for {services.network.name}, not {network}")
    body.optional_object("metadata", chars_max=METADATA_CHARS_MAX)
    asked = OpenRequest(
        wallet=wallet,
        named=body.optional_wallet("buyer_swig_address", "swig_address"),
        recipient=body.wallet("seller_wallet", "seller", "recipient"),
        deposit=body.amount("deposit_atomic", "deposit"),
        idle_timeout_seconds=body.optional_integer(
            "idle_timeout_seconds", least=1, most=IDLE_TIMEOUT_SECONDS_MAX
        ),
        proved=services.settings.open_proof == "required",
    )
    if asked.proved:
        await signed_in(request, services, wallet)
    return wire_success(_opened(await services.buyers.opening.open(asked)))


@router.post("/mpp/session/voucher", responses=VOUCHER.responses, openapi_extra=VOUCHER.extra)
async def sign_voucher(request: Request) -> Response:
    """Sign a voucher over the session's total so far. The same request again gives the same one."""
    services = wired(request)
    asked = _voucher_request(await wire_body(request))
    try:
        signed = await services.buyers.signing.sign(asked, services.clock.now())
    except AmountNotRising as refused:
        return wire_error(
            _CONFLICT,
            refused.code,
            refused.detail,
            last_amount=str(refused.last_amount),
            last_sequence=refused.last_sequence,
        )
    return _signed(signed)


class _SignVoucher:
    """`sign_voucher` as plain ASGI, like the route that verifies."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await sign_voucher(Request(scope, receive))
        await response(scope, receive, send)


hot_route = Route("/mpp/session/voucher", endpoint=_SignVoucher(), methods=["POST"])
"""Serves what the route above documents."""


@router.post("/mpp/session/close", responses=CLOSE.responses, openapi_extra=CLOSE.extra)
async def close(request: Request, services: ServicesOf) -> Response:
    """Close the session and pay the seller in one transfer; closing again gives the same answer."""
    body = await wire_body(request)
    channel_id = body.text("channel_id", "channelId", chars_max=CHANNEL_ID_CHARS_MAX)
    stream = await services.buyers.channels.stream(channel_id)
    session = await _closed(services, stream)
    await services.buyers.keys.forget(stream.stream_id)
    session = await _ended(services, stream.stream_id, session)
    settlement = session.settlement
    assert settlement is not None
    if settlement.status == "settled":
        return wire_success(_settled(session, settlement))
    if settlement.status == "parked" or settlement.status in TERMINAL_STATUSES:
        return _failed(settlement, channel_id)
    return wire_error(
        _ACCEPTED,
        "settlement_pending",
        "the payment is under way and not final yet; close again to go on waiting for it",
        channel_id=channel_id,
        state=session.state,
    )


async def _closed(services: Services, stream: Stream[Session]) -> Session:
    """The session, closed. One that its seller removed before still pays what it had accepted."""
    held = await services.ledger.read(stream)
    if held is None or held.state is None:
        raise ChannelNotFound("no session was opened here as this channel")
    if held.state.settlement is not None:
        return held.state
    outcome = await close_session(
        services.ledger,
        stream,
        services.settlement_terms,
        source=None,
        by=held.state.terms.payer,
        now=services.clock.now(),
        removed_too=True,
    )
    assert outcome.state is not None
    return outcome.state


async def _ended(services: Services, stream_id: str, session: Session) -> Session:
    """The session once its settlement rests, or as it is when the time is up."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + CLOSE_SECONDS
    while _moves(session) and loop.time() < deadline and not services.stopping.is_set():
        await asyncio.sleep(POLL_SECONDS)
        found = await services.ledger.session(stream_id)
        assert found is not None
        session = found[0]
    return session


def _moves(session: Session) -> bool:
    settlement = session.settlement
    return settlement is not None and settlement.status not in (*TERMINAL_STATUSES, "parked")


def _voucher_request(body: WireBody) -> VoucherRequest:
    units = body.optional_text("units", may_be_empty=True) or "1"
    if not (units.isascii() and units.isdecimal() and units[0] != "0" and int(units) <= U64_MAX):
        raise InvalidRequest("units must be a string of digits above 0, without a leading 0")
    return VoucherRequest(
        channel_id=body.text("channel_id", "channelId", chars_max=CHANNEL_ID_CHARS_MAX),
        amount=body.amount("amount", "cumulative_amount"),
        meter=body.optional_text("meter", chars_max=METER_CHARS_MAX, may_be_empty=True)
        or "request",
        units=units,
        server_nonce=body.text(
            "serverNonce", "server_nonce", chars_max=NONCE_CHARS_MAX, may_be_empty=True
        ),
    )


def _opened(session: Session) -> dict[str, Any]:
    terms = session.terms
    answer: dict[str, Any] = {
        "channel_id": terms.channel_id,
        "session_pubkey": session.session_pubkey,
        "deposit_atomic": str(terms.deposit),
        "network": terms.network,
        "channel_program": CHANNEL_PROGRAM,
        "state": session.state,
        "buyer_wallet": terms.payer,
        "seller_wallet": terms.recipient,
        "funding_source": terms.funding_kind,
        "source_token_account": terms.source_token_account,
        "opened_at": moment(session.opened_at),
        "settles": terms.settles,
    }
    if terms.swig_address is not None:
        answer["buyer_swig_address"] = terms.swig_address
    if terms.idle_timeout_seconds is not None:
        answer["idle_timeout_seconds"] = terms.idle_timeout_seconds
    if terms.valid_until is not None:
        answer["expires_at"] = moment(terms.valid_until * MILLIS)
    return answer


def _signed(signed: Signed) -> Response:
    session, voucher = signed.session, signed.voucher
    deposit = session.terms.deposit
    assert deposit is not None
    return wire_success(
        {
            "voucher": orjson.Fragment(voucher.voucher),
            "signature": b64encode(voucher.signature).decode(),
            "signer": signed.signer,
            "signatureType": SIGNATURE_TYPE,
            "channel_id": session.terms.channel_id,
            "sequence": voucher.sequence,
            "amount": str(voucher.cumulative_amount),
            "cumulative_amount": str(voucher.cumulative_amount),
            "remaining_atomic": str(deposit - voucher.cumulative_amount),
        }
    )


def _settled(session: Session, settlement: Settlement) -> dict[str, Any]:
    terms = session.terms
    ended = session.close_requested_at or session.opened_at
    signed = 0 if session.signed is None else session.signed.count
    facts: dict[str, Any] = {
        "seller": terms.recipient,
        "amount_settled": str(settlement.amount),
        "buyer_refund": str((terms.deposit or 0) - settlement.amount),
        "voucher_count": session.voucher_count if terms.settles == "presented" else signed,
        "session_duration_seconds": (ended - session.opened_at) // MILLIS,
    }
    if settlement.signature is not None:
        facts["signature"] = settlement.signature
        facts["slot"] = settlement.slot
        if (url := explorer_url(settlement.signature, terms.network)) is not None:
            facts["explorer_url"] = url
    return {"channel_id": terms.channel_id, "state": "settled", "settlement": facts}


def _failed(settlement: Settlement, channel_id: str) -> Response:
    """A settlement that waits for somebody, or that an operator ended."""
    failure = settlement.failure
    kind = FAILURES.get("unknown_failure" if failure is None else failure.code)
    detail = "the settlement was ended without a payment"
    if failure is not None:
        detail = failure.detail if kind is None else f"{kind.meaning} {kind.remedy}"
    return wire_error(
        _CONFLICT,
        failure_code("settlement_failed" if failure is None else failure.code),
        detail,
        failure="settlement_failed" if failure is None else failure.code,
        channel_id=channel_id,
        settlement_status=settlement.status,
    )
