"""Whether one request may pass: what the middleware and the dependency have in common."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from session_ledger.seller.answers import Answer, not_json, refused, unavailable, unpaid
from session_ledger.seller.errors import InvalidVoucher, LedgerUnavailable
from session_ledger.seller.server import SessionServer
from session_ledger.seller.terms import amount_of, price_of
from session_ledger.seller.verdict import Verdict

Price: TypeAlias = "int | str | Callable[[Any], int] | None"
"""Atomic units of a request, or a function that gives them; None is the server's own price."""


@dataclass(frozen=True, slots=True)
class Gate:
    """What a route costs. With `replays` a voucher that was served before passes too, marked as
    `replayed`: for handlers that give the answer of the first time."""

    server: SessionServer
    price: Price = None
    replays: bool = False

    def __post_init__(self) -> None:
        if self.price is not None and not callable(self.price):
            price_of(self.price, "price")

    def price_for(self, usage: Any) -> int:
        """Atomic units that this request costs."""
        if self.price is None:
            return self.server.terms.price_of(usage)
        return amount_of(self.price(usage) if callable(self.price) else self.price, "price")

    async def judge(self, voucher: str | None, usage: Any) -> Verdict | Answer:
        """The verdict to serve on, or what to answer instead.

        Raises:
            LedgerRefused: the ledger does not know this seller.
            SellerSetupError: the price is none.
        """
        price = self.price_for(usage)
        try:
            if voucher is None:
                return unpaid(await self.server.get_challenge(price))
            verdict = await self.server.verify_voucher(voucher, charge={"amount": str(price)})
            if verdict.valid or (verdict.replayed and self.replays):
                return verdict
            return refused(await self.server.get_challenge(price), verdict)
        except InvalidVoucher as error:
            return not_json(str(error))
        except LedgerUnavailable:
            return unavailable()
