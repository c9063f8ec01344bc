"""One-shot payments: what a buyer builds a transaction with, its settlement, and what was settled.

`/mpp/settle` answers every refusal with 200: under any other status the reference client drops the
code and keeps only the text.
"""

import base64
import binascii
import time
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from service.api.dependencies import ServicesOf, json_of
from service.api.mpp.answers import (
    WireBody,
    wire_body,
    wire_code,
    wire_error,
    wire_success,
)
from service.api.mpp.documentation import PREPARE, SETTLE, STATS
from service.api.rendering import explorer_url, moment
from service.bootstrap import Services
from service.domain.errors import (
    Corrupt,
    InvalidRequest,
    InvalidTransactionEncoding,
    LedgerError,
    NetworkMismatch,
)
from service.domain.limits import BODY_BYTES_MAX
from service.domain.payment import Payment
from service.domain.sponsorship import TransferClaim
from service.domain.units import UnixMillis

router = APIRouter(tags=["buyers"])

SETTLE_SECONDS: Final = 25.0
"""Longest wait for finality; the reference client gives up after 30 seconds."""
PREPARED: Final = "prepare"
REFUSED: Final = "settle_refused"
RECENT: Final = 10
STATS_SECONDS: Final = 2.0
_DAY_MILLIS: Final = 86_400_000
_FAILED: Final = {
    "insufficient_funds": "insufficient_balance",
    "blockhash_expired": "blockhash_expired",
}


@router.post("/mpp/prepare", responses=PREPARE.responses, openapi_extra=PREPARE.extra)
async def prepare(request: Request, services: ServicesOf) -> Response:
    """What a buyer needs to build a transfer that we sponsor."""
    members = await json_of(request, optional=True)
    if not isinstance(members, dict):
        raise InvalidRequest("the body must be a JSON object")
    _check_network(WireBody(members), services, required=False)
    services.charges.tallies.add(PREPARED, services.clock.now())
    policy, seen = services.charges.sponsor.terms.policy, await services.charges.sponsor.blockhash()
    return wire_success(
        {
            "feePayer": policy.fee_payer,
            "recentBlockhash": seen.blockhash,
            "blockhash": seen.blockhash,
            "lastValidBlockHeight": seen.last_valid_block_height,
            "network": services.network.name,
            "splToken": policy.mint,
            "tokenProgram": policy.token_program,
            "decimals": policy.decimals,
        }
    )


@router.post("/mpp/settle", responses=SETTLE.responses, openapi_extra=SETTLE.extra)
async def settle(request: Request, services: ServicesOf) -> Response:
    """Settle a transfer that the buyer signed. Calling again continues; it never pays twice."""
    try:
        body = await wire_body(request)
        _check_network(body, services, required=True)
        claim = TransferClaim(body.wallet("recipient"), body.amount("amount"), body.wallet("asset"))
        raw = _transaction(body)
        payment = await services.charges.sponsor.settle(raw, claim, seconds=SETTLE_SECONDS)
    except Corrupt:
        raise
    except LedgerError as error:
        services.charges.tallies.add(REFUSED, services.clock.now())
        code = wire_code(error)
        beside = {"errorCode": code, "retryable": error.retryable}
        return wire_error(200, code, error.detail, **beside)
    return _settled(payment, services)


@router.get("/mpp/stats", responses=STATS.responses, openapi_extra=STATS.extra)
async def stats(request: Request, services: ServicesOf) -> Response:
    """How many payments were prepared and settled, and the last ones."""
    kept: tuple[float, dict[str, Any]] | None = getattr(request.app.state, "charge_stats", None)
    if kept is None or time.monotonic() - kept[0] > STATS_SECONDS:  # it counts the whole table
        kept = time.monotonic(), await _stats(services)
        request.app.state.charge_stats = kept
    return wire_success(kept[1])


def _check_network(body: WireBody, services: Services, *, required: bool) -> None:
    network = services.network
    named = body.text("network") if required else body.optional_text("network")
    if named not in (None, network.name, network.chain_id):
        raise NetworkMismatch(f"this service settles on {network.name}")


def _transaction(body: WireBody) -> bytes:
    text = body.text("transaction", chars_max=BODY_BYTES_MAX)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidTransactionEncoding("transaction must be standard base64") from None


def _settled(payment: Payment, services: Services) -> Response:
    """The payment as the client reads it; members without a value are left out."""
    settlement = payment.settlement
    facts = {
        "paymentId": payment.payment_id,
        "signature": payment.signature,
        "payer": payment.payer,
        "network": services.network.name,
    }
    if settlement.status == "settled":
        paid = {
            "recipient": payment.recipient,
            "amount": str(settlement.amount),
            "asset": settlement.mint,
            "feePayer": settlement.attempts[0].fee_payer,
        }
        details = {
            "slot": settlement.slot,
            "memo": payment.memo,
            "submittedAt": moment(payment.submitted_at),
            "explorerUrl": explorer_url(settlement.signature, services.network.name),
        }
        given = {name: value for name, value in details.items() if value is not None}
        return wire_success({**facts, **paid, "settlement": paid, "details": given})
    if settlement.status != "failed":
        detail = "not finalized yet; send the same transaction again to wait on"
        code, retryable = "settlement_pending", True
    else:
        assert settlement.failure is not None
        code = _FAILED.get(settlement.failure.code, "transaction_failed")
        detail, retryable = f"{settlement.failure.code}: {settlement.failure.detail}", False
    return wire_error(200, code, detail, errorCode=code, retryable=retryable, **facts)


async def _stats(services: Services) -> dict[str, Any]:
    day = services.clock.now() // _DAY_MILLIS
    counts = await services.charges.payments.counts(UnixMillis(day * _DAY_MILLIS))
    prepared, prepared_today = await services.charges.payments.tally(PREPARED, day)
    refused, refused_today = await services.charges.payments.tally(REFUSED, day)
    recent = [
        {
            "signature": row.signature,
            "recipient": row.recipient,
            "amount": str(row.amount),
            "network": services.network.name,
            "payer": row.payer,
            "at": moment(row.submitted_at),
        }
        for row in await services.charges.payments.last_settled(RECENT)
    ]
    ended = counts.settled + counts.failed
    return {
        "prepare": {"total": prepared, "today": prepared_today},
        "settle": {
            "total": counts.total,
            "today": counts.recent,
            "success": counts.settled,
            "fail": counts.failed,
            "successRate": f"{100 * counts.settled / ended if ended else 0:.1f}%",
            "refused": refused,
            "refusedToday": refused_today,
        },
        "recentSettlements": recent,
        "lastSettlement": recent[0]["at"] if recent else None,
    }
