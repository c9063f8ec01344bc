"""What a channel is registered with, fixed for its life."""

from dataclasses import dataclass
from typing import Literal

from service.domain.units import AtomicUsdc

FundingKind = Literal["delegate", "swig"]
"""How money leaves a payer's account: by SPL delegation, or through a Swig wallet's role."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds beside the deposit, amounts in atomic units; `None` is no bound."""

    max_increment: AtomicUsdc | None = None
    max_cumulative: AtomicUsdc | None = None
    max_vouchers: int | None = None


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Terms:
    """The parties, the money and the bounds of one channel. `valid_until` is Unix seconds.

    `settles` says what a close pays: what the seller presented here, or, where the seller does not
    use this ledger, what was signed for it.
    """

    channel_id: str
    seller_id: str
    payer: str
    recipient: str
    network: str
    mint: str
    decimals: int
    session_pubkey: str | None = None
    deposit: AtomicUsdc | None = None
    source_token_account: str | None = None
    swig_address: str | None = None
    valid_until: int | None = None
    limits: Limits = NO_LIMITS
    grant_id: str | None = None
    swig_role_id: int | None = None
    idle_timeout_seconds: int | None = None
    opened_by: Literal["seller", "buyer"] = "seller"
    settles: Literal["presented", "signed"] = "presented"

    @property
    def funding_kind(self) -> FundingKind:
        """Which kind of funding source pays."""
        return "delegate" if self.swig_address is None else "swig"
