"""A small paid server, for tests of clients. Its payments are offered and judged by the ledger.

What a paid server of one's own does is all in `PaidServer.answer`: offer, verify, deliver, and
report a delivery that failed.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from typing import Any, Final, Self

from session_ledger.json_text import JsonValue
from session_ledger.testing.ledger import Accepted, Ledger, LedgerError, Offer, Refused
from session_ledger.x402.amounts import AmountError, to_atomic_units
from session_ledger.x402.direct import (
    INVALID_HEADER,
    PAYMENT_HEADER,
    PAYMENT_RESPONSE_HEADER,
    parse_payment_header,
)
from session_ledger.x402.errors import X402ParseError

NOT_CONFIGURED: Final = "Route not configured in x402test"
"""The published test server's text, which its clients know."""

_UNAVAILABLE: Final = "Payment verification is unavailable"
_DELIVERY_FAILED: Final = "Delivery failed; the same payment may be presented once more"
_JSON: Final = "application/json"
_BODY_BYTES_MAX: Final = 1024 * 1024
_SOCKET_SECONDS: Final = 30
_POLL_SECONDS: Final = 0.05
"""How often the server looks whether it shall stop."""


@dataclass(frozen=True, slots=True)
class PaidCall:
    """A request that was paid for. `amount` is in atomic units, `transaction` the signature."""

    method: str
    path: str
    query: str
    body: bytes
    payer: str
    amount: int
    transaction: str


@dataclass(frozen=True, slots=True)
class Route:
    """What one path costs, in tokens of six decimals such as `0.10`, and what it answers with.

    Raises:
        AmountError: the price is no amount above zero, or has more than six decimal places.
    """

    price: str
    response: "JsonValue | Callable[[PaidCall], JsonValue]"
    description: str | None = None
    status: int = HTTPStatus.OK
    max_timeout_seconds: int | None = None
    amount: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "amount", to_atomic_units(self.price))
        if self.amount == 0:
            raise AmountError("a price is more than 0")


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, JSON body and further headers."""

    status: int
    body: JsonValue
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


class PaidServer:
    """Serves `routes` (by path, for every method) on this machine while it is entered.

    `ledger_url` and `api_key` are those of a seller of the session ledger.
    """

    def __init__(
        self,
        ledger_url: str,
        api_key: str,
        routes: Mapping[str, Route],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._ledger = Ledger(ledger_url, api_key)
        self._routes = dict(routes)
        self._server = ThreadingHTTPServer((host, port), partial(_Handler, self.answer))
        self._thread = Thread(
            target=self._server.serve_forever,
            args=(_POLL_SECONDS,),
            name="paid-server",
            daemon=True,
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._ledger.close()

    def url(self, path: str = "/") -> str:
        """The address of a path."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}{path}"

    def answer(self, method: str, target: str, payment: str | None, body: bytes = b"") -> Answer:
        """The answer to one request; `payment` is its `X-PAYMENT` header."""
        path, _, query = target.partition("?")
        route = self._routes.get(path)
        if route is None:
            return Answer(HTTPStatus.NOT_FOUND, {"error": NOT_CONFIGURED})
        offer = Offer(
            resource=self.url(path),
            amount=route.amount,
            description=route.description,
            mime_type=_JSON,
            max_timeout_seconds=route.max_timeout_seconds,
        )
        try:
            verdict = self._verdict(payment, offer)
            if isinstance(verdict, Answer):
                return verdict
            call = PaidCall(
                method=method,
                path=path,
                query=query,
                body=body,
                payer=verdict.payer,
                amount=verdict.amount,
                transaction=verdict.transaction,
            )
            return self._deliver(route, call, verdict, offer)
        except LedgerError:
            return Answer(HTTPStatus.SERVICE_UNAVAILABLE, {"error": _UNAVAILABLE})

    def _verdict(self, payment: str | None, offer: Offer) -> Accepted | Answer:
        if payment is None:
            return Answer(HTTPStatus.PAYMENT_REQUIRED, self._ledger.requirements(offer))
        try:
            parse_payment_header(payment)
        except X402ParseError:
            return Answer(HTTPStatus.BAD_REQUEST, {"error": INVALID_HEADER})
        verdict = self._ledger.verify(payment, offer)
        if not isinstance(verdict, Refused):
            return verdict
        if verdict.status != HTTPStatus.PAYMENT_REQUIRED:
            return Answer(verdict.status, {"error": verdict.error})
        body = {**self._ledger.requirements(offer), "error": verdict.error}
        return Answer(HTTPStatus.PAYMENT_REQUIRED, body)

    def _deliver(self, route: Route, call: PaidCall, paid: Accepted, offer: Offer) -> Answer:
        """The paid answer. Whatever stops it, the buyer may present the payment again."""
        try:
            body = route.response(call) if callable(route.response) else route.response
            json.dumps(body)
        except Exception:  # noqa: BLE001  the route's own code may raise anything
            self._ledger.delivery_failed(paid.transaction, offer.resource)
            return Answer(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": _DELIVERY_FAILED})
        return Answer(route.status, body, {PAYMENT_RESPONSE_HEADER: paid.response_header})


class _Handler(BaseHTTPRequestHandler):
    timeout = _SOCKET_SECONDS

    def __init__(self, answer: Callable[[str, str, str | None, bytes], Answer], *of: Any) -> None:
        self._answer = answer
        super().__init__(*of)  # which serves the request

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's name
        """Write nothing."""

    def _serve(self) -> None:
        length = self.headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit() and int(length) <= _BODY_BYTES_MAX):
            self._write(Answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": "Body too large"}))
            return
        body = self.rfile.read(int(length))
        payment = self.headers.get(PAYMENT_HEADER)
        self._write(self._answer(self.command, self.path, payment, body))

    def _write(self, answer: Answer) -> None:
        body = json.dumps(answer.body).encode()
        self.send_response(answer.status)
        self.send_header("content-type", _JSON)
        self.send_header("content-length", str(len(body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815  the base class looks for them
