"""The facilitator of x402 v1 and v2, scheme `exact` on Solana: verify, settle, supported.

What is wrong with a payment is answered with 200 and a published reason. Spec: docs/x402.md.
"""

import hashlib
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from service.api.dependencies import IDEMPOTENCY_HEADER, ServicesOf, json_of
from service.api.x402.answers import SETTLE_PATH, UNEXPECTED, VERIFY_PATH, answer, refusal
from service.api.x402.exact_documentation import SETTLE, SUPPORTED, VERIFY
from service.api.x402.reasons import FAILED, FEE_PAYER_NOT_MANAGED, PENDING, REASONS, reason_of
from service.bootstrap import Services
from service.domain.errors import (
    ChainUnavailable,
    Conflict,
    Corrupt,
    InvalidRequest,
    LedgerError,
    SponsorshipRefused,
    Unavailable,
)
from service.domain.failures import FAILURES
from service.domain.payment import Payment
from service.domain.sponsorship import TransferClaim
from service.domain.units import AtomicUsdc
from service.ports import SignerUnavailable
from session_ledger.json_text import JsonValue
from session_ledger.x402.exact import (
    INVALID_NETWORK,
    SCHEME,
    ExactError,
    ExactRequest,
    parse_facilitator_request,
    requested_network,
)
from session_ledger.x402.networks import caip2, v1_name

router = APIRouter(tags=["x402"])

SETTLE_SECONDS: Final = 45.0
"""Longest wait for finality; the published servers give up after 90 seconds."""


@router.post(VERIFY_PATH, responses=VERIFY.responses, openapi_extra=VERIFY.extra)
async def verify(request: Request, services: ServicesOf) -> Response:
    """Whether a payment would settle now. Nothing is signed and nothing is written."""
    try:
        body = await json_of(request)
    except InvalidRequest as error:
        return _refused(VERIFY_PATH, error, {}, status=400)
    try:
        asked = _asked(body, services)
        payer = await services.charges.facilitate.verify(asked.transaction, _claim_of(asked))
    except (ExactError, LedgerError) as error:
        return _refused(VERIFY_PATH, error, body)
    return answer({"isValid": True, "payer": payer})


@router.post(SETTLE_PATH, responses=SETTLE.responses, openapi_extra=SETTLE.extra)
async def settle(request: Request, services: ServicesOf) -> Response:
    """Settle a payment, or wait on where it is under way. Its success is told once."""
    try:
        body = await json_of(request)
    except InvalidRequest as error:
        return _refused(SETTLE_PATH, error, {}, status=400)
    try:
        asked = _asked(body, services)
        payment = await services.charges.facilitate.settle(
            asked.transaction,
            _claim_of(asked),
            seconds=min(SETTLE_SECONDS, asked.requirements.max_timeout_seconds),
            caller=await _caller_of(request),
        )
    except (ExactError, LedgerError) as error:
        return _refused(SETTLE_PATH, error, body)
    return answer(_outcome(payment, asked))


@router.get("/x402/supported", responses=SUPPORTED.responses, openapi_extra=SUPPORTED.extra)
async def supported(services: ServicesOf) -> Response:
    """The kinds of payment that this facilitator settles, and who pays their fees."""
    named = {1: v1_name(services.network), 2: caip2(services.network)}
    kinds = [
        {
            "x402Version": version,
            "scheme": SCHEME,
            "network": network,
            "extra": {"feePayer": services.fee_payer},
        }
        for version, network in named.items()
    ]
    return answer({"kinds": kinds, "extensions": [], "signers": {"solana:*": [services.fee_payer]}})


def _asked(body: JsonValue, services: Services) -> ExactRequest:
    """The request, if it is for this facilitator.

    Raises:
        ExactError: with a published reason.
    """
    asked = parse_facilitator_request(body)
    wanted = asked.requirements
    if wanted.network.name != services.network.name:
        raise ExactError(
            INVALID_NETWORK, f"this facilitator settles on {caip2(services.network)} alone"
        )
    if wanted.fee_payer != services.fee_payer:
        raise ExactError(FEE_PAYER_NOT_MANAGED, f"extra.feePayer must be {services.fee_payer}")
    return asked


def _claim_of(asked: ExactRequest) -> TransferClaim:
    wanted = asked.requirements
    return TransferClaim(
        recipient=wanted.pay_to,
        amount=AtomicUsdc(wanted.amount),
        mint=wanted.asset,
        memo=wanted.memo,
        resource=wanted.resource,
    )


async def _caller_of(request: Request) -> bytes | None:
    """Who is told a success again: the same request under the same Idempotency-Key."""
    key = request.headers.get(IDEMPOTENCY_HEADER)
    if key is None:
        return None
    return hashlib.sha256(key.encode() + b"\n" + await request.body()).digest()


def _refused(
    path: str, error: ExactError | LedgerError, body: JsonValue, *, status: int = 200
) -> Response:
    """The answer to an error: 200 with its reason, 503 when the log does not answer.

    Raises:
        Corrupt: a defect, which is no refusal.
    """
    network = requested_network(body)
    if isinstance(error, ExactError):
        return refusal(path, error.reason, error.message, network=network)
    if isinstance(error, Corrupt):
        raise error
    if isinstance(error, Conflict | Unavailable) and not isinstance(
        error, ChainUnavailable | SignerUnavailable
    ):
        status = 503
    code = error.reason if isinstance(error, SponsorshipRefused) else error.code
    reason = reason_of(error, UNEXPECTED[path])
    return refusal(path, reason, f"{code}: {error.detail}", status=status, network=network)


def _outcome(payment: Payment, asked: ExactRequest) -> dict[str, Any]:
    """The payment as the published clients read it."""
    settlement = payment.settlement
    facts = {
        "transaction": payment.signature,
        "network": asked.requirements.network_id,
        "payer": payment.payer,
    }
    if settlement.status == "settled":
        return {"success": True, **facts, "amount": str(settlement.amount)}
    if settlement.status != "failed":
        reason, message = PENDING, "not finalized yet; send the same payment again to wait on"
    else:
        assert settlement.failure is not None
        code = settlement.failure.code
        reason = REASONS["insufficient_balance"] if code == "insufficient_funds" else FAILED
        message = f"{code}: {FAILURES[code].meaning}"
    return {"success": False, "errorReason": reason, "errorMessage": message, **facts}
