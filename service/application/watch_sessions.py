"""Looking at open sessions: is the money still granted, and is it time to close?

Each look leases a batch of sessions that are due, reads their funding sources together, appends
what changed, closes what the policy says, and notes when to look again. A buyer's session is looked
at once more after its end, to release its deposit. Nothing is remembered in between: any process
may do the next look, whoever was killed in this one.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from service.application.close_session import close_session
from service.application.commit import Ledger
from service.application.deposits import release_settled
from service.application.funding import observed, record_reading
from service.application.settlement_terms import SettlementTerms
from service.application.streams import SESSION, session_stream_of
from service.domain.auto_close import (
    AutoClosePolicy,
    AutoCloseReason,
    SourceLoad,
    close_reason,
    next_look,
)
from service.domain.errors import (
    ChainUnavailable,
    FundingSourceUnknown,
    LedgerError,
    SessionNotFound,
)
from service.domain.funding import FundingReading, SourceRef
from service.domain.session import MILLIS, Funding, Session
from service.domain.terms import FundingKind
from service.domain.units import AtomicUsdc, UnixMillis
from service.ports import Clock, DueSession, FundingSource, NextLook, WatchStore

BATCH: Final = 100
"""Sessions of one look; as many accounts as one request reads."""
LEASE_SECONDS: Final = 30.0
"""How long the sessions of a process that was killed wait for another, at most."""


@dataclass(slots=True)
class Looked:
    """What one look found and did, by stream. `unread` is why the chain was not read, if so."""

    sessions: int = 0
    funding: list[tuple[str, Funding]] = field(default_factory=list[tuple[str, Funding]])
    closed: list[tuple[str, AutoCloseReason]] = field(
        default_factory=list[tuple[str, AutoCloseReason]]
    )
    without_source: list[str] = field(default_factory=list[str])
    released: int = 0
    failed: list[tuple[str, LedgerError]] = field(default_factory=list[tuple[str, LedgerError]])
    read: int = 0
    unread: ChainUnavailable | None = None


@dataclass(slots=True)
class _Watched:
    """One session of a batch. `source` is unknown where the payer owns no account."""

    due: DueSession
    session: Session
    source: SourceRef | None

    @property
    def stream_id(self) -> str:
        return self.due.stream_id


class WatchSessions:
    """One for one process; looks may run at the same time, here and in other processes."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        store: WatchStore,
        funding: Mapping[FundingKind, FundingSource],
        how: SettlementTerms,
        policy: AutoClosePolicy,
        every_seconds: float,
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._funding = funding
        self._how = how
        self._policy = policy
        self._every_seconds = every_seconds
        self._clock = clock

    async def look(self) -> Looked:
        """Look at a batch of sessions that are due. What goes wrong with one holds up no other.

        Raises:
            DatabaseUnavailable: the database does not answer; what was leased is due again soon.
        """
        looked = Looked()
        lease = min(self._every_seconds, LEASE_SECONDS)
        due = await self._store.lease_sessions(seconds=lease, limit=BATCH)
        looked.sessions = len(due)
        if not due:
            return looked
        found = await self._load(due, looked)
        batch = [one for one in found if one.session.state == "open"]
        await self._release([one for one in found if one.session.state != "open"], looked)
        readings = await self._read({one.source for one in batch if one.source}, looked)
        await asyncio.gather(*(self._record(one, readings, looked) for one in batch))
        loads = await self._loads(batch, readings)
        await asyncio.gather(*(self._close(one, loads, looked) for one in batch))
        await self._schedule(batch, lease)
        return looked

    async def _load(self, due: Sequence[DueSession], looked: Looked) -> list[_Watched]:
        heads = await self._ledger.store.heads([one.stream_id for one in due])
        batch: list[_Watched] = []
        for one in due:
            head = heads.get(one.stream_id)
            if head is None:
                continue
            try:
                session = SESSION.load(head.projection)
            except LedgerError as error:
                looked.failed.append((one.stream_id, error))
                continue
            batch.append(_Watched(one, session, self._source_of(session)))
        return batch

    def _source_of(self, session: Session) -> SourceRef | None:
        try:
            return self._how.source_of(session)
        except FundingSourceUnknown:
            return None

    async def _release(self, ended: Sequence[_Watched], looked: Looked) -> None:
        """Release the deposits of sessions that have ended, and look at those never again."""
        of_account: dict[str, list[str]] = {}
        for one in ended:
            account = one.session.terms.source_token_account
            if account is not None and one.session.reserved == 0:
                of_account.setdefault(account, []).append(one.stream_id)
        done: list[NextLook] = []
        for account, stream_ids in of_account.items():
            try:
                looked.released += await release_settled(self._ledger, account, self._clock.now())
            except LedgerError as error:
                looked.failed += [(stream_id, error) for stream_id in stream_ids]
            else:
                done += [NextLook(stream_id, None, account) for stream_id in stream_ids]
        if done:
            await self._store.schedule(done)

    async def _read(
        self, sources: set[SourceRef], looked: Looked
    ) -> dict[SourceRef, FundingReading]:
        """What the chain says of each source, those of one kind read together."""
        found: dict[SourceRef, FundingReading] = {}
        for kind, port in self._funding.items():
            refs = sorted((s for s in sources if s.kind == kind), key=lambda s: s.token_account)
            if not refs:
                continue
            try:
                found |= zip(refs, await port.readings(refs), strict=True)
                looked.read += len(refs)
            except ChainUnavailable as error:
                looked.unread = error
        return found

    async def _record(
        self, one: _Watched, readings: Mapping[SourceRef, FundingReading], looked: Looked
    ) -> None:
        """Append what the reading changes of the session, if it changes anything."""
        if one.source is None or one.source not in readings:
            return
        reading, now = readings[one.source], self._clock.now()
        unasked = one.session.terms.swig_address is None
        if not observed(one.session, one.source, reading, now, unasked=unasked):
            return
        stream, before = session_stream_of(one.stream_id), one.session.funding
        try:
            after = await record_reading(
                self._ledger, stream, one.source, reading, now, unasked=unasked
            )
        except LedgerError as error:
            looked.failed.append((one.stream_id, error))
            return
        if after is not None:
            one.session = after
            if after.funding != before:
                looked.funding.append((one.stream_id, after.funding))

    async def _loads(
        self, batch: Sequence[_Watched], readings: Mapping[SourceRef, FundingReading]
    ) -> dict[SourceRef, SourceLoad]:
        """What each source that was read has to pay, where the policy asks for it.

        Asked after the chain: a payment that lands in between is then seen too late rather than
        twice, and closes nothing.
        """
        if self._policy.headroom is None or not readings:
            return {}
        accounts = {source.token_account for source in readings}
        own = {
            one.session.terms.payer: self._how.token_address(one.source.owner, one.source.mint)
            for one in batch
            if one.source is not None and one.source.kind == "delegate"
        }
        owners = {payer: account for payer, account in own.items() if account in accounts}
        unsettled = await self._store.unsettled(accounts, owners)
        return {
            source: SourceLoad(
                reading.available, unsettled.get(source.token_account, AtomicUsdc(0))
            )
            for source, reading in readings.items()
        }

    async def _close(
        self, one: _Watched, loads: Mapping[SourceRef, SourceLoad], looked: Looked
    ) -> None:
        """Close the session if the policy says so, of the state that the close follows upon."""
        load = loads.get(one.source) if one.source is not None else None
        now = self._clock.now()
        reason = close_reason(one.session, self._policy, load, now)
        if reason is None:
            return
        try:
            closed = await close_session(
                self._ledger,
                session_stream_of(one.stream_id),
                self._how,
                source=None,
                by=f"auto:{reason}",
                now=now,
                provided=lambda session: close_reason(session, self._policy, load, now) == reason,
            )
        except SessionNotFound:
            return  # its seller removed it a moment ago
        except FundingSourceUnknown:
            looked.without_source.append(one.stream_id)
        except LedgerError as error:
            looked.failed.append((one.stream_id, error))
        else:
            if closed.state is not None:
                one.session = closed.state
            if closed.events:
                looked.closed.append((one.stream_id, reason))

    async def _schedule(self, batch: Sequence[_Watched], lease: float) -> None:
        """Note the next look where it is not the lease's end, and the source where it is new."""
        now = self._clock.now()
        looks = [look for one in batch if (look := self._next(one, now, lease)) is not None]
        if looks:
            await self._store.schedule(looks)

    def _next(self, one: _Watched, now: UnixMillis, lease: float) -> NextLook | None:
        account = one.source.token_account if one.source else None
        if one.session.state != "open":
            return None if account == one.due.source else NextLook(one.stream_id, lease, account)
        every = round(self._every_seconds * MILLIS)
        at = next_look(one.session, self._policy, now, every_millis=every)
        seconds = (at - now) / MILLIS
        if seconds == lease and account == one.due.source:
            return None
        return NextLook(one.stream_id, seconds, account)
