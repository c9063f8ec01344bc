"""The watchers: look at open sessions, and at accepted payments that are not final yet, when they
are due, in every process that settles.

Leases share them out between the processes; none of them remembers a deadline.
"""

import asyncio
from typing import Final

import structlog

from service.application.recheck_payments import BATCH as PAYMENTS_BATCH
from service.application.watch_sessions import BATCH, Looked
from service.bootstrap import Services
from service.domain.errors import LedgerError

log = structlog.get_logger()

PICK_UP_SECONDS: Final = 0.5
LANES: Final = 4
"""Looks at the same time while there is a backlog."""
_REPORTED_MAX: Final = 10_000


class SessionWatcher:
    """One for one process. `run` until `services.stopping` is set."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._blind = False
        self._reported: dict[tuple[str, str], None] = {}

    async def run(self) -> None:
        """Look at whatever is due until the process stops."""
        stopping = asyncio.create_task(self._services.stopping.wait())
        lanes = 1
        try:
            while not stopping.done():
                looks = asyncio.gather(*(self._look() for _ in range(lanes)))
                await asyncio.wait((looks, stopping), return_when=asyncio.FIRST_COMPLETED)
                if not looks.done():
                    looks.cancel()
                    await asyncio.wait((looks,))
                    return
                lanes = LANES if BATCH in looks.result() else 1
                if lanes == 1:
                    await asyncio.wait((stopping,), timeout=PICK_UP_SECONDS)
        finally:
            stopping.cancel()

    async def _look(self) -> int:
        """One look; gives how many sessions were due."""
        try:
            looked = await self._services.watch.look()
        except LedgerError as error:
            log.warning("sessions_not_watched", code=error.code, detail=error.detail)
            return 0
        self._report(looked)
        self._count(looked)
        return looked.sessions

    def _report(self, looked: Looked) -> None:
        """Say what was found; what stays so is said once."""
        if looked.unread is not None and not self._blind:
            log.warning("funding_not_read", code=looked.unread.code, detail=looked.unread.detail)
        elif looked.unread is None and looked.read and self._blind:
            log.info("funding_read_again", count=looked.read)
        if looked.unread is not None or looked.read:
            self._blind = looked.unread is not None
        for stream_id, funding in looked.funding:
            log.info("funding_changed", stream=stream_id, state=funding)
        for stream_id, reason in looked.closed:
            log.info("session_auto_closed", stream=stream_id, reason=reason)
        for stream_id, error in looked.failed:
            if self._is_new(stream_id, error.code):
                log.warning(
                    "session_not_watched", stream=stream_id, code=error.code, detail=error.detail
                )
        for stream_id in looked.without_source:
            if self._is_new(stream_id, "no_source"):
                log.warning("session_not_auto_closed", stream=stream_id, cause="no funding source")

    def _is_new(self, stream_id: str, what: str) -> bool:
        """Whether this process has not said it of the session yet; now it has."""
        key = stream_id, what
        if key in self._reported:
            return False
        self._reported[key] = None
        if len(self._reported) > _REPORTED_MAX:
            del self._reported[next(iter(self._reported))]
        return True

    def _count(self, looked: Looked) -> None:
        metrics = self._services.metrics
        metrics.sessions_watched.inc(looked.sessions)
        for _, reason in looked.closed:
            metrics.auto_closes.labels(reason).inc()
        for _, funding in looked.funding:
            metrics.funding_changes.labels(funding).inc()


class PaymentWatcher:
    """One for one process. `run` until `services.stopping` is set."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._blind = False

    async def run(self) -> None:
        """Look at whatever is due until the process stops."""
        stopping = asyncio.create_task(self._services.stopping.wait())
        try:
            while not stopping.done():
                look = asyncio.create_task(self._look())
                await asyncio.wait((look, stopping), return_when=asyncio.FIRST_COMPLETED)
                if not look.done():
                    look.cancel()
                    await asyncio.wait((look,))
                    return
                if look.result() < PAYMENTS_BATCH:
                    await asyncio.wait((stopping,), timeout=PICK_UP_SECONDS)
        finally:
            stopping.cancel()

    async def _look(self) -> int:
        """One look; gives how many payments were due, and none when the chain does not answer:
        then there is no hurry."""
        try:
            looked = await self._services.direct.recheck.look()
        except LedgerError as error:
            log.warning("payments_not_watched", code=error.code, detail=error.detail)
            return 0
        if looked.unread is not None and not self._blind:
            log.warning("payments_not_read", code=looked.unread.code, detail=looked.unread.detail)
        if looked.payments:
            self._blind = looked.unread is not None
        for signature, error in looked.failed:
            log.warning("payment_not_watched", signature=signature, code=error.code)
        outcomes = self._services.metrics.direct_payments
        outcomes.labels("finalized").inc(looked.finalized)
        for signature, seller_id, cause in looked.reversed:
            outcomes.labels("reversed").inc()
            log.error("payment_reversed", signature=signature, seller_id=seller_id, cause=cause)
        return 0 if looked.unread is not None else looked.payments
