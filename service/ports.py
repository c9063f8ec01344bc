"""What the use cases need from outside, as protocols. Adapters satisfy them structurally.

Each method says whether its effect is durable on return and whether it is safe to repeat.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol
from uuid import UUID

from service.domain.errors import Unavailable
from service.domain.events import SessionEvent
from service.domain.failures import Finding
from service.domain.log import EventRow
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
from service.domain.session import Session
from service.domain.units import AtomicUsdc, Lamports, StreamPosition, UnixMillis

# --- the log --------------------------------------------------------------------------------

StreamKind = Literal["session", "seller"]


@dataclass(frozen=True, slots=True)
class Head:
    """Where a stream stands: its position, its last hash, and its projection's canonical bytes."""

    position: StreamPosition
    hash: bytes
    projection: bytes


@dataclass(frozen=True, slots=True)
class StreamAppend:
    """Events for one stream, valid only if it stands at `expected`.

    `amounts` holds for each row the cumulative amount of the voucher it accepts, if it does.
    `projection` is the state after them; `lookups` are the rows of side tables by which it is found
    (table name to column values), written in the same transaction.
    """

    stream_id: str
    kind: StreamKind
    seller_id: str
    expected: StreamPosition
    rows: tuple[EventRow, ...]
    amounts: tuple[int | None, ...]
    projection: bytes
    lookups: tuple[tuple[str, Mapping[str, Any]], ...] = ()


@dataclass(frozen=True, slots=True)
class Claim:
    """A key that may be taken once in its scope, for ever, with the answer it was taken for."""

    scope: str
    key: str
    request_hash: bytes
    response: bytes | None = None


@dataclass(frozen=True, slots=True)
class Append:
    """One atomic append: every stream and every claim, or nothing."""

    streams: tuple[StreamAppend, ...]
    claims: tuple[Claim, ...] = ()


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """A row as read back, with what the database added."""

    row: EventRow
    recorded_at: UnixMillis
    seller_id: str
    cursor: str


@dataclass(frozen=True, slots=True)
class Rejection:
    """A refused voucher, as kept for the seller to read."""

    seller_id: str
    channel_id: str
    reason: str
    error: str
    at: UnixMillis
    voucher: str


class RejectionTrace(Protocol):
    """Counts refused vouchers and keeps the last ones, in bounded space."""

    def note(self, rejection: Rejection) -> None:
        """Remember a refusal; written soon, not durable on return."""
        ...


class EventStore(Protocol):
    """The append-only log and the projections that are written with it."""

    async def head(self, stream_id: str) -> Head | None:
        """The stream's head from the database; `None` for a stream that does not exist."""
        ...

    async def append(self, append: Append) -> None:
        """Durable on return. Repeating after an unknown outcome is resolved inside.

        Raises:
            WrongPosition: a stream stands elsewhere; nothing was written.
            ClaimTaken: a claim exists already; nothing was written.
            DatabaseUnavailable: not written, or the outcome could not be learnt.
        """
        ...

    async def claim(self, scope: str, key: str) -> Claim | None:
        """A claim made earlier."""
        ...

    async def voucher(self, stream_id: str, cumulative_amount: int) -> LoggedEvent | None:
        """The event that accepted a voucher of this total, if there is one."""
        ...

    def read(
        self, stream_id: str, *, after: int = 0, up_to: int | None = None
    ) -> AsyncIterator[LoggedEvent]:
        """The stream's events in order, `after` exclusive, `up_to` inclusive."""
        ...


class Ledger(Protocol):
    """The log as the settlement sees it: one session at a time."""

    async def session(self, stream_id: str) -> tuple[Session, StreamPosition] | None:
        """The session as the primary database has it now; never from a cache.

        Raises:
            DatabaseUnavailable: it does not answer.
        """
        ...

    async def record(
        self, stream_id: str, decide: Callable[[Session], Sequence[SessionEvent]]
    ) -> Session:
        """Load, decide, append; decide again after a lost race. Durable on return.

        Raises:
            SessionNotFound: the stream does not exist.
            WrongPosition: the race was lost too often; nothing was written.
            DatabaseUnavailable: not written, or the outcome could not be learnt.
        """
        ...


@dataclass(frozen=True, slots=True)
class SessionRow:
    """One row of a listing: a session's projection and the cursor behind it."""

    stream_id: str
    position: StreamPosition
    projection: bytes
    cursor: str


@dataclass(frozen=True, slots=True)
class RejectionCount:
    """How often vouchers were refused for one reason, and when last."""

    reason: str
    count: int
    last_at: UnixMillis


@dataclass(frozen=True, slots=True)
class OpenSettlement:
    """A settlement that is not terminal, as the worker and operators list them."""

    settlement_id: str
    stream_id: str
    seller_id: str
    status: str
    amount: AtomicUsdc
    intended_at: UnixMillis


class Queries(Protocol):
    """Reads that find things. Every method raises `DatabaseUnavailable` when it cannot."""

    async def sessions(
        self, seller_id: str, *, state: str | None, payer: str | None, limit: int, after: str | None
    ) -> list[SessionRow]: ...

    async def vouchers(self, stream_id: str, *, after: int, limit: int) -> list[LoggedEvent]: ...

    async def feed(self, seller_id: str, after: str, limit: int) -> list[LoggedEvent]: ...

    async def rejections(
        self, seller_id: str, channel_id: str
    ) -> tuple[list[RejectionCount], list[Rejection]]: ...

    async def settlement(self, settlement_id: str) -> OpenSettlement | None: ...

    async def settlements(self, *, status: str | None, limit: int) -> list[OpenSettlement]: ...

    async def lease_settlements(self, holder: UUID, *, seconds: int, limit: int) -> list[str]:
        """Stream ids of settlements that need work and that nobody else holds."""
        ...

    async def release_settlement(self, holder: UUID, stream_id: str) -> None: ...

    async def seller_of_key(self, key_id: str) -> str | None: ...

    async def seller_ids(self) -> list[str]: ...

    async def nonce_key(self) -> bytes: ...

    async def cluster_id(self) -> str:
        """The database cluster and its timeline: another one means a failover or a restore."""
        ...

    async def bind_chain(self, chain_id: str) -> str:
        """Remember the chain on first use; gives the one remembered."""
        ...


# --- replay ---------------------------------------------------------------------------------

LookupRow = tuple[str, Mapping[str, Any]]
"""A side table's name and the values that one of its rows derives from the log."""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A row of the log, with the column that is derived from its payload."""

    logged: LoggedEvent
    cumulative_amount: int | None


@dataclass(frozen=True, slots=True)
class Projection:
    """A row of `streams`."""

    kind: str
    seller_id: str
    head: Head


@dataclass(frozen=True, slots=True)
class StoredStream:
    """A stream as one moment of the database shows it. Read `events` before the next stream."""

    stream_id: str
    projection: Projection | None
    lookups: tuple[LookupRow, ...]
    events: AsyncIterator[StoredEvent]


class LockedStream(Protocol):
    """A stream that nobody else can append to while it is held."""

    @property
    def stored(self) -> StoredStream: ...

    async def write(self, projection: Projection | None, lookups: Sequence[LookupRow]) -> None:
        """Replace what is derived, all of it. Durable once the lock is released."""
        ...


class ReplayStore(Protocol):
    """The whole log beside what was derived from it. All raise `DatabaseUnavailable`."""

    async def event_count(self, stream_id: str | None) -> int: ...

    def streams(self, stream_id: str | None) -> AsyncIterator[StoredStream]:
        """Every stream, or one, in bounded memory."""
        ...

    def orphans(self) -> AsyncIterator[tuple[str, str]]:
        """Side table and stream id of each row whose stream has neither events nor projection."""
        ...

    def locked(self, stream_id: str) -> AbstractAsyncContextManager[LockedStream]: ...


# --- the chain ------------------------------------------------------------------------------


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
