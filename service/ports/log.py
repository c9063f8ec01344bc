"""What the use cases need of the log, as protocols. Adapters satisfy them structurally.

Each method says whether its effect is durable on return and whether it is safe to repeat.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol
from uuid import UUID

from service.domain.events import Event
from service.domain.log import EventRow
from service.domain.settlement import Settling
from service.domain.units import AtomicUsdc, StreamPosition, UnixMillis

StreamKind = Literal["session", "seller", "funding", "wallet", "payment", "direct", "grant"]


@dataclass(frozen=True, slots=True)
class Head:
    """Where a stream stands: its position, its last hash, and its projection's canonical bytes."""

    position: StreamPosition
    hash: bytes
    projection: bytes


@dataclass(slots=True)
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


@dataclass(slots=True)
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

    async def heads(self, stream_ids: Sequence[str]) -> dict[str, Head]:
        """The heads of those streams that exist, in one read."""
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

    async def buyers_sessions(self, channel_ids: Sequence[str]) -> dict[str, str]:
        """The streams of those sessions that a buyer opened here, by channel id, in one read."""
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
    """The log as the settlement sees it: one session, or one payment, at a time."""

    async def settling(self, stream_id: str) -> Settling | None:
        """The session or payment as the primary database has it now; never from a cache.

        Raises:
            DatabaseUnavailable: it does not answer.
        """
        ...

    async def record(
        self, stream_id: str, decide: Callable[[Settling], Sequence[Event]]
    ) -> Settling:
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


@dataclass(frozen=True, slots=True)
class Cluster:
    """The database cluster and timeline that answers now, and the one that is trusted.

    Another one means a failover or a restore: the log may have forgotten attempts that were sent.
    """

    current: str
    trusted: str


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

    async def seller_of_recipient(self, recipient: str, network: str) -> str | None:
        """The seller who is paid at a wallet; the oldest of several."""
        ...

    async def seller_ids(self) -> list[str]: ...

    async def nonce_key(self) -> bytes: ...

    async def cluster(self) -> Cluster:
        """Which cluster answers and which is trusted; the first one ever seen is."""
        ...

    async def trust_cluster(self) -> Cluster:
        """Trust the cluster that answers now: an operator has compared the log with the chain."""
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
