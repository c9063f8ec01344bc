"""What can happen to a buyer's onboarding, in the past tense: the wallet stream."""

from dataclasses import dataclass

from service.domain.codec import JsonObject
from service.domain.terms import FundingKind
from service.domain.units import AtomicUsdc, BlockHeight, Slot, UnixMillis


@dataclass(frozen=True, slots=True)
class IssuedTransaction:
    """A message that a buyer was asked to sign, and whose signatures it needs, in their order."""

    type: str
    message: bytes
    signers: tuple[str, ...]
    last_valid_block_height: BlockHeight


@dataclass(frozen=True, slots=True)
class OnboardingIssued:
    """The transactions by which the buyer would let us pay for it; they replace earlier ones.

    `recipients` are the only ones who may be paid, anybody when there are none. `proof` names the
    sign-in that asked: address, domain, nonce, issuedAt.
    """

    at: UnixMillis
    kind: FundingKind
    network: str
    spend_limit: AtomicUsdc
    ttl_seconds: int | None
    recipients: tuple[str, ...]
    swig_address: str | None
    transactions: tuple[IssuedTransaction, ...]
    proof: JsonObject


@dataclass(frozen=True, slots=True)
class OnboardingSubmitted:
    """The buyer signed what was issued; durable before any of it is sent.

    `signatures` name the transactions (base58, the first signature of each), `transactions` are
    the only bytes that are ever sent.
    """

    at: UnixMillis
    signatures: tuple[str, ...]
    transactions: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class WalletOnboarded:
    """The chain was seen to let us pay for the wallet out of `source`, at a slot.

    `expires_at` is Unix seconds, and ours to enforce: the chain's delegation has no end.
    """

    at: UnixMillis
    kind: FundingKind
    source: str
    owner: str
    swig_address: str | None
    role_id: int | None
    spend_limit: AtomicUsdc
    expires_at: int | None
    recipients: tuple[str, ...]
    signatures: tuple[str, ...]
    slot: Slot
    proof: JsonObject


@dataclass(frozen=True, slots=True)
class OnboardingRevoked:
    """The chain was seen to let us pay no longer; `reason` is a code of the failure table."""

    at: UnixMillis
    slot: Slot
    reason: str


WalletEvent = OnboardingIssued | OnboardingSubmitted | WalletOnboarded | OnboardingRevoked
