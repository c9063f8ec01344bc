"""The hot path: verify a voucher, or many."""

from collections.abc import Sequence

from fastapi import APIRouter, Request, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from service.api.dependencies import (
    CallingSeller,
    Idempotency,
    ServicesOf,
    calling_seller,
    wired,
)
from service.api.documentation import BATCH_REQUEST, BATCH_VERDICTS, VERDICT, VOUCHER_REQUEST
from service.api.problems import responses
from service.api.rendering import verdict_json
from service.application.submit_voucher import submit_vouchers
from service.application.verdicts import Submission, Verdict
from service.domain.errors import ClaimTaken, IdempotencyKeyReused, InvalidRequest, Unauthorized
from service.domain.limits import BATCH_VOUCHERS_MAX, JSON_DEPTH_MAX
from service.domain.pricing import Charge, parse_charge
from session_ledger.json_text import JsonTextError, elements, members
from session_ledger.voucher import Envelope, parse_envelope

router = APIRouter(tags=["vouchers"])


@router.post(
    "/v1/vouchers/verify",
    responses={200: VERDICT, **responses(Unauthorized, IdempotencyKeyReused)},
    openapi_extra=VOUCHER_REQUEST,
)
async def verify(request: Request) -> Response:
    """Judge a signed voucher as the buyer sent it. An accepted one is durable on return.

    A voucher that is not accepted is an answer, not a failure: 200 with `valid: false`.
    """
    # Called, not injected: this is the hot path, and injection costs as much as the signature.
    terms = await calling_seller(request)
    submission = _submission(await request.body(), "")
    return await _answer(request, wired(request), terms, [submission], batch=False)


class _Verify:
    """`verify` as plain ASGI. FastAPI's wrapping of a route costs as much as the signature."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await verify(Request(scope, receive))
        await response(scope, receive, send)


hot_route = Route("/v1/vouchers/verify", endpoint=_Verify(), methods=["POST"])
"""Serves what the route above documents."""


@router.post(
    "/v1/vouchers/verify-batch",
    responses={200: BATCH_VERDICTS, **responses(Unauthorized, IdempotencyKeyReused)},
    openapi_extra=BATCH_REQUEST,
)
async def verify_batch(request: Request, services: ServicesOf, terms: CallingSeller) -> Response:
    """Judge up to 1,000 vouchers; those of one channel in order, all in one append."""
    try:
        listed = members(await request.body(), depth_max=JSON_DEPTH_MAX).get("vouchers")
        parts = [] if listed is None else elements(listed.text, depth_max=JSON_DEPTH_MAX)
    except JsonTextError as error:
        raise InvalidRequest(
            f"the body must be an object with a list `vouchers`: {error}"
        ) from None
    if not 1 <= len(parts) <= BATCH_VOUCHERS_MAX:
        raise InvalidRequest(f"vouchers must hold 1 to {BATCH_VOUCHERS_MAX} signed vouchers")
    submissions = [_submission(part.text, f"vouchers[{n}]: ") for n, part in enumerate(parts)]
    return await _answer(request, services, terms, submissions, batch=True)


async def _answer(
    request: Request,
    services: ServicesOf,
    terms: CallingSeller,
    submissions: Sequence[Submission],
    *,
    batch: bool,
) -> Response:
    key = await Idempotency.of(request, services, terms.seller_id)
    if key is not None and (earlier := await key.earlier()) is not None:
        return earlier
    try:
        verdicts = await submit_vouchers(
            services.ledger,
            services.trace,
            services.nonces,
            terms,
            submissions,
            now=services.clock.now(),
            claim_answer=(
                None
                if key is None
                else lambda verdicts: [key.claim(_render(verdicts, batch=batch))]
            ),
        )
    except ClaimTaken:
        # The same key, a moment ago in another request: its answer is this one's.
        if key is not None and (earlier := await key.earlier()) is not None:
            return earlier
        raise
    for verdict in verdicts:
        services.metrics.verdicts[verdict.kind].inc()
    return _render(verdicts, batch=batch)


def _render(verdicts: Sequence[Verdict], *, batch: bool) -> Response:
    if batch:
        results = b",".join(verdict_json(verdict, with_session=False) for verdict in verdicts)
        text = b'{"results":[%s]}' % results
    else:
        text = verdict_json(verdicts[0], with_session=True)
    return Response(text, media_type="application/json")


def _submission(text: str | bytes, where: str) -> Submission:
    try:
        envelope = parse_envelope(text)
    except JsonTextError as error:
        raise InvalidRequest(f"{where}the body is not JSON that can be read: {error}") from None
    try:
        return Submission(envelope, _charge(envelope))
    except InvalidRequest as error:
        raise InvalidRequest(f"{where}{error.detail}") from None


def _charge(envelope: Envelope) -> Charge | None:
    given = envelope.others.get("charge")
    return None if given is None or given.value is None else parse_charge(given.value)
