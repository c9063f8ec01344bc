"""Requests that pay when they are asked to, and that check what they got.

`execute` blocks: a test needs no event loop for it. A test whose server runs in the same event
loop awaits `execute_async`, which does the same in a thread.
"""

import asyncio
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Final, Self

import httpx

from session_ledger.json_text import JsonTextError, JsonValue, parse
from session_ledger.testing.wallet import Payment, Wallet
from session_ledger.x402.amounts import to_atomic_units
from session_ledger.x402.direct import (
    PAYMENT_HEADER,
    PAYMENT_RESPONSE_HEADER,
    SCHEME,
    PaymentPayload,
    PaymentRequirements,
    PaymentResponse,
    parse_payment_required,
    parse_payment_response,
    payment_header,
)
from session_ledger.x402.errors import (
    PaymentVerificationError,
    X402AssertionError,
    X402Error,
    X402ParseError,
)

RPC_URL_VARIABLE: Final = "SOLANA_RPC_URL"
RPC_URL_DEFAULT: Final = "http://127.0.0.1:8899"
_PAYMENT_REQUIRED: Final = 402
_MILLIS: Final = 1_000
_TIMEOUT_SECONDS: Final = 30


@dataclass(frozen=True, slots=True)
class PaidResponse:
    """An answer. `body` is parsed if it is JSON, else text; `payment` is what this call paid."""

    status: int
    headers: httpx.Headers
    body: JsonValue
    payment: Payment | None = None
    payment_header: str | None = None
    """The `X-PAYMENT` value that was sent, to present it again."""

    @property
    def settlement(self) -> PaymentResponse | None:
        """What `X-PAYMENT-RESPONSE` says, if it is there.

        Raises:
            X402ParseError: `Invalid X-PAYMENT-RESPONSE header`.
        """
        text = self.headers.get(PAYMENT_RESPONSE_HEADER)
        return None if text is None else parse_payment_response(text)


Expectation = Callable[["PaidRequest", PaidResponse], None]


def pay(
    url: str, *, wallet: Wallet | None = None, client: httpx.Client | None = None
) -> "PaidRequest":
    """A request to `url`; see `PaidRequest`.

    Without a wallet, one is made for the whole process at `SOLANA_RPC_URL` (by default a local
    chain on port 8899), with 1,000 USDC. `client` may be any `httpx.Client`, such as the test
    client of a web framework.
    """
    return PaidRequest(url, wallet=wallet, client=client)


class PaidRequest:
    """One request, put together step by step; `execute` sends it and checks the expectations."""

    def __init__(
        self, url: str, *, wallet: Wallet | None = None, client: httpx.Client | None = None
    ) -> None:
        self._url = url
        self._wallet = wallet
        self._client = client
        self._method = "GET"
        self._headers = httpx.Headers()
        self._body: JsonValue = None
        self._amount_max: str | None = None
        self._expectations: list[Expectation] = []

    def get(self) -> Self:
        """Send a GET, which is the default."""
        self._method = "GET"
        return self

    def post(self, body: JsonValue = None) -> Self:
        """Send a POST with a JSON body."""
        self._method = "POST"
        return self.body(body)

    def put(self, body: JsonValue = None) -> Self:
        """Send a PUT with a JSON body."""
        self._method = "PUT"
        return self.body(body)

    def delete(self) -> Self:
        """Send a DELETE."""
        self._method = "DELETE"
        return self

    def body(self, body: JsonValue) -> Self:
        """Send this JSON body; `None` sends none."""
        self._body = body
        return self

    def header(self, name: str, value: str) -> Self:
        """Send this header."""
        self._headers[name] = value
        return self

    def headers(self, headers: Mapping[str, str]) -> Self:
        """Send these headers, beside those that were given before."""
        self._headers.update(headers)
        return self

    def with_payment(self, amount: str) -> Self:
        """Pay when the server asks for it, but no more than `amount` tokens, such as `0.10`."""
        self._amount_max = amount
        return self

    def with_payment_header(self, value: str) -> Self:
        """Present a payment that was made before."""
        return self.header(PAYMENT_HEADER, value)

    def expect_status(self, status: int) -> Self:
        """The last answer has this status."""

        def check(_: PaidRequest, response: PaidResponse) -> None:
            if response.status != status:
                raise X402AssertionError(
                    f"Expected status {status} but got {response.status}\nBody: {response.body!r}"
                )

        return self._expect(check)

    def expect_payment_settled(self) -> Self:
        """This call paid, the chain shows it, and the server's answer names the same payment."""

        def check(request: PaidRequest, response: PaidResponse) -> None:
            payment = _payment(response)
            try:
                request.wallet.check(payment)
            except PaymentVerificationError as error:
                raise X402AssertionError(error.reason) from error
            told = response.settlement
            if told is not None and not (told.success and told.transaction == payment.signature):
                raise X402AssertionError("The server's payment response is of another payment")

        return self._expect(check)

    def expect_payment_amount(self, amount: str | int) -> Self:
        """This call paid exactly so many atomic units."""

        def check(_: PaidRequest, response: PaidResponse) -> None:
            paid = _payment(response).amount
            if paid != int(amount):
                raise X402AssertionError(f"Expected payment amount {amount} but got {paid}")

        return self._expect(check)

    def expect_body(self, expected: "JsonValue | Callable[[JsonValue], object]") -> Self:
        """The body equals a value, or a function of it gives something true."""

        def check(_: PaidRequest, response: PaidResponse) -> None:
            if callable(expected):
                if not expected(response.body):
                    raise X402AssertionError(f"Body validation failed\nBody: {response.body!r}")
            elif response.body != expected:
                raise X402AssertionError(f"Expected body {expected!r} but got {response.body!r}")

        return self._expect(check)

    def expect_header(self, name: str, expected: str | re.Pattern[str]) -> Self:
        """A header has a value, or a pattern is found in it."""

        def check(_: PaidRequest, response: PaidResponse) -> None:
            value = response.headers.get(name)
            if isinstance(expected, str):
                if value != expected:
                    raise X402AssertionError(
                        f"Expected header {name} to be {expected} but got {value}"
                    )
            elif not expected.search(value or ""):
                raise X402AssertionError(
                    f"Expected header {name} to match {expected.pattern} but got {value}"
                )

        return self._expect(check)

    @property
    def wallet(self) -> Wallet:
        """The wallet that pays."""
        return _default_wallet() if self._wallet is None else self._wallet

    def execute(self) -> PaidResponse:
        """Send the request, pay if that is asked for and allowed, and check the expectations.

        Raises:
            X402ParseError: the server's 402 is malformed, or it reports an error.
            PaymentCreationError: the payment could not be made.
            X402AssertionError: the first expectation that does not hold.
            X402Error: the price is above the limit, or the server cannot be reached.
        """
        response = self._send(self._headers.get(PAYMENT_HEADER))
        if response.status == _PAYMENT_REQUIRED and self._amount_max is not None:
            response = self._pay_and_repeat(response.body, self._amount_max)
        for check in self._expectations:
            check(self, response)
        return response

    async def execute_async(self) -> PaidResponse:
        """`execute`, without holding up the event loop."""
        return await asyncio.to_thread(self.execute)

    def _expect(self, check: Expectation) -> Self:
        self._expectations.append(check)
        return self

    def _pay_and_repeat(self, body: JsonValue, amount_max: str) -> PaidResponse:
        requirements = _offer(body)
        required = requirements.max_amount_required
        allowed = to_atomic_units(amount_max, self.wallet.decimals(requirements.asset))
        if allowed < required:
            raise X402Error(
                f"Client max amount {allowed} is less than server required amount {required}"
            )
        payment = self.wallet.pay(requirements)
        payload = PaymentPayload(
            signature=payment.signature,
            payer=payment.payer,
            amount=payment.amount,
            mint=payment.asset,
            timestamp=int(time.time() * _MILLIS),
            network=requirements.network,
            scheme=requirements.scheme,
        )
        return self._send(payment_header(payload), payment)

    def _send(self, presented: str | None, payment: Payment | None = None) -> PaidResponse:
        headers = httpx.Headers(self._headers)
        if presented is not None:
            headers[PAYMENT_HEADER] = presented
        body = None if self._method == "GET" else self._body
        try:
            with self._sender() as client:
                answer = client.request(self._method, self._url, headers=headers, json=body)
            return PaidResponse(
                answer.status_code, answer.headers, _body(answer), payment, presented
            )
        except (httpx.HTTPError, JsonTextError) as error:
            raise X402Error(f"Request failed: {error}") from error

    def _sender(self) -> AbstractContextManager[httpx.Client]:
        """The caller's client, which stays open, or one for a single request."""
        if self._client is not None:
            return nullcontext(self._client)
        return httpx.Client(timeout=_TIMEOUT_SECONDS)


def _offer(body: JsonValue) -> PaymentRequirements:
    """The first offer that this kit can pay."""
    required = parse_payment_required(body)
    if required.error:
        raise X402ParseError(f"Server returned error: {required.error}", required.error)
    for requirements in required.accepts:
        if requirements.scheme == SCHEME:
            return requirements
    raise X402Error(f"Server offers no payment of scheme {SCHEME}")


def _payment(response: PaidResponse) -> Payment:
    if response.payment is None:
        raise X402AssertionError("Payment was not settled")
    return response.payment


def _body(answer: httpx.Response) -> JsonValue:
    if "application/json" in answer.headers.get("content-type", ""):
        return parse(answer.content)
    return answer.text


@cache
def _default_wallet() -> Wallet:
    return Wallet(os.environ.get(RPC_URL_VARIABLE) or RPC_URL_DEFAULT).fund()
