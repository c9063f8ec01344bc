"""What direct payments need of the database beside their streams.

Every method raises `DatabaseUnavailable` when it cannot answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class DuePayment:
    """An accepted payment to look for on the chain. `missing_height` is the tip's block height when
    it was first missing there; `None` while it is not."""

    signature: str
    missing_height: int | None


@dataclass(frozen=True, slots=True)
class NextCheck:
    """When to look for a payment again, and since when it is missing."""

    signature: str
    seconds: float
    missing_height: int | None


@dataclass(frozen=True, slots=True)
class DirectRow:
    """One row of a listing: a payment's projection and the cursor behind it."""

    projection: bytes
    cursor: str


class DirectStore(Protocol):
    """The side table of direct payments, and our own signatures."""

    async def sent_by_us(self, signature: str) -> bool:
        """Whether it is of an attempt of ours: a settlement or a sponsored payment."""
        ...

    async def payments(self, seller_id: str, *, limit: int, after: str | None) -> list[DirectRow]:
        """A page of a seller's payments, newest first.

        Raises:
            InvalidRequest: no page gave this cursor.
        """
        ...

    async def lease_payments(self, *, seconds: float, limit: int) -> list[DuePayment]:
        """Payments that are not final and due, and due again after `seconds`: no other process gets
        them meanwhile."""
        ...

    async def schedule_checks(self, checks: Sequence[NextCheck]) -> None:
        """Set when payments are due. One that is being changed at the moment keeps its lease."""
        ...
