"""What can happen to a direct payment, in the past tense: the stream `direct/<signature>`.

The payer sent the transfer itself; what we decide is whether it buys something here, once.
"""

from dataclasses import dataclass
from typing import Literal

from service.domain.codec import JsonObject
from service.domain.units import AtomicUsdc, Slot, UnixMillis

ReversalCause = Literal["dropped", "failed", "not_credited"]


@dataclass(frozen=True, slots=True)
class PaymentAccepted:
    """The signature bought one resource; nothing else ever will be bought with it.

    Amounts are atomic units of `asset` (a mint): `required` by the seller, `amount` what the
    recipient gained. `block_time` is in Unix seconds. `header` is the X-PAYMENT value as it came,
    `transaction_hash` the SHA-256 of the wire bytes. `binding` says what tied the payment to the
    resource, `commitment` at which level the chain showed it at `slot`.
    """

    at: UnixMillis
    signature: str
    seller_id: str
    resource: str
    chain_id: str
    pay_to: str
    asset: str
    required: AtomicUsdc
    amount: AtomicUsdc
    payer: str
    fee_payer: str
    slot: Slot
    block_time: int
    commitment: Literal["confirmed", "finalized"]
    binding: Literal["challenge", "memo", "reference", "payer"]
    memo: str | None
    reference: str | None
    header: str
    transaction_hash: bytes


@dataclass(frozen=True, slots=True)
class DeliveryFailed:
    """The seller could not deliver what was bought: it may be asked for once more."""

    at: UnixMillis
    by: str


@dataclass(frozen=True, slots=True)
class PaymentRedelivered:
    """The same header was shown again for the same resource, after a failed delivery."""

    at: UnixMillis


@dataclass(frozen=True, slots=True)
class PaymentFinalized:
    """The payment is finalized with its full credit: the chain never takes it back."""

    at: UnixMillis
    slot: Slot


@dataclass(frozen=True, slots=True)
class PaymentReversed:
    """The chain took the payment back after it was accepted, with every answer that shows it.

    `dropped`: its fork was lost and it can never land again; `failed`: it is finalized with an
    error; `not_credited`: it is finalized without the credit.
    """

    at: UnixMillis
    cause: ReversalCause
    evidence: JsonObject


DirectEvent = (
    PaymentAccepted | DeliveryFailed | PaymentRedelivered | PaymentFinalized | PaymentReversed
)
