"""What the use cases need of the chain, of keys and of the clock, as protocols.

Adapters satisfy them structurally. Each method says whether its effect is durable on return and
whether it is safe to repeat.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

from service.domain.errors import Unavailable
from service.domain.failures import Finding
from service.domain.funding import FundingReading, GrantOrder, GrantTransaction, SourceRef
from service.domain.observed import ObservedTransaction
from service.domain.onchain import (
    AccountsReading,
    ChainHeights,
    Commitment,
    FinalizedTransaction,
    LatestBlockhash,
    Mint,
    SignatureStatus,
    Simulation,
    TokenAccount,
    TransferOrder,
    UnsignedTransaction,
)
from service.domain.terms import FundingKind
from service.domain.units import Lamports, UnixMillis


class Chain(Protocol):
    """One Solana cluster. Every method raises `ChainUnavailable` when no provider answers usefully.

    Everything but `send` only reads. `send` may be repeated with the same bytes.
    """

    @property
    def name(self) -> str:
        """Who answers, for records and logs; without credentials."""
        ...

    async def genesis_hash(self) -> str: ...

    async def latest_blockhash(self) -> LatestBlockhash:
        """A blockhash at `confirmed`, with the view of the chain it belongs to."""
        ...

    async def token_account(self, address: str, commitment: Commitment) -> TokenAccount | None:
        """`None` when there is no initialized token account, whatever else is at the address."""
        ...

    async def accounts(self, addresses: Sequence[str], commitment: Commitment) -> AccountsReading:
        """At most 100 accounts, in the order asked for, at one slot."""
        ...

    async def mint(self, address: str) -> Mint | None:
        """`None` when there is no initialized mint at the address."""
        ...

    async def lamports(self, address: str) -> Lamports: ...

    async def simulate(self, transaction: bytes, *, complete: bool = True) -> Simulation:
        """What would happen to it now. Unless it is `complete`, its signatures are not verified,
        and `inner_programs` are asked for."""
        ...

    async def send(self, transaction: bytes) -> str:
        """Hand the bytes to the cluster; gives a short result code, never evidence of anything."""
        ...

    async def signature_status(self, signature: str) -> SignatureStatus:
        """The status with the transaction history searched."""
        ...

    async def heights(self) -> ChainHeights: ...

    async def finalized_transaction(self, signature: str) -> FinalizedTransaction | None: ...

    async def transaction(
        self, signature: str, commitment: Literal["confirmed", "finalized"]
    ) -> ObservedTransaction | None:
        """Anybody's landed transaction; `None` when none is at that level (yet)."""
        ...


class FundingSource(Protocol):
    """One way in which money leaves a payer's account: SPL delegation, or a Swig wallet's role.

    Every method that reads raises `ChainUnavailable` when no provider answers.
    """

    @property
    def kind(self) -> FundingKind: ...

    @property
    def pubkey(self) -> str:
        """Our key, which signs for the payer's account."""
        ...

    async def locate(self, payer: str, swig_address: str | None, mint: str) -> SourceRef:
        """The account that pays for this payer.

        Raises:
            FundingSourceRefused: the payer has no say over it, or it can never pay.
        """
        ...

    async def readings(self, refs: Sequence[SourceRef]) -> list[FundingReading]:
        """What the chain allows us to take from each now, read together where it can be."""
        ...

    async def source_finding(self, order: TransferOrder) -> Finding | None:
        """What keeps the order from being paid out of its source now; `None` when nothing does."""
        ...

    def unsigned(self, order: TransferOrder, blockhash: str) -> UnsignedTransaction:
        """The transaction of exactly this order, without signatures. Pure.

        Raises:
            Corrupt: the order names an address that is none.
        """
        ...

    async def grant(self, order: GrantOrder) -> list[GrantTransaction]:
        """The transactions by which the buyer lets us pay; signed by the buyer, in this order.

        Raises:
            FundingSourceRefused: the buyer lacks what it takes; the detail says what.
        """
        ...


class SignerUnavailable(Unavailable):
    """The key's home does not sign at the moment."""

    code = "signer_unavailable"


class Signer(Protocol):
    """A key that signs; where it lives is the adapter's business."""

    @property
    def pubkey(self) -> str: ...

    async def sign(self, message: bytes) -> bytes:
        """A 64-byte Ed25519 signature of `message`.

        Raises:
            SignerUnavailable: no valid signature came back.
        """
        ...


class Clock(Protocol):
    """The time of day. It decides nothing about money: only block heights do."""

    def now(self) -> UnixMillis: ...
