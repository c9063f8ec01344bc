"""Paying with transactions: a direct payment that the buyer sends, or one that the seller settles.

A signed transaction is kept before it leaves and is shown again with the same request until a
seller has answered for it; another one is made only after it can buy nothing any more.
"""

import base64
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, Final, Protocol

import httpx

from session_ledger.buyer.book import Book, Transaction
from session_ledger.buyer.effects import Blocking, Flow, Lane, Notify, Turn
from session_ledger.buyer.errors import PaidWithoutAnswer, PaymentRefused, Refusal, WalletMissing
from session_ledger.buyer.offers import NO_REASON, Requirement, refusal_of
from session_ledger.buyer.payment import PaymentInfo
from session_ledger.buyer.presenting import answered, fingerprint_of, present, with_headers
from session_ledger.json_text import JsonTextError, JsonValue, parse
from session_ledger.x402.direct import PAYMENT_HEADER, PaymentPayload, payment_header

V2_PAYMENT_HEADER: Final = "PAYMENT-SIGNATURE"
V2_RESPONSE_HEADER: Final = "PAYMENT-RESPONSE"
V1_RESPONSE_HEADER: Final = "X-PAYMENT-RESPONSE"
_V1: Final = 1
_V2: Final = 2
_MILLIS: Final = 1_000
_LANES: Final = 64
"""Requests that are paid for at once at most; equal ones always take turns."""
_USED: Final = frozenset({"Payment already processed", "duplicate_settlement"})
"""The texts by which a seller says that the payment bought something before."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A transaction that the wallet signed: its bytes, and the signature that names it."""

    raw: bytes
    signature: str


class PaymentWallet(Protocol):
    """Makes the transactions; `ChainWallet` does it with a key in memory."""

    @property
    def address(self) -> str:
        """The wallet's address, base58."""
        ...

    def transfer(self, asked: Requirement) -> Signed:
        """A transfer that the wallet sends itself, complete."""
        ...

    def sponsored(self, asked: Requirement) -> Signed:
        """A transfer whose fee payer is the seller's facilitator, signed by the wallet."""
        ...

    def send(self, raw: bytes, signature: str) -> bool:
        """Send it, or send it again, until it is confirmed; False if it never will be."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


class TransactionPayer:
    """Pays `x402test`, `x402v2` and `x402v1` requirements out of one book."""

    def __init__(
        self,
        book: Book,
        wallet: PaymentWallet | None,
        *,
        on_complete: Callable[[PaymentInfo], Any],
        on_uncertain: Callable[[PaymentInfo], Any] | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._book = book
        self._wallet = wallet
        self._on_complete = on_complete
        self._on_uncertain = on_uncertain
        self._clock = clock
        self._lanes = tuple(Lane() for _ in range(_LANES))

    def pay(self, request: httpx.Request, asked: Requirement) -> Flow:
        """Pay for the request and give its answer.

        Raises:
            AutoPayError: it was not paid, or not answered.
        """
        fingerprint = fingerprint_of(request)
        key = f"{asked.dialect} {asked.recipient} {fingerprint}"
        lane = self._lanes[int(fingerprint[:8], 16) % _LANES]
        yield Turn(lane)
        try:
            return (yield from self._paid(request, asked, key, fingerprint))
        finally:
            lane.leave()

    def pending(self) -> list[PaymentInfo]:
        """The payments that no seller has answered for yet."""
        return [_info(payment) for payment in self._book.under_way()[1]]

    def _paid(self, request: httpx.Request, asked: Requirement, key: str, fingerprint: str) -> Flow:
        wallet = self._wallet
        if wallet is None:
            raise WalletMissing(f"{asked.dialect} wants a transaction: pass wallet=", asked)
        payment = self._book.transaction(key)
        shown_before = payment is not None
        if payment is None:
            payment = yield Blocking(partial(self._made, wallet, asked, key, fingerprint))
            yield Blocking(partial(self._book.begin, payment, asked))
        if payment.raw is not None:
            raw = base64.b64decode(payment.raw)
            landed: bool = yield Blocking(
                partial(wallet.send, raw, payment.signature), may_be_left=True
            )
            if not landed:
                self._book.end(key, paid=False, signed=False)
                raise _refused(asked, Refusal("transaction_failed", "the chain did not take it"))
        info = _info(payment)
        name = V2_PAYMENT_HEADER if payment.dialect == "x402v2" else PAYMENT_HEADER
        paying = with_headers(request, {name: payment.header, "Idempotency-Key": payment.signature})
        response, shown_twice = yield from present(paying, info, self._on_uncertain)
        told = _told(response)
        if answered(response):
            self._book.end(key, paid=True)
            yield Notify(self._on_complete, _info(payment, told.get("transaction")))
            return response
        if response.status_code != HTTPStatus.PAYMENT_REQUIRED:
            yield Notify(self._on_uncertain, info)
            return response
        reason = _reason(response, told)
        if reason.code in _USED:
            self._book.end(key, paid=True)
            yield Notify(self._on_complete, info)
            if shown_before or shown_twice:
                raise PaidWithoutAnswer(
                    f"{payment.url} was paid before, and its answer is gone", info
                )
        elif payment.raw is None and reason.code is not None and reason.code not in _PENDING:
            self._book.end(key, paid=False)
        raise _refused(asked, reason)

    def _made(
        self, wallet: PaymentWallet, asked: Requirement, key: str, fingerprint: str
    ) -> Transaction:
        if asked.direct is not None:
            signed = wallet.transfer(asked)
            header = payment_header(
                PaymentPayload(
                    signature=signed.signature,
                    payer=wallet.address,
                    amount=asked.amount,
                    mint=asked.asset,
                    timestamp=int(self._clock() * _MILLIS),
                    network=asked.network,
                    scheme=asked.direct.scheme,
                )
            )
            raw = base64.b64encode(signed.raw).decode()
        else:
            signed = wallet.sponsored(asked)
            header, raw = _exact_header(asked, signed.raw), None
        return Transaction(
            key=key,
            dialect=asked.dialect,
            recipient=asked.recipient,
            amount=asked.amount,
            header=header,
            signature=signed.signature,
            fingerprint=fingerprint,
            url=asked.url,
            raw=raw,
        )


_PENDING: Final = frozenset(
    {"settlement_pending", "unexpected_settle_error", "unexpected_verify_error"}
)
"""Refusals of a transaction that may still be settled: it is shown again."""


def _exact_header(asked: Requirement, raw: bytes) -> str:
    """A transaction for the seller's facilitator: v2 repeats the offer, v1 its scheme."""
    offer = asked.accepted or {}
    members: dict[str, Any] = {"payload": {"transaction": base64.b64encode(raw).decode()}}
    if asked.dialect == "x402v1":
        members |= {"x402Version": _V1, "scheme": offer["scheme"], "network": offer["network"]}
    else:
        members |= {"x402Version": _V2, "accepted": offer}
    if asked.resource is not None:
        members["resource"] = asked.resource
    return base64.b64encode(json.dumps(members, separators=(",", ":")).encode()).decode()


def _told(response: httpx.Response) -> dict[str, JsonValue]:
    """The seller's payment response, in either dialect; empty without one."""
    for name in (V2_RESPONSE_HEADER, V1_RESPONSE_HEADER):
        text = response.headers.get(name)
        if text is not None:
            try:
                found = parse(base64.b64decode(text, validate=True))
            except (ValueError, JsonTextError):
                return {}
            return found if isinstance(found, dict) else {}
    return {}


def _reason(response: httpx.Response, told: Mapping[str, JsonValue]) -> Refusal:
    """Why a 402 came: the payment response says it, else the body, else the new offer."""
    code = told.get("errorReason") or told.get("error")
    if isinstance(code, str):
        return Refusal(code, code)
    refusal = refusal_of(response)
    match response.headers.get("PAYMENT-REQUIRED"):
        case str(text) if refusal.code is None:
            try:
                offer = parse(base64.b64decode(text, validate=True))
            except (ValueError, JsonTextError):
                return refusal
            error = offer.get("error") if isinstance(offer, dict) else None
            if isinstance(error, str) and error not in NO_REASON:
                return Refusal(error, error)
            return refusal
        case _:
            return refusal


def _info(payment: Transaction, transaction: JsonValue = None) -> PaymentInfo:
    own = payment.signature if payment.raw is not None else None
    return PaymentInfo(
        dialect=payment.dialect,
        recipient=payment.recipient,
        amount=payment.amount,
        url=payment.url,
        delta=payment.amount,
        tx_hash=transaction if isinstance(transaction, str) and transaction else own,
    )


def _refused(asked: Requirement, refusal: Refusal) -> PaymentRefused:
    said = refusal.code or "nothing about the payment"
    return PaymentRefused(f"the seller says {said}; {refusal.detail or ''}", asked, refusal)
