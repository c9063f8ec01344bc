"""Where a session's money comes from, and what the chain allows us to take of it.

A reading is not a reservation: the payer may revoke or spend at any time, so whoever relies on one
reads again before money moves.
"""

from dataclasses import dataclass

from service.domain.failures import Finding
from service.domain.terms import FundingKind
from service.domain.units import AtomicUsdc, BlockHeight, Slot


@dataclass(frozen=True, slots=True)
class SourceRef:
    """A funding source by name: the token account that pays, and who owns it.

    `owner` is the payer's wallet (delegate), or the Swig wallet's own address (swig).
    """

    kind: FundingKind
    token_account: str
    owner: str
    mint: str
    swig_address: str | None = None
    swig_role_id: int | None = None


@dataclass(frozen=True, slots=True)
class FundingReading:
    """A funding source at a slot: what it holds, what we may take, and what keeps us from it."""

    balance: AtomicUsdc
    allowance: AtomicUsdc
    slot: Slot
    finding: Finding | None

    @property
    def available(self) -> AtomicUsdc:
        """What can be paid out of it, in atomic units."""
        return AtomicUsdc(0) if self.finding else min(self.balance, self.allowance)


@dataclass(frozen=True, slots=True)
class GrantOrder:
    """What a buyer is asked to sign so that we may pay for it, up to `spend_limit`.

    `fee_payer` pays the fees: the buyer itself, or ours where onboarding is sponsored.
    """

    buyer: str
    mint: str
    decimals: int
    token_program: str
    spend_limit: AtomicUsdc
    fee_payer: str


@dataclass(frozen=True, slots=True)
class GrantTransaction:
    """One transaction to sign: what it does, in a word, and its message.

    `swig_address` is the Swig wallet that it is about, which may not exist yet.
    """

    type: str
    message: bytes
    signers: tuple[str, ...]
    last_valid_block_height: BlockHeight
    swig_address: str | None = None
