"""Showing a payment: the same bytes again when the answer is lost, and what an answer says."""

import hashlib
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

import httpx

from session_ledger.buyer.effects import Drop, Notify, Pause, Send, Steps, about_the_payment
from session_ledger.buyer.errors import PaymentUncertain
from session_ledger.buyer.payment import PaymentInfo
from session_ledger.grant import REFUSAL_PREFIX
from session_ledger.json_text import JsonTextError, parse
from session_ledger.voucher import RECEIPT_HEADER

PAUSES: Final = (0.1, 0.5)
"""Seconds before each further try."""
_AWAY: Final = frozenset(
    {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
)


def fingerprint_of(request: httpx.Request) -> str:
    """Names what is bought: method, URL and body, which has been read."""
    named = f"{request.method}\n{request.url}\n".encode() + request.content
    return hashlib.sha256(named).hexdigest()


def with_headers(request: httpx.Request, headers: Mapping[str, str]) -> httpx.Request:
    """A copy with these headers. The caller's own Idempotency-Key stays."""
    merged = httpx.Headers(request.headers)
    for name, value in headers.items():
        if name not in merged or name.lower() != "idempotency-key":
            merged[name] = value
    copied = httpx.Request(
        request.method,
        request.url,
        headers=merged,
        stream=httpx.ByteStream(request.content),
        extensions=request.extensions,
    )
    copied.read()
    return copied


def answered(response: httpx.Response) -> bool:
    """Whether the answer says by itself that the payment was taken."""
    return response.status_code < HTTPStatus.BAD_REQUEST


def is_refusal(response: httpx.Response) -> bool:
    """A 402, or the status that a grant's refusal has by itself.

    Any other 403 or 404 is what the seller sells, and so is one that comes with a receipt.
    """
    status = response.status_code
    if status == HTTPStatus.PAYMENT_REQUIRED:
        return True
    if not about_the_payment(response) or RECEIPT_HEADER in response.headers:
        return False
    try:
        body = parse(response.content)
    except JsonTextError:
        return False
    match body:
        case {"status": said, "code": str(code), "verdict": "rejected"}:
            return said == status and code.startswith(REFUSAL_PREFIX)
        case _:
            return False


def present(
    request: httpx.Request,
    info: PaymentInfo,
    on_uncertain: Callable[[PaymentInfo], Any] | None,
) -> Steps[tuple[httpx.Response, bool]]:
    """Send the request with its payment; gives the answer, and whether it was sent before.

    Raises:
        PaymentUncertain: no answer came, however often it was sent.
    """
    lost: httpx.TransportError | None = None
    for number, pause in enumerate((*PAUSES, None)):
        try:
            response: httpx.Response = yield Send(request)
        except httpx.TransportError as error:
            lost = error
        else:
            if response.status_code not in _AWAY or pause is None:
                return response, number > 0
            yield Drop(response)
        if pause is not None:
            yield Pause(pause)
    yield Notify(on_uncertain, info)
    raise PaymentUncertain(
        f"no answer for the payment of {info.amount} to {info.recipient}; it will be shown again",
        info,
    ) from lost
