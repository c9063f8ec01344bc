"""What operators' use cases need of the database: sessions to look at, and what is not settled.

Every method raises `DatabaseUnavailable` when it cannot.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from service.domain.session import Funding
from service.domain.units import AtomicUsdc, UnixMillis

ExposureBy = Literal["buyer", "seller"]


@dataclass(frozen=True, slots=True)
class DueSession:
    """A session to look at. `source` is the token account noted by the last look."""

    stream_id: str
    source: str | None


@dataclass(frozen=True, slots=True)
class NextLook:
    """When to look at a session again (`None`: never), and the token account that pays for it."""

    stream_id: str
    seconds: float | None
    source: str | None


class WatchStore(Protocol):
    """Which sessions are due to be looked at: open ones, and buyers' ones that have ended since
    they were looked at last. Nothing of it follows from the log."""

    async def lease_sessions(self, *, seconds: float, limit: int) -> list[DueSession]:
        """Sessions that are due, and due again after `seconds` unless `schedule` says otherwise:
        no other process gets them meanwhile. Whoever is killed holds them no longer."""
        ...

    async def schedule(self, looks: Sequence[NextLook]) -> None:
        """Set when sessions are due. One that is being changed at the moment keeps its lease."""
        ...

    async def unsettled(
        self, accounts: Collection[str], owners: Mapping[str, str]
    ) -> dict[str, AtomicUsdc]:
        """What open and closing sessions are owed out of each token account, together.

        `owners` maps payers to their account among these, for sessions that were never looked at.
        A payment that was sent already is left out: the account's balance may know of it.
        """
        ...


@dataclass(frozen=True, slots=True)
class SourceName:
    """The parts of a session that say which funding source pays for it."""

    payer: str
    mint: str
    swig_address: str | None
    swig_role_id: int | None
    token_account: str | None


@dataclass(frozen=True, slots=True)
class Unsettled:
    """What sessions that are not settled come to. Amounts are sums."""

    open_sessions: int
    closing_sessions: int
    unsettled: AtomicUsdc
    deposits: AtomicUsdc
    oldest_at: UnixMillis | None


@dataclass(frozen=True, slots=True)
class ExposureRow:
    """The sessions of one buyer or seller that are not settled.

    `funding` is the worst state of an open one; `None` when all are closing. `sources` are at most
    as many as were asked for; `more_sources` says that there are others.
    """

    name: str
    held: Unsettled
    funding: Funding | None
    sources: tuple[SourceName, ...]
    more_sources: bool


class ExposureStore(Protocol):
    """Sums over sessions that are not settled. Each reads all of their projections: the cost is in
    proportion to them, however many sessions were settled before."""

    async def exposures(
        self, by: ExposureBy, *, seller_id: str | None, limit: int, after: str | None, sources: int
    ) -> list[ExposureRow]:
        """A page by name, of all sellers or of one."""
        ...

    async def total(self, *, seller_id: str | None) -> Unsettled:
        """All of them together."""
        ...

    async def revoked_sessions(self) -> int:
        """How many open sessions the payers took the money away from."""
        ...
