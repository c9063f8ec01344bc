"""What the log's side tables say of one-shot payments, and counts that no promise rests on."""

from dataclasses import dataclass
from typing import Protocol

from service.domain.units import AtomicUsdc, UnixMillis


@dataclass(frozen=True, slots=True)
class PaymentCounts:
    """Payments in the log: all, those since a moment, and how they ended."""

    total: int
    recent: int
    settled: int
    failed: int


@dataclass(frozen=True, slots=True)
class SettledPayment:
    """A payment that was finalized."""

    signature: str
    payer: str
    recipient: str
    amount: AtomicUsdc
    submitted_at: UnixMillis


class PaymentStore(Protocol):
    """Every method raises `DatabaseUnavailable` when it cannot answer."""

    async def submitted(self, since: UnixMillis, recipient: str | None) -> int:
        """How many payments were submitted since then, to one recipient or to all."""
        ...

    async def counts(self, since: UnixMillis) -> PaymentCounts: ...

    async def last_settled(self, limit: int) -> list[SettledPayment]:
        """The newest first."""
        ...

    async def tally(self, name: str, day: int) -> tuple[int, int]:
        """What was counted under a name: of all days, and of one (days since 1970, UTC)."""
        ...


class Tallies(Protocol):
    """Counts of what leaves no event."""

    def add(self, name: str, now: UnixMillis) -> None:
        """Count one; written soon, not durable on return."""
        ...
