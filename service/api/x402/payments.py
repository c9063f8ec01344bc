"""Direct payments (x402 v1, `solanaTransferChecked`): what to ask for, and whether it was paid."""

import json
import re
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.convertors import Convertor, register_url_convertor

from service.api.dependencies import (
    CallingSeller,
    Idempotency,
    ServicesOf,
    answered_once,
    body_as,
)
from service.api.documentation import IDEMPOTENT, json_body
from service.api.problems import responses
from service.api.rendering import MILLIS, explorer_url, moment
from service.api.x402.schemas import (
    DeliveryFailedBody,
    DirectPaymentAnswer,
    DirectPaymentPage,
    PaymentRequirementsAnswer,
    RequirementsQuery,
    VerificationAnswer,
    VerifyPaymentBody,
)
from service.application.payment_challenges import Quote
from service.application.seller_terms import SellerTerms
from service.application.streams import DIRECT
from service.domain.direct_errors import PaymentNotFound, PaymentWasReversed, ResourceMismatch
from service.domain.direct_events import PaymentAccepted
from service.domain.direct_judgement import Refusal
from service.domain.direct_payment import DirectPayment
from service.domain.errors import (
    ClaimTaken,
    IdempotencyKeyReused,
    InvalidRequest,
    NetworkMismatch,
    Unauthorized,
)
from service.domain.limits import PAGE_DEFAULT, PAGE_MAX
from service.domain.pricing import parse_charge, required
from service.domain.units import AtomicUsdc
from session_ledger.challenge import NETWORKS
from session_ledger.json_text import JsonTextError, JsonValue, parse
from session_ledger.x402.direct import (
    PaymentRequirements,
    PaymentResponse,
    parse_requirements,
    payment_required_body,
    payment_response_header,
)
from session_ledger.x402.errors import X402ParseError
from session_ledger.x402.networks import v1_name


class _SignatureConvertor(Convertor[str]):
    """A segment of a path, but for the names of the routes beside."""

    regex = "(?!(?:verify|requirements)(?:/|$))[^/]+"

    def convert(self, value: str) -> str:
        """As it is; `_signature` judges it."""
        return value

    def to_string(self, value: str) -> str:
        """As it is."""
        return value


register_url_convertor("signature", _SignatureConvertor())
router = APIRouter(tags=["payments"])

_SIGNATURE: Final = re.compile(r"[1-9A-HJ-NP-Za-km-z]{64,88}\Z", re.ASCII)
_SCHEMA_DEPTH_MAX: Final = 8
_REQUIREMENTS: Final[dict[str, Any]] = {
    "model": PaymentRequirementsAnswer,
    "description": "The body of the 402 to answer with.",
}
_VERIFICATION: Final[dict[str, Any]] = {
    "model": VerificationAnswer,
    "description": "Whether the payment buys the resource; an acceptance is durable.",
}
_PAYMENT: Final[dict[str, Any]] = {"model": DirectPaymentAnswer, "description": "The payment."}
_PAYMENTS: Final[dict[str, Any]] = {
    "model": DirectPaymentPage,
    "description": "A page of payments, the newest first.",
}
_BY_CHAIN: Final = {network.chain_id: network for network in NETWORKS.values()}

Signature = Annotated[str, Path(description="The transaction's signature.")]


@router.get("/v1/payments/requirements", responses={200: _REQUIREMENTS, **responses(Unauthorized)})
async def payment_requirements(
    services: ServicesOf,
    terms: CallingSeller,
    wanted: Annotated[RequirementsQuery, Query()],
) -> Response:
    """What to answer a client that has not paid for a resource: the body of the 402.

    `extra.memo` is a challenge of ours: a payment that carries it as a memo is for this resource at
    this price, and must land within `maxTimeoutSeconds`. Nothing is written.
    """
    longest = services.direct.accept.terms.age_seconds_max
    timeout = min(wanted.max_timeout_seconds or longest, longest)
    quote = Quote(
        seller_id=terms.seller_id,
        resource=wanted.resource,
        amount=_price(terms, wanted.units, wanted.amount),
        pay_to=terms.seller.recipient,
        asset=terms.mint,
    )
    memo = services.direct.challenges.issue(quote, services.clock.now() // MILLIS + timeout)
    asked = PaymentRequirements(
        network=v1_name(services.network),
        max_amount_required=quote.amount,
        resource=wanted.resource,
        pay_to=quote.pay_to,
        asset=quote.asset,
        description=terms.seller.name if wanted.description is None else wanted.description,
        mime_type=wanted.mime_type,
        max_timeout_seconds=timeout,
        output_schema=_schema(wanted.output_schema),
        extra={"memo": memo},
    )
    _requirements(asked.to_json())
    return _json(payment_required_body([asked]))


@router.post(
    "/v1/payments/verify",
    responses={
        200: _VERIFICATION,
        **responses(Unauthorized, NetworkMismatch, IdempotencyKeyReused),
    },
    openapi_extra={**json_body(VerifyPaymentBody), **IDEMPOTENT},
)
async def verify_payment(request: Request, services: ServicesOf, terms: CallingSeller) -> Response:
    """Judge a payment by the chain, and accept it once. An accepted one is durable on return.

    A payment that is not accepted is an answer, not a failure: 200 with `isValid: false`, and in
    `status` what to answer the client. Under an Idempotency-Key the first answer is every answer,
    but one that is `retryable` is judged anew.
    """
    body = await body_as(VerifyPaymentBody, request)
    asked = _requirements(body.payment_requirements)
    key = await Idempotency.of(request, services, terms.seller_id)
    if key is not None and (earlier := await key.earlier()) is not None:
        return earlier
    try:
        verified = await services.direct.accept.verify(
            terms,
            body.payment_header,
            asked,
            lambda accepted: () if key is None else (key.claim(_accepted(accepted)),),
        )
    except ClaimTaken:
        # The same key, a moment ago in another request: its answer is this one's.
        if key is not None and (earlier := await key.earlier()) is not None:
            return earlier
        raise
    outcomes = services.metrics.direct_payments
    if isinstance(verified, PaymentAccepted):
        outcomes.labels("accepted").inc()
        return _accepted(verified)
    outcomes.labels("refused").inc()
    answer = _refused(verified)
    return answer if key is None or verified.retryable else await key.first(answer)


@router.post(
    "/v1/payments/{signature:signature}/delivery-failed",
    responses={
        200: _PAYMENT,
        **responses(
            Unauthorized,
            PaymentNotFound,
            ResourceMismatch,
            PaymentWasReversed,
            IdempotencyKeyReused,
        ),
    },
    openapi_extra={**json_body(DeliveryFailedBody), **IDEMPOTENT},
)
async def delivery_failed(
    request: Request, services: ServicesOf, terms: CallingSeller, signature: Signature
) -> Response:
    """Say that what was paid for could not be delivered.

    Exactly one further verify of the same header for the same resource is valid then, with the same
    answer. Saying it again before that changes nothing.
    """
    body = await body_as(DeliveryFailedBody, request)

    async def produce() -> Response:
        payment = await services.direct.accept.delivery_failed(
            terms.seller_id, _signature(signature), body.resource
        )
        return _json(_payment(payment))

    return await answered_once(request, services, terms.seller_id, produce)


@router.get(
    "/v1/payments/{signature:signature}",
    responses={200: _PAYMENT, **responses(Unauthorized, PaymentNotFound)},
)
async def payment(services: ServicesOf, terms: CallingSeller, signature: Signature) -> Response:
    """A payment that was accepted."""
    found = await services.direct.accept.payment(terms.seller_id, _signature(signature))
    return _json(_payment(found))


@router.get("/v1/payments", responses={200: _PAYMENTS, **responses(Unauthorized)})
async def payments(
    services: ServicesOf,
    terms: CallingSeller,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = PAGE_DEFAULT,
    cursor: Annotated[str | None, Query(max_length=128)] = None,
) -> Response:
    """The seller's accepted payments, the newest first."""
    rows = await services.direct.payments.payments(terms.seller_id, limit=limit, after=cursor)
    body = {
        "payments": [_payment(DIRECT.load(row.projection)) for row in rows],
        "nextCursor": rows[-1].cursor if len(rows) == limit else None,
    }
    return _json(body)


def _price(terms: SellerTerms, units: str | None, amount: str | None) -> AtomicUsdc:
    """What the resource costs.

    Raises:
        InvalidRequest: both are given, one is malformed, or it comes to nothing.
    """
    if units is not None and amount is not None:
        raise InvalidRequest("give units or amount, not both")
    charge = {"units": units or "1"} if amount is None else {"amount": amount}
    price = required(terms.book, parse_charge(charge), voucher_meter=None, voucher_units=1)
    if price.amount == 0:
        raise InvalidRequest("the resource costs nothing")
    return AtomicUsdc(price.amount)


def _schema(text: str | None) -> dict[str, JsonValue] | None:
    """`outputSchema` of the query.

    Raises:
        InvalidRequest: not a JSON object.
    """
    if text is None:
        return None
    try:
        value = parse(text, depth_max=_SCHEMA_DEPTH_MAX)
    except JsonTextError as error:
        raise InvalidRequest(f"outputSchema is not JSON that can be read: {error}") from None
    if not isinstance(value, dict):
        raise InvalidRequest("outputSchema must be a JSON object")
    return value


def _requirements(value: JsonValue) -> PaymentRequirements:
    """Requirements in their form.

    Raises:
        InvalidRequest: naming the first member that is wrong.
    """
    try:
        return parse_requirements(value)
    except X402ParseError as error:
        raise InvalidRequest(f"paymentRequirements: {error.reason}") from None


def _signature(text: str) -> str:
    """The signature of a path.

    Raises:
        PaymentNotFound: no payment can have it.
    """
    if not _SIGNATURE.match(text):
        raise PaymentNotFound("no payment with this signature was accepted")
    return text


def _accepted(accepted: PaymentAccepted) -> Response:
    """The answer to a valid payment: the same whenever it is given."""
    told = PaymentResponse(
        success=True,
        transaction=accepted.signature,
        network=v1_name(_BY_CHAIN[accepted.chain_id]),
        payer=accepted.payer,
    )
    return _json(
        {
            "isValid": True,
            "error": None,
            "libraryError": None,
            "code": None,
            "retryable": False,
            "status": 200,
            "payer": accepted.payer,
            "amount": str(accepted.amount),
            "transaction": accepted.signature,
            "paymentResponseHeader": payment_response_header(told),
        }
    )


def _refused(refusal: Refusal) -> Response:
    return _json(
        {
            "isValid": False,
            "error": refusal.error,
            "libraryError": refusal.library_error,
            "code": refusal.code,
            "retryable": refusal.retryable,
            "status": refusal.status,
            "payer": None,
            "amount": None,
            "transaction": None,
            "paymentResponseHeader": None,
        }
    )


def _payment(payment: DirectPayment) -> dict[str, Any]:
    accepted = payment.accepted
    network = _BY_CHAIN[accepted.chain_id]
    return {
        "transaction": accepted.signature,
        "status": payment.status,
        "resource": accepted.resource,
        "payer": accepted.payer,
        "payTo": accepted.pay_to,
        "asset": accepted.asset,
        "amount": str(accepted.amount),
        "required": str(accepted.required),
        "network": network.name,
        "slot": payment.slot,
        "blockTime": moment(accepted.block_time * MILLIS),
        "commitment": accepted.commitment,
        "binding": accepted.binding,
        "memo": accepted.memo,
        "reference": accepted.reference,
        "acceptedAt": moment(accepted.at),
        "endedAt": moment(payment.ended_at),
        "redeliveryOwed": payment.owed,
        "deliveriesFailed": payment.deliveries_failed,
        "redeliveries": payment.redeliveries,
        "reversal": payment.reversal,
        "explorerUrl": explorer_url(accepted.signature, network.name),
    }


def _json(body: Any) -> Response:
    return Response(json.dumps(body), media_type="application/json")
