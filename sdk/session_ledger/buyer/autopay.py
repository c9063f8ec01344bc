"""`AutoPay`: what pays, within which caps, and what it has paid."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Self

import httpx
from nacl.signing import SigningKey

from session_ledger.buyer.book import Book
from session_ledger.buyer.effects import Flow, Send, UnderWay
from session_ledger.buyer.errors import SessionMissing
from session_ledger.buyer.mirroring import ChainLimit
from session_ledger.buyer.offers import Caps, Requirement, choose, requirements_of
from session_ledger.buyer.payment import Dialect, PaymentInfo
from session_ledger.buyer.sealed_key import SealedKey
from session_ledger.buyer.session import (
    DURATION_SECONDS,
    GrantClient,
    Limits,
    Session,
    Signer,
)
from session_ledger.buyer.store import MemoryStore, Store
from session_ledger.buyer.transactions import PaymentWallet, TransactionPayer
from session_ledger.buyer.vouchers import Fallback, VoucherPayer
from session_ledger.challenge import NETWORKS

DIALECTS: Final[tuple[Dialect, ...]] = ("session", "x402test", "x402v2", "x402v1")

Callback = Callable[[PaymentInfo], Any]


class AutoPay:
    """Pays for requests that are answered with 402, within the caps, out of one store.

    Amounts are atomic USDC. `max_payment_amount` caps one price, `max_total` all that is ever
    signed with this store, restarts included. An empty `allowed_recipients` allows nobody; `"*"`
    allows everybody. `payer` names who pays when there is no grant. `fallback` says what the owner
    signs when the grant is used up: a fresh grant, or the one voucher.

    Safe to share between threads and between tasks of one event loop. Close it in the end.
    """

    def __init__(
        self,
        *,
        network: str,
        max_payment_amount: int,
        max_total: int,
        allowed_recipients: Sequence[str],
        session_key: SigningKey | bytes | None = None,
        sealed_key: SealedKey | None = None,
        pin: str | None = None,
        payer: str | None = None,
        owner_signer: Signer | None = None,
        fallback: Fallback = "renew",
        ledger_url: str | None = None,
        grants: GrantClient | None = None,
        wallet: PaymentWallet | None = None,
        store: Store | None = None,
        dialects: Sequence[Dialect] = DIALECTS,
        channels_per_seller: int = 1,
        on_payment_complete: Callback | None = None,
        on_payment_uncertain: Callback | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        known = NETWORKS[network]
        self._caps = Caps(known, max_payment_amount, tuple(allowed_recipients))
        self._dialects = tuple(dialects)
        self._book = Book(store or MemoryStore(), max_total)
        self._wallet = wallet
        self._on_complete = on_payment_complete
        self._clock = clock
        self._paying = UnderWay()
        self._last: PaymentInfo | None = None
        if grants is None and ledger_url is not None:
            grants = GrantClient(ledger_url)
        self.session = Session(
            self._book,
            known,
            key=_key(session_key, sealed_key, pin),
            payer=payer,
            owner=owner_signer,
            grants=grants,
            clock=clock,
        )
        self._vouchers = VoucherPayer(
            self._book,
            self.session,
            self._caps,
            fallback=fallback,
            channels_per_seller=max(1, channels_per_seller),
            on_complete=self._completed,
            on_uncertain=on_payment_uncertain,
        )
        self._transactions = TransactionPayer(
            self._book,
            wallet,
            on_complete=self._completed,
            on_uncertain=on_payment_uncertain,
            clock=clock,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write everything down, drop the key, let go of the store, the wallet and the ledger."""
        self.session.close()
        if self._wallet is not None:
            self._wallet.close()
        self._book.close()

    @property
    def is_paying(self) -> bool:
        """Whether a payment is under way at this moment."""
        return self._paying.count > 0

    async def wait_idle(self) -> None:
        """Wait until no payment is under way, in asyncio. A callback of a payment must not."""
        await asyncio.wrap_future(self._paying.nothing())

    def wait_idle_sync(self, timeout: float | None = None) -> None:
        """Wait until no payment is under way, from a thread that pays none itself.

        Raises:
            TimeoutError: one still is, after so many seconds.
        """
        turn = self._paying.nothing()
        try:
            turn.result(timeout)
        finally:
            turn.cancel()

    @property
    def payment_count(self) -> int:
        """Payments that sellers took, since the store was made."""
        return self._book.count

    @property
    def total_spent(self) -> int:
        """What they took, in atomic units."""
        return self._book.spent

    @property
    def total_signed(self) -> int:
        """All that was signed, whether it was taken or not: what `max_total` caps."""
        return self._book.signed

    @property
    def last_payment(self) -> PaymentInfo | None:
        """The last payment that a seller took, in this process."""
        return self._last

    @property
    def last_amount(self) -> int | None:
        """Its amount."""
        return None if self._last is None else self._last.amount

    @property
    def last_tx_hash(self) -> str | None:
        """Its transaction; a voucher has none until its channel is settled."""
        return None if self._last is None else self._last.tx_hash

    @property
    def pending(self) -> list[PaymentInfo]:
        """Payments that no seller has answered for yet."""
        return [*self._vouchers.pending(), *self._transactions.pending()]

    def create_session(self) -> str:
        """Make a session key; its address. `register` has the owner allow it something."""
        return self.session.create()

    def register(self, limits: Limits, *, duration: int = DURATION_SECONDS) -> str:
        """Have the owner sign a grant for the session key; its id. See `Session.register`."""
        return self.session.register(limits, duration=duration)

    def mirror(self, *, at_most: int | None = None) -> ChainLimit:
        """Have the chain enforce the grant's total as well. See `Session.mirror`."""
        return self.session.mirror(at_most=at_most)

    def sealed(self, pin: str, *, allow_weak_pin: bool = False) -> SealedKey:
        """The session key under a PIN, for a file or an environment variable.

        Raises:
            SessionMissing: there is no session key.
            WeakPin: see `SealedKey.seal`.
        """
        key, grant = self.session.key, self.session.grant
        if key is None:
            raise SessionMissing("there is no session key to seal")
        return SealedKey.seal(
            key,
            pin,
            valid_until=0 if grant is None else grant.valid_until,
            grant_id=self.session.grant_id,
            allow_weak_pin=allow_weak_pin,
        )

    def requirement(self, response: httpx.Response, url: str) -> Requirement | None:
        """What a 402 asks of this client, checked against the caps; `None` if it is not for it.

        Raises:
            RequirementError: nothing that it offers is within the caps.
        """
        offers = requirements_of(response, url, self._dialects)
        return choose(offers, self._caps) if offers else None

    def flow(self, request: httpx.Request) -> Flow:
        """The request and, if it must be, its payment. The request's body has been read."""
        response: httpx.Response = yield Send(request)
        if response.status_code != HTTPStatus.PAYMENT_REQUIRED:
            return response
        asked = self.requirement(response, str(request.url))
        if asked is None:
            return response
        self._paying.begin()
        try:
            if asked.challenge is not None:
                return (yield from self._vouchers.pay(request, asked))
            return (yield from self._transactions.pay(request, asked))
        finally:
            self._paying.end()

    def _completed(self, info: PaymentInfo) -> Any:
        self._last = replace(info, timestamp=self._clock())
        return None if self._on_complete is None else self._on_complete(self._last)


def _key(
    key: SigningKey | bytes | None, sealed: SealedKey | None, pin: str | None
) -> SigningKey | None:
    if sealed is not None:
        return sealed.open(pin or "")
    return SigningKey(key) if isinstance(key, bytes) else key
