"""What many callers ask of the chain in the same moment, asked of the provider once.

Nobody is given an answer that is older than the question, so a reading counts for each caller as
if it were that caller's alone, and every rule about readings holds unchanged (ADR 0021).
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Literal, TypeVar, get_args

from service.adapters.solana import accounts
from service.adapters.solana.batches import ACCOUNTS_PER_READ
from service.adapters.solana.rpc import SolanaRpc
from service.adapters.together import Together
from service.domain.errors import ChainUnavailable, Unavailable
from service.domain.observed import ObservedTransaction
from service.domain.onchain import (
    AccountsReading,
    ChainHeights,
    Commitment,
    FinalizedTransaction,
    LatestBlockhash,
    Mint,
    RawAccount,
    SignatureStatus,
    Simulation,
    TokenAccount,
)
from service.domain.units import Lamports, Slot

V = TypeVar("V")

_LEVELS: Final[tuple[Commitment, ...]] = get_args(Commitment)

STATUSES_PER_READ: Final = 64
"""A quarter of what a provider takes: it may have to search its archive for each of them, and all
must come before the timeout. Spec: Solana JSON-RPC, `getSignatureStatuses`."""


class SharedReads:
    """The `Chain` port over one provider, for many callers at once.

    Shared is what settlements ask for again and again. Everything else goes straight through: a
    simulation, a send, a finalized transaction, which alone settles, and sets of accounts at one
    slot, which strangers can make as large as they like.
    """

    def __init__(self, rpc: SolanaRpc) -> None:
        self._rpc = rpc
        self._genesis = Together(_alone(lambda _: rpc.genesis_hash()))
        self._blockhash = Together(_alone(lambda _: rpc.latest_blockhash()))
        self._heights = Together(_alone(lambda _: rpc.heights()))
        self._mints = Together(_alone(rpc.mint))
        self._statuses = Together(
            rpc.signature_statuses, size=STATUSES_PER_READ, apart=_is_unreadable
        )
        self._heads = {
            level: Together(_heads(rpc, level), size=ACCOUNTS_PER_READ, apart=_is_unreadable)
            for level in _LEVELS
        }

    @property
    def name(self) -> str:
        """Host and port of the provider."""
        return self._rpc.name

    async def close(self) -> None:
        """End the readings and close the connections."""
        for shared in (
            self._genesis,
            self._blockhash,
            self._heights,
            self._mints,
            self._statuses,
            *self._heads.values(),
        ):
            await shared.close()
        await self._rpc.close()

    async def genesis_hash(self) -> str:
        """The cluster's genesis hash as the provider says it now, unchecked."""
        return await self._genesis.get("")

    async def latest_blockhash(self) -> LatestBlockhash:
        """A blockhash at `confirmed`; the cluster's identity is checked again, after the call."""
        return await self._blockhash.get("")

    async def heights(self) -> ChainHeights:
        """The heights; the finalized one and its slot are of one reading."""
        return await self._heights.get("")

    async def signature_status(self, signature: str) -> SignatureStatus:
        """The status, the history searched; `level` is `None` when the provider has none."""
        return await self._statuses.get(signature)

    async def token_account(self, address: str, commitment: Commitment) -> TokenAccount | None:
        """The token account at `address`; `None` when there is none."""
        slot, raw = await self._heads[commitment].get(address)
        return raw and accounts.token_account(address, raw.owner, raw.data, slot)

    async def lamports(self, address: str) -> Lamports:
        """The balance at `confirmed`, in lamports."""
        _, raw = await self._heads["confirmed"].get(address)
        return Lamports(0) if raw is None else raw.lamports

    async def mint(self, address: str) -> Mint | None:
        """The mint at `address`; `None` when there is none."""
        return await self._mints.get(address)

    async def accounts(self, addresses: Sequence[str], commitment: Commitment) -> AccountsReading:
        """The accounts as they are stored, at one slot."""
        return await self._rpc.accounts(addresses, commitment)

    async def simulate(self, transaction: bytes, *, complete: bool = True) -> Simulation:
        """Simulate the bytes exactly as they are, at `confirmed`."""
        return await self._rpc.simulate(transaction, complete=complete)

    async def send(self, transaction: bytes) -> str:
        """Hand over the bytes, without preflight and without the node's own retries."""
        return await self._rpc.send(transaction)

    async def transaction(
        self, signature: str, commitment: Literal["confirmed", "finalized"]
    ) -> ObservedTransaction | None:
        """The transaction with all that it did; `None` when the provider has none at that level."""
        return await self._rpc.transaction(signature, commitment)

    async def finalized_transaction(self, signature: str) -> FinalizedTransaction | None:
        """The transaction with its balance changes; `None` when the provider has none finalized."""
        return await self._rpc.finalized_transaction(signature)


def _is_unreadable(error: Unavailable) -> bool:
    return isinstance(error, ChainUnavailable) and error.unreadable


def _alone(read: Callable[[str], Awaitable[V]]) -> Callable[[Sequence[str]], Awaitable[list[V]]]:
    """A reading of one key, as a batch."""

    async def read_one(keys: Sequence[str]) -> list[V]:
        (key,) = keys
        return [await read(key)]

    return read_one


def _heads(
    rpc: SolanaRpc, commitment: Commitment
) -> Callable[[Sequence[str]], Awaitable[list[tuple[Slot, RawAccount | None]]]]:
    """A reading of many accounts, of each as many bytes as `TokenAccount` is made of."""

    async def read_heads(addresses: Sequence[str]) -> list[tuple[Slot, RawAccount | None]]:
        reading = await rpc.accounts(addresses, commitment, first_bytes=accounts.HEAD_BYTES)
        return [(reading.slot, account) for account in reading.accounts]

    return read_heads
