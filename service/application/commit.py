"""The one door to the log: load -> decide -> append at the expected position -> decide again.

A decision looks at a state and gives events. It is made on the state the process remembers, which
is only a hint: an append proves it (the position must still stand), and a refusal is made again on
the state read from the database before it is believed. Whoever loses a race decides again on what
the winner left.

`append` returning is durability, so nothing can be acknowledged early.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from service.application.streams import (
    Stream,
    session_stream_of,
    settling_stream,
    voucher_amount,
)
from service.domain.errors import (
    Corrupt,
    LedgerError,
    Rejected,
    SessionNotFound,
    WrongPosition,
)
from service.domain.events import Event
from service.domain.limits import COMMIT_ATTEMPTS_MAX, JOINT_ATTEMPTS_MAX
from service.domain.log import GENESIS_HASH, EventRow, chain, check_chain, decode
from service.domain.session import Session
from service.domain.settlement import Settling
from service.domain.units import StreamPosition
from service.ports import Append, Claim, EventStore, Head, StreamAppend

S = TypeVar("S")


@dataclass(slots=True)
class Held(Generic[S]):
    """A state, the position and hash of the last event in it, and whether it was just read."""

    state: S | None
    position: StreamPosition
    hash: bytes
    fresh: bool = False


EMPTY: Held[Any] = Held(None, StreamPosition(0), GENESIS_HASH, fresh=True)


@dataclass(slots=True)
class Outcome(Generic[S]):
    """A stream after a commit, with the events that this commit appended and their rows."""

    state: S | None
    position: StreamPosition
    events: Sequence[Event]
    rows: tuple[EventRow, ...]


@dataclass(slots=True)
class Change(Generic[S]):
    """One stream and what to decide about it. `decide` is pure: it may run several times."""

    stream: Stream[S]
    decide: Callable[[S | None], Sequence[Event]]


@dataclass(slots=True)
class Joint:
    """Streams that are decided about together. `decide` is pure: it gets the state of each and
    gives the events of each; refusals are its own business."""

    streams: Sequence[Stream[Any]]
    decide: Callable[[Sequence[Any]], Sequence[Sequence[Event]]]


ClaimsOf = Callable[[Sequence[Outcome[Any]]], Awaitable[Sequence[Claim]]]
"""Gives, from the outcomes that are about to be appended, keys to take in the same transaction."""


class Ledger:
    """Decides and appends. One for one process; remembers at most `remembered` sessions."""

    def __init__(self, store: EventStore, *, remembered: int = 20_000) -> None:
        self.store = store
        self._remembered = remembered
        self._held: OrderedDict[str, Held[Any]] = OrderedDict()
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    async def commit(
        self,
        stream: Stream[S],
        decide: Callable[[S | None], Sequence[Event]],
        claims: ClaimsOf | None = None,
    ) -> Outcome[S]:
        """Decide about one stream; see `commit_together`."""
        return (await self.commit_together([Change(stream, decide)], claims))[0]

    async def commit_together(
        self,
        changes: Sequence[Change[Any]],
        claims: ClaimsOf | None = None,
        joint: Joint | None = None,
    ) -> list[Outcome[Any]]:
        """Decide about several streams and append all or nothing. Durable on return.

        The outcomes of `joint`'s streams follow those of `changes`.

        Raises:
            LedgerError: what a decision raised, on a state fresh from the database.
            ClaimTaken: a claim was made before; nothing was written.
            WrongPosition: the race was lost too often; see `COMMIT_ATTEMPTS_MAX`.
            DatabaseUnavailable: not written, or the outcome is open.
        """
        streams = [change.stream for change in changes]
        if joint is not None:
            streams += joint.streams
        stream_ids = sorted({stream.stream_id for stream in streams})
        await self._acquire(stream_ids)
        try:
            for _ in range((COMMIT_ATTEMPTS_MAX if joint is None else JOINT_ATTEMPTS_MAX) - 1):
                with suppress(WrongPosition):
                    return await self._attempt(streams, changes, joint, claims)
            return await self._attempt(streams, changes, joint, claims)
        finally:
            self._release(stream_ids)

    def remembered(self, stream: Stream[S]) -> S | None:
        """The state that this process remembers: a hint, which may be out of date."""
        held = self._held.get(stream.stream_id)
        return None if held is None else held.state

    async def read(self, stream: Stream[S]) -> Held[S] | None:
        """The stream as the database has it now; `None` when it does not exist."""
        head = await self.store.head(stream.stream_id)
        if head is None:
            return None
        return Held(await self._state(stream, head), head.position, head.hash, fresh=True)

    async def session(self, stream_id: str) -> tuple[Session, StreamPosition] | None:
        """A session fresh from the database, with its position."""
        held = await self.read(session_stream_of(stream_id))
        return None if held is None or held.state is None else (held.state, held.position)

    async def settling(self, stream_id: str) -> Settling | None:
        """A session or a payment, fresh from the database."""
        held = await self.read(settling_stream(stream_id))
        return None if held is None else held.state

    async def record(
        self, stream_id: str, decide: Callable[[Settling], Sequence[Event]]
    ) -> Settling:
        """Decide about a session or a payment that must exist; gives it afterwards.

        Raises:
            SessionNotFound: it does not.
        """

        def decide_existing(state: Settling | None) -> Sequence[Event]:
            if state is None:
                raise SessionNotFound(f"no stream {stream_id!r}")
            return decide(state)

        outcome = await self.commit(settling_stream(stream_id), decide_existing)
        assert outcome.state is not None
        return outcome.state

    async def _attempt(
        self,
        streams: Sequence[Stream[Any]],
        changes: Sequence[Change[Any]],
        joint: Joint | None,
        claims: ClaimsOf | None,
    ) -> list[Outcome[Any]]:
        appends: list[StreamAppend] = []
        outcomes: list[Outcome[Any]] = []
        fresh = await self._load_forgotten(streams)
        decided = [
            await self._decide(change, fresh.get(change.stream.stream_id)) for change in changes
        ]
        if joint is not None:
            decided += await self._decide_jointly(joint, fresh)
        for stream, (held, new) in zip(streams, decided, strict=True):
            rows = chain(stream.stream_id, held.position, held.hash, new)
            state = stream.type.fold(held.state, new) if new else held.state
            position = StreamPosition(held.position + len(rows))
            outcomes.append(Outcome(state, position, new, rows))
            if new:
                appends.append(_stream_append(stream, held, state, rows, new))
        taken = tuple(await claims(outcomes)) if claims is not None else ()
        if appends or taken:
            await self._append(Append(tuple(appends), taken))
        for stream, outcome in zip(streams, outcomes, strict=True):
            if outcome.rows:
                held = Held(outcome.state, outcome.position, outcome.rows[-1].hash)
                self._remember(stream.stream_id, held)
        return outcomes

    async def _decide(
        self, change: Change[Any], fresh: Held[Any] | None
    ) -> tuple[Held[Any], Sequence[Event]]:
        held = fresh or self._recall(change.stream.stream_id)
        if held is None:  # forgotten again while others of this request were read
            held = await self._load(change.stream)
        try:
            new = change.decide(held.state)
        except Rejected:
            if held.fresh:
                raise
            new = ()
        if new or held.fresh:
            return held, new
        # A refusal, or nothing to do, on a remembered state: make sure before saying so.
        held = await self._load(change.stream)
        return held, change.decide(held.state)

    async def _decide_jointly(
        self, joint: Joint, fresh: dict[str, Held[Any]]
    ) -> list[tuple[Held[Any], Sequence[Event]]]:
        held = [
            fresh.get(stream.stream_id)
            or self._recall(stream.stream_id)
            or await self._load(stream)
            for stream in joint.streams
        ]
        while True:
            new = joint.decide([each.state for each in held])
            # The append proves the states that get an event; the others must have been just read.
            doubtful = [
                stream
                for stream, each, events in zip(joint.streams, held, new, strict=True)
                if not events and not each.fresh
            ]
            if not doubtful:
                return list(zip(held, new, strict=True))
            fresh = await self._load_all(doubtful)
            held = [
                fresh.get(stream.stream_id, each)
                for stream, each in zip(joint.streams, held, strict=True)
            ]

    async def _append(self, append: Append) -> None:
        try:
            await self.store.append(append)
        except LedgerError:
            for stream in append.streams:
                self._held.pop(stream.stream_id, None)
            raise

    async def _load(self, stream: Stream[Any]) -> Held[Any]:
        return (await self._load_all([stream]))[stream.stream_id]

    async def _load_forgotten(self, streams: Sequence[Stream[Any]]) -> dict[str, Held[Any]]:
        forgotten = [stream for stream in streams if stream.stream_id not in self._held]
        return await self._load_all(forgotten) if forgotten else {}

    async def _load_all(self, streams: Sequence[Stream[Any]]) -> dict[str, Held[Any]]:
        """The streams as the database has them now, in one read."""
        heads = await self.store.heads([stream.stream_id for stream in streams])
        loaded: dict[str, Held[Any]] = {}
        for stream in streams:
            head = heads.get(stream.stream_id)
            if head is None:
                loaded[stream.stream_id] = EMPTY
                continue
            state = await self._state(stream, head)
            loaded[stream.stream_id] = Held(state, head.position, head.hash, fresh=True)
            self._remember(stream.stream_id, Held(state, head.position, head.hash))
        return loaded

    async def _state(self, stream: Stream[S], head: Head) -> S | None:
        """The state at the head. A projection of another version's form is folded from the log.

        Raises:
            Corrupt: the log is not sound either.
        """
        try:
            return stream.type.load(head.projection)
        except Corrupt:
            logged = self.store.read(stream.stream_id, up_to=head.position)
            rows = [event.row async for event in logged]
        if check_chain(rows) != head.hash:
            raise Corrupt(f"{stream.stream_id}: the log does not end where its projection says")
        return stream.type.fold(
            None, [decode(row.type, row.schema_version, row.payload) for row in rows]
        )

    def _recall(self, stream_id: str) -> Held[Any] | None:
        held = self._held.get(stream_id)
        if held is not None:
            self._held.move_to_end(stream_id)
        return held

    def _remember(self, stream_id: str, held: Held[Any]) -> None:
        self._held[stream_id] = held
        self._held.move_to_end(stream_id)
        if len(self._held) > self._remembered:
            self._held.popitem(last=False)

    async def _acquire(self, stream_ids: Sequence[str]) -> None:
        """One decision at a time for each stream of this process; sorted, so never in a circle."""
        held: list[str] = []
        try:
            for stream_id in stream_ids:
                lock, users = self._locks.get(stream_id) or (asyncio.Lock(), 0)
                self._locks[stream_id] = lock, users + 1
                held.append(stream_id)
                await lock.acquire()
        except BaseException:  # cancelled while it waited: the last one is not ours
            self._leave(held.pop())
            self._release(held)
            raise

    def _release(self, stream_ids: Sequence[str]) -> None:
        for stream_id in stream_ids:
            self._locks[stream_id][0].release()
            self._leave(stream_id)

    def _leave(self, stream_id: str) -> None:
        lock, users = self._locks[stream_id]
        if users == 1:
            del self._locks[stream_id]
        else:
            self._locks[stream_id] = lock, users - 1


def _stream_append(
    stream: Stream[S],
    held: Held[S],
    state: S | None,
    rows: tuple[EventRow, ...],
    new: Sequence[Event],
) -> StreamAppend:
    assert state is not None
    return StreamAppend(
        stream_id=stream.stream_id,
        kind=stream.type.kind,
        seller_id=stream.seller_of(state),
        expected=held.position,
        rows=rows,
        amounts=tuple(voucher_amount(event) for event in new),
        projection=stream.type.project(state),
        lookups=stream.type.lookups(stream.stream_id, held.state, state),
    )
