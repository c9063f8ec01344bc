"""Deposits reserved out of one funding source, so that open sessions never promise one money twice.

A reservation is released late rather than early: between a finalized transfer and its release the
amount counts twice, so an open may be refused a moment too long, never granted a moment too early.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from service.domain import events as e
from service.domain.errors import Corrupt, DepositExceeded, FundingSourceRefused, ReadingTooOld
from service.domain.funding import FundingReading
from service.domain.limits import RESERVATIONS_MAX
from service.domain.units import AtomicUsdc, Slot, UnixMillis

TOO_MANY_SESSIONS: Final = "too_many_open_sessions"


@dataclass(frozen=True, slots=True)
class Reservation:
    """The deposit of one session that was not released yet."""

    stream_id: str
    amount: AtomicUsdc


@dataclass(frozen=True, slots=True)
class Reservations:
    """What the log says of one funding source. Its canonical JSON is the projection.

    A reading from before `slot` may not know yet of payments whose deposits were released.
    """

    open: tuple[Reservation, ...]
    slot: Slot


NOTHING_RESERVED: Final = Reservations((), Slot(0))


@dataclass(frozen=True, slots=True)
class Need:
    """What a session may still take of its source, 0 once it has ended; it never grows.

    `slot` is where its payment landed, if one did.
    """

    amount: AtomicUsdc
    slot: Slot | None = None


def reserve(
    reservations: Reservations | None,
    stream_id: str,
    deposit: AtomicUsdc,
    reading: FundingReading,
    *,
    spend_limit: AtomicUsdc | None,
    needs: Mapping[str, Need],
    now: UnixMillis,
) -> list[e.FundingEvent]:
    """Reserve a deposit, after releasing what has ended of the sessions in `needs`.

    Raises:
        ReadingTooOld: the reading may be from before a payment whose deposit is released.
        DepositExceeded: the open deposits would pass what the chain, or the buyer, allows.
        FundingSourceRefused: too many sessions are open.
    """
    held = reservations or NOTHING_RESERVED
    released = release(held, needs, now)
    after = fold(held, released) or held
    if reading.slot < after.slot:
        raise ReadingTooOld(f"the reading is of slot {reading.slot}, {after.slot} is needed")
    if len(after.open) >= RESERVATIONS_MAX:
        raise FundingSourceRefused(
            f"{len(after.open)} sessions are open on this funding source; close some first",
            TOO_MANY_SESSIONS,
        )
    reserved = sum(_needed(one, needs) for one in after.open)
    limit = reading.available if spend_limit is None else min(reading.available, spend_limit)
    if reserved + deposit > limit:
        raise DepositExceeded(
            f"{deposit} is asked for and {reserved} is reserved for open sessions, "
            f"of {limit} that may be spent"
        )
    reservation = e.DepositReserved(
        at=now, stream_id=stream_id, amount=deposit, available=reading.available, slot=reading.slot
    )
    return [*released, reservation]


def release(
    reservations: Reservations | None, needs: Mapping[str, Need], now: UnixMillis
) -> list[e.FundingEvent]:
    """Release the deposits of sessions that have ended; those released before are no event."""
    return [
        e.DepositReleased(at=now, stream_id=one.stream_id, slot=need.slot)
        for one in (() if reservations is None else reservations.open)
        if (need := needs.get(one.stream_id)) is not None and need.amount == 0
    ]


def _needed(one: Reservation, needs: Mapping[str, Need]) -> int:
    need = needs.get(one.stream_id)
    return one.amount if need is None else min(one.amount, need.amount)


def fold(reservations: Reservations | None, new: Iterable[e.FundingEvent]) -> Reservations | None:
    """The reservations after `new`."""
    for event in new:
        reservations = _evolve(reservations or NOTHING_RESERVED, event)
    return reservations


def _evolve(held: Reservations, event: e.FundingEvent) -> Reservations:
    others = tuple(one for one in held.open if one.stream_id != event.stream_id)
    match event:
        case e.DepositReserved():
            if len(others) != len(held.open):
                raise Corrupt("a session's deposit was reserved twice")
            return Reservations((*others, Reservation(event.stream_id, event.amount)), held.slot)
        case e.DepositReleased():
            if len(others) == len(held.open):
                raise Corrupt("a deposit was released that was not reserved")
            return Reservations(others, max(held.slot, event.slot or held.slot))
