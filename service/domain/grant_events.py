"""What can happen to a session grant, in the past tense: the stream `grant/<grantId>`."""

from dataclasses import dataclass

from service.domain.units import AtomicUsdc, UnixMillis


@dataclass(frozen=True, slots=True)
class GrantTerms:
    """What the owner allowed. Amounts are atomic units, validity is in Unix seconds.

    `recipients` is `("*",)` for everybody. `owner_may_sign`: the owner's own signature is accepted
    on channels under the grant.
    """

    grant_id: str
    owner: str
    session_pubkey: str
    network: str
    mint: str
    recipients: tuple[str, ...]
    max_payment: AtomicUsdc
    max_calls: int
    max_total: AtomicUsdc
    window_seconds: int | None
    window_max: AtomicUsdc | None
    valid_from: int
    valid_until: int
    owner_may_sign: bool
    label: str | None


@dataclass(frozen=True, slots=True)
class GrantRegistered:
    """The owner's signature holds. `grant` (the signed JSON) and `signature` prove it offline."""

    at: UnixMillis
    terms: GrantTerms
    grant: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class GrantRenewed:
    """This grant follows another one of the same owner."""

    at: UnixMillis
    previous_grant_id: str


@dataclass(frozen=True, slots=True)
class GrantUsed:
    """A voucher was accepted under the grant, in the same append. `at` never falls in a stream.

    `stream_id` is the session's, `message_hash` the voucher's.
    """

    at: UnixMillis
    stream_id: str
    amount: AtomicUsdc
    calls: int
    message_hash: bytes


@dataclass(frozen=True, slots=True)
class GrantExhausted:
    """The last payment, or the last atomic unit, is used up."""

    at: UnixMillis


@dataclass(frozen=True, slots=True)
class GrantRevoked:
    """The owner ended the grant; `signed_at` (Unix seconds) is what its signature covers."""

    at: UnixMillis
    signed_at: int
    signature: bytes


GrantEvent = GrantRegistered | GrantRenewed | GrantUsed | GrantExhausted | GrantRevoked
