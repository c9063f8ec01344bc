"""When a session is closed without being asked: the operator's bounds, and the session's own.

Nothing here is a timer: a session says at any moment whether it is due and when to look again, so
a deadline survives whatever happens to the process that looked last.
"""

from dataclasses import dataclass
from typing import Literal

from service.domain.session import MILLIS, Session
from service.domain.units import AtomicUsdc, UnixMillis

AutoCloseReason = Literal["idle", "age", "amount", "headroom"]


@dataclass(frozen=True, slots=True)
class AutoClosePolicy:
    """The operator's bounds of every session; `None` is no bound.

    `idle_seconds` is for sessions that bring no idle timeout of their own. `headroom` is the least,
    in atomic units, that a funding source should hold beyond what is owed out of it.
    """

    idle_seconds: int | None = None
    age_seconds: int | None = None
    amount: AtomicUsdc | None = None
    headroom: AtomicUsdc | None = None


@dataclass(frozen=True, slots=True)
class SourceLoad:
    """What a funding source can pay, and what all sessions together are owed out of it."""

    available: AtomicUsdc
    unsettled: AtomicUsdc

    @property
    def headroom(self) -> int:
        """What is left, in atomic units; negative when the source cannot pay them all."""
        return self.available - self.unsettled


def close_reason(
    session: Session, policy: AutoClosePolicy, load: SourceLoad | None, now: UnixMillis
) -> AutoCloseReason | None:
    """Why the session is to be closed now; `None` when it stays open.

    Low headroom closes sessions that are owed something while the source still pays anything: who
    settles first is paid. `load` is unknown where the chain did not say.
    """
    if session.state != "open":
        return None
    idle_at, old_at = _idle_at(session, policy), _old_at(session, policy)
    if idle_at is not None and idle_at <= now:
        return "idle"
    if old_at is not None and old_at <= now:
        return "age"
    if policy.amount is not None and session.owed >= policy.amount:
        return "amount"
    if policy.headroom is None or load is None or session.owed == 0 or load.available == 0:
        return None
    return "headroom" if load.headroom < policy.headroom else None


def next_look(
    session: Session, policy: AutoClosePolicy, now: UnixMillis, *, every_millis: int
) -> UnixMillis:
    """When to look at the session again: in a watch period, or at an earlier deadline of its own.

    A deadline that has passed is none: what kept the session open then is looked at in its turn.
    """
    deadlines = (_idle_at(session, policy), _old_at(session, policy))
    ahead = [at for at in deadlines if at is not None and at > now]
    return UnixMillis(min([now + every_millis, *ahead]))


def _idle_at(session: Session, policy: AutoClosePolicy) -> UnixMillis | None:
    own = session.terms.idle_timeout_seconds
    seconds = policy.idle_seconds if own is None else own
    return None if seconds is None else UnixMillis(session.last_activity_at + seconds * MILLIS)


def _old_at(session: Session, policy: AutoClosePolicy) -> UnixMillis | None:
    seconds = policy.age_seconds
    return None if seconds is None else UnixMillis(session.opened_at + seconds * MILLIS)
