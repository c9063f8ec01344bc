"""What one payment was."""

from dataclasses import dataclass
from typing import Literal

Dialect = Literal["session", "x402test", "x402v2", "x402v1"]


@dataclass(frozen=True, slots=True)
class PaymentInfo:
    """One payment, accepted or uncertain. Amounts are atomic units; `delta` is what it added.

    A payment of a session has a channel, a cumulative amount and a sequence, and no transaction:
    `tx_hash` stays `None` until the channel is settled. The other dialects have a transaction.
    `timestamp` (Unix seconds) is when the seller had taken it; an uncertain one has none.
    """

    dialect: Dialect
    recipient: str
    amount: int
    url: str
    channel_id: str | None = None
    cumulative: int | None = None
    delta: int | None = None
    sequence: int | None = None
    receipt_id: str | None = None
    tx_hash: str | None = None
    timestamp: float | None = None
