"""Replay: fold the log again, and compare whatever was derived from it, byte for byte.

Positions, hash chain, projection, side tables; with `verify_vouchers` every accepted voucher is
decided again from its kept text. A projection that differs can be remade from the log, a log that
differs cannot be remade from anything: it is only ever read here.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, cast

from service.application.streams import TYPES, Stream, StreamType, seller_stream, voucher_amount
from service.domain.codec import JsonObject
from service.domain.errors import Corrupt, SessionNotFound
from service.domain.events import Event, VoucherAccepted
from service.domain.log import GENESIS_HASH, EventRow, check_chain, decode
from service.domain.recheck import recheck_voucher
from service.domain.seller import Seller
from service.domain.session import Session
from service.domain.units import StreamPosition, UnixMillis
from service.ports import (
    EventStore,
    Head,
    LookupRow,
    Projection,
    ReplayStore,
    StoredEvent,
    StoredStream,
)

What = Literal["chain", "event", "column", "voucher", "log_end", "projection", "lookup"]
"""Where the disagreement is. `chain`: position or hash of an event. `event`: it cannot be read or
cannot follow. `column`: a column beside the hashed ones. `voucher`: not rightly accepted.
`log_end`: the log ends before, or otherwise than, its projection. `projection`, `lookup`: the row
of `streams`, rows of the side tables."""

DERIVED: Final[frozenset[What]] = frozenset({"projection", "lookup"})
"""What the log can repair."""
DIFFERENCES_KEPT: Final = 1_000
PROGRESS_EVENTS: Final = 500
_BOOKS_REMEMBERED: Final = 1_000
_OF_NO_SELLER: Final = frozenset({"wallet", "funding", "payment", "direct", "grant"})
"""Kinds of stream whose name says no seller."""
_LEASE: Final = frozenset({"lease_holder", "leased_until"})
_NAMED_BY: Final = {"settlements": "settlement_id", "attempts": "number", "seller_keys": "key_id"}


@dataclass(frozen=True, slots=True)
class Difference:
    """One disagreement; `position` is the event's, where it is about one."""

    stream_id: str
    position: int | None
    what: What
    detail: str
    repaired: bool = False


@dataclass(frozen=True, slots=True)
class Scope:
    """What to replay and how.

    A bound (a position, or a time in Unix milliseconds) ends the fold before the end of the log;
    what was derived from the whole log is then not compared. `force` remakes what does not differ
    too, and also projections that the log's end contradicts.
    """

    stream_id: str | None = None
    to_position: int | None = None
    to_millis: UnixMillis | None = None
    rebuild: bool = False
    force: bool = False
    verify_vouchers: bool = False


@dataclass(slots=True)
class Report:
    """What a replay found. `differences` holds the first `DIFFERENCES_KEPT`, `count` is of all.

    `state` is the folded state's canonical JSON where one stream was asked for.
    """

    streams: int = 0
    events: int = 0
    vouchers: int = 0
    count: int = 0
    remaining: int = 0
    rebuilt: int = 0
    differences: list[Difference] = field(default_factory=list[Difference])
    state: bytes | None = None

    def add(self, difference: Difference) -> None:
        """Count a difference."""
        self.count += 1
        self.remaining += not difference.repaired
        if len(self.differences) < DIFFERENCES_KEPT:
            self.differences.append(difference)


@dataclass(slots=True)
class _Refold:
    """One stream while it is folded. What is wrong with its log goes to the report at once.

    `sound` ends with the first event that cannot be trusted, `whole` at a bound.
    """

    stream: Stream[Any]
    report: Report
    state: Any = None
    position: int = 0
    hash: bytes = GENESIS_HASH
    sound: bool = True
    whole: bool = True

    def differs(self, what: What, detail: str) -> None:
        """Something is wrong at the current position."""
        self.report.add(Difference(self.stream.stream_id, self.position, what, detail))


class Replay:
    """Replays a log. `on_progress` hears how many events were read since it was last called."""

    def __init__(
        self,
        store: ReplayStore,
        log: EventStore,
        *,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._log = log
        self._on_progress = on_progress
        self._books: OrderedDict[str, Sequence[JsonObject]] = OrderedDict()

    async def run(self, scope: Scope) -> Report:
        """Replay what `scope` names. Changes nothing unless it says `rebuild`; may be repeated.

        Raises:
            SessionNotFound: there is no such stream.
            DatabaseUnavailable: the database does not answer.
        """
        report = Report()
        async with aclosing(cast("Any", self._store.streams(scope.stream_id))) as streams:
            async for stored in streams:
                await self._replay(stored, scope, report)
        if scope.stream_id is None and scope.to_millis is None:
            async for table, stream_id in self._store.orphans():
                lost = f"{table} has a row of it, the log has nothing"
                orphan = Difference(stream_id, None, "log_end", lost)
                await self._report([orphan], scope, report, stream_id)
        return report

    async def _replay(self, stored: StoredStream, scope: Scope, report: Report) -> None:
        report.streams += 1
        stream = _stream_of(stored.stream_id)
        if stream is None:
            unknown = "this version of the service has no such kind of stream"
            report.add(Difference(stored.stream_id, None, "event", unknown))
            return
        refold = await self._refold(stream, stored, scope, report)
        if scope.stream_id is not None:
            if refold.position == 0 and refold.whole and stored.projection is None:
                raise SessionNotFound(f"no stream {stored.stream_id!r}")
            report.state = None if refold.state is None else stream.type.project(refold.state)
        if refold.whole:
            await self._report(_compare(stored, refold), scope, report, stored.stream_id)

    async def _report(
        self, found: Sequence[Difference], scope: Scope, report: Report, stream_id: str
    ) -> None:
        """Rebuild where that is wanted and can help, and count what was found."""
        derived = any(difference.what in DERIVED for difference in found)
        rebuilt = False
        if scope.rebuild and (derived or scope.force):
            rebuilt = await self._rebuild(stream_id, force=scope.force)
            report.rebuilt += rebuilt
        for difference in found:
            report.add(replace(difference, repaired=rebuilt))

    async def _rebuild(self, stream_id: str, *, force: bool) -> bool:
        """Remake what is derived from a stream, under its lock, from a log that is sound."""
        stream = _stream_of(stream_id)
        if stream is None:
            return False
        try:
            async with self._store.locked(stream_id) as locked:
                refold = await self._refold(stream, locked.stored, Scope(), Report())
                contradicted = any(d.what == "log_end" for d in _compare(locked.stored, refold))
                if not refold.sound or (contradicted and not force):
                    return False
                await locked.write(*_derived(refold))
        except Corrupt:
            return False
        return True

    async def _refold(
        self, stream: Stream[Any], stored: StoredStream, scope: Scope, report: Report
    ) -> _Refold:
        """Read a stream's events once: check the chain, fold, and look at each voucher."""
        refold = _Refold(stream, report)
        unseen = 0
        async for event in stored.events:
            if _is_behind(scope, event):
                refold.whole = False
                break
            _check_link(refold, event.logged.row)
            if refold.sound:
                await self._fold(refold, event, scope)
            report.events += 1
            unseen += 1
            if unseen == PROGRESS_EVENTS:
                self._on_progress(unseen)
                unseen = 0
        self._on_progress(unseen)
        return refold

    async def _fold(self, refold: _Refold, stored: StoredEvent, scope: Scope) -> None:
        row = stored.logged.row
        try:
            event: Event = decode(row.type, row.schema_version, row.payload)
            if isinstance(event, VoucherAccepted):
                refold.report.vouchers += 1
                if scope.verify_vouchers and isinstance(refold.state, Session):
                    await self._recheck(refold, refold.state, event)
            refold.state = refold.stream.type.fold(refold.state, [event])
        except Corrupt as error:
            refold.sound = False
            refold.differs("event", error.detail)
            return
        if stored.cumulative_amount != voucher_amount(event):
            refold.differs("column", "cumulative_amount is not the payload's")
        if stored.logged.seller_id != refold.stream.seller_of(refold.state):
            refold.differs("column", "seller_id is not the stream's")

    async def _recheck(self, refold: _Refold, session: Session, event: VoucherAccepted) -> None:
        book = await self._book(refold.stream.seller_id, event.price_version)
        wrong = recheck_voucher(session, event, book)
        if wrong is not None:
            refold.differs("voucher", wrong)

    async def _book(self, seller_id: str, version: int) -> JsonObject | None:
        """A version of a seller's price book, from the seller's own log."""
        books = self._books.get(seller_id, ())
        if len(books) < version:
            stream = seller_stream(seller_id)
            seller: Seller | None = None
            try:
                async for logged in self._log.read(stream.stream_id):
                    row = logged.row
                    event = decode(row.type, row.schema_version, row.payload)
                    seller = stream.type.fold(seller, [event])
            except Corrupt:  # reported where that stream is replayed
                pass
            books = self._books[seller_id] = seller.price_books if seller else ()
            if len(self._books) > _BOOKS_REMEMBERED:
                self._books.popitem(last=False)
        return books[version - 1] if 1 <= version <= len(books) else None


def _stream_of(stream_id: str) -> Stream[Any] | None:
    kind, _, name = stream_id.partition("/")
    found: StreamType[Any] | None = TYPES.get(kind)
    owner = name.partition("/")[0]
    seller_id = "" if kind in _OF_NO_SELLER else owner
    return Stream(found, stream_id, seller_id) if found and owner else None


def _is_behind(scope: Scope, event: StoredEvent) -> bool:
    """Whether an event is behind the bound of the replay."""
    logged = event.logged
    if scope.to_position is not None and logged.row.position > scope.to_position:
        return True
    return scope.to_millis is not None and logged.recorded_at > scope.to_millis


def _check_link(refold: _Refold, row: EventRow) -> None:
    """Check one event's place in the chain; go on from what is stored, to name every bad one."""
    wrong = None
    try:
        check_chain([row], refold.hash, refold.position)
    except Corrupt as error:
        wrong = error.detail
    refold.position, refold.hash = row.position, row.hash
    if wrong is not None:
        refold.sound = False
        refold.differs("chain", wrong)


def _compare(stored: StoredStream, refold: _Refold) -> list[Difference]:
    """What is derived from a stream against what is folded from it."""
    stream_id, ends = stored.stream_id, refold.position
    if stored.projection is None:
        found: list[Difference] = [Difference(stream_id, ends, "projection", "it is missing")]
    else:
        found = list(_head_differences(stream_id, stored.projection, refold))
    wanted, lookups = _derived(refold)
    if wanted is None or not refold.sound:
        return found
    if stored.projection is not None:
        bytes_held, bytes_wanted = stored.projection.head.projection, wanted.head.projection
        if bytes_held != bytes_wanted:
            at = _first_difference(bytes_held, bytes_wanted)
            detail = f"its bytes differ from byte {at} on"
            found.append(Difference(stream_id, ends, "projection", detail))
    details = _lookup_differences(stored.lookups, lookups)
    return [*found, *(Difference(stream_id, None, "lookup", detail) for detail in details)]


def _head_differences(stream_id: str, held: Projection, refold: _Refold) -> Iterator[Difference]:
    stands, ends, stream = held.head.position, refold.position, refold.stream
    if stands > ends:
        detail = f"the projection stands at {stands}, the log ends at {ends}"
        yield Difference(stream_id, ends, "log_end", detail)
    elif stands < ends:
        detail = f"it stands at {stands}, the log ends at {ends}"
        yield Difference(stream_id, stands, "projection", detail)
    elif held.head.hash != refold.hash:
        yield Difference(stream_id, ends, "log_end", "head_hash is not the hash of the last event")
    state = refold.state
    seller_id = held.seller_id if state is None else stream.seller_of(state)
    if (held.kind, held.seller_id) != (stream.type.kind, seller_id):
        yield Difference(stream_id, None, "projection", "its kind or its seller is not the name's")


def _derived(refold: _Refold) -> tuple[Projection | None, Sequence[LookupRow]]:
    """What the folded state's projection and side tables have to hold."""
    stream = refold.stream
    if refold.state is None:
        return None, ()
    position = StreamPosition(refold.position)
    head = Head(position, refold.hash, stream.type.project(refold.state))
    lookups = tuple(
        (table, {name: value for name, value in row.items() if name not in _LEASE})
        for table, row in stream.type.lookups(stream.stream_id, None, refold.state)
    )
    return Projection(stream.type.kind, stream.seller_of(refold.state), head), lookups


def _lookup_differences(held: Sequence[LookupRow], wanted: Sequence[LookupRow]) -> list[str]:
    missing = [_named(row) for row in wanted if row not in held]
    extra = [_named(row) for row in held if row not in wanted]
    return [
        *(f"{row} differs" for row in missing if row in extra),
        *(f"{row} is missing" for row in missing if row not in extra),
        *(f"{row} has no ground in the log" for row in extra if row not in missing),
    ]


def _named(row: LookupRow) -> str:
    table, values = row
    key = _NAMED_BY.get(table)
    return f"the row of {table}" + (f" with {key} {values[key]}" if key else "")


def _first_difference(one: bytes, other: bytes) -> int:
    """0-based."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
