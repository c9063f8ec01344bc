"""What the use cases need of the chain, of keys and of the clock, as protocols.

Adapters satisfy them structurally. Each method says whether its effect is durable on return and
whether it is safe to repeat.
"""

from typing import Protocol

from service.domain.errors import Unavailable
from service.domain.failures import Finding
from service.domain.onchain import (
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

    async def mint(self, address: str) -> Mint | None:
        """`None` when there is no initialized mint at the address."""
        ...

    async def lamports(self, address: str) -> Lamports: ...

    async def simulate(self, transaction: bytes) -> Simulation: ...

    async def send(self, transaction: bytes) -> str:
        """Hand the bytes to the cluster; gives a short result code, never evidence of anything."""
        ...

    async def signature_status(self, signature: str) -> SignatureStatus:
        """The status with the transaction history searched."""
        ...

    async def heights(self) -> ChainHeights: ...

    async def finalized_transaction(self, signature: str) -> FinalizedTransaction | None: ...


class Authority(Protocol):
    """How money leaves the payer's account: by SPL delegation, or another way."""

    @property
    def pubkey(self) -> str:
        """The key that signs for the payer's account."""
        ...

    async def source_finding(self, order: TransferOrder) -> Finding | None:
        """What keeps the order from being paid out of its source now; `None` when nothing does.

        Raises:
            ChainUnavailable: the accounts cannot be read.
        """
        ...

    def unsigned(self, order: TransferOrder, blockhash: str) -> UnsignedTransaction:
        """The transaction of exactly this order, without signatures. Pure.

        Raises:
            Corrupt: the order names an address that is none.
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
