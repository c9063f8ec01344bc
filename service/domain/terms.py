"""What a channel is registered with, fixed for its life."""

from dataclasses import dataclass

from service.domain.units import AtomicUsdc


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds beside the deposit, amounts in atomic units; `None` is no bound."""

    max_increment: AtomicUsdc | None = None
    max_cumulative: AtomicUsdc | None = None
    max_vouchers: int | None = None


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Terms:
    """The parties, the money and the bounds of one channel. `valid_until` is Unix seconds."""

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
