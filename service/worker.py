"""The settlement worker: picks up settlements that are not terminal and advances each.

Leases spare work when several workers run; they decide nothing. Whoever holds none may still
advance a settlement, and the log sorts it out.
"""

import asyncio
import uuid
from contextlib import suppress
from typing import Final

import structlog

from service.bootstrap import Services
from service.domain.errors import LedgerError
from service.domain.units import UnixMillis

log = structlog.get_logger()

LEASE_SECONDS: Final = 15
"""Also how long a settlement waits when its worker is killed, and between looks at a parked one."""
HOLD_SECONDS: Final = 10
PICK_UP_SECONDS: Final = 0.25
HELD_MAX: Final = 256
"""Settlements advanced at the same time by one worker.

All may step in one moment: what they read of the log and of the chain is read together (ADR 0021).
"""
ERROR_SECONDS: Final = 2.0
SWEEP_SECONDS: Final = 60.0
_MILLIS: Final = 1_000


class SettlementWorker:
    """One for one process. `run` until `services.stopping` is set."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._holder = uuid.uuid4()
        self._held: dict[str, asyncio.Task[None]] = {}
        self._sweep_at = 0.0

    async def run(self) -> None:
        """Pick up and advance until the process stops; then let go."""
        stopping = self._services.stopping
        while not stopping.is_set():
            try:
                await self._pick_up()
                await self._sweep_keys()
            except LedgerError as error:
                log.warning("settlements_not_picked_up", code=error.code, detail=error.detail)
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), PICK_UP_SECONDS)
        for task in self._held.values():
            task.cancel()
        await asyncio.gather(*self._held.values(), return_exceptions=True)

    async def _pick_up(self) -> None:
        room = HELD_MAX - len(self._held)
        if room <= 0:
            return
        leased = await self._services.queries.lease_settlements(
            self._holder, seconds=LEASE_SECONDS, limit=room
        )
        for stream_id in leased:
            if stream_id not in self._held:
                task = asyncio.create_task(self._see_through(stream_id), name=stream_id)
                self._held[stream_id] = task
                task.add_done_callback(lambda _, name=stream_id: self._held.pop(name, None))
        self._services.metrics.open_settlements.set(len(self._held))

    async def _sweep_keys(self) -> None:
        """Once in a while, forget the keys of sessions that sellers or the watcher closed."""
        now = asyncio.get_running_loop().time()
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_SECONDS
            if forgotten := await self._services.buyers.keys.sweep():
                log.info("session_keys_forgotten", count=forgotten)

    async def _see_through(self, stream_id: str) -> None:
        """Advance one settlement for a while, then let any worker take it.

        One that waits for people keeps its lease, so that it is looked at once in a while only; a
        resumed one loses it with the event that resumes it, and is picked up at once.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + HOLD_SECONDS
        while loop.time() < until:
            delay = await self._step(stream_id)
            if delay is None:
                return
            await asyncio.sleep(min(delay, max(0.0, until - loop.time())))
        with suppress(LedgerError):
            await self._services.queries.release_settlement(self._holder, stream_id)

    async def _step(self, stream_id: str) -> float | None:
        """Seconds until the next look; `None` when there is nothing more to do for now."""
        services = self._services
        try:
            next_look = await services.settle.advance(stream_id)
        except LedgerError as error:
            log.warning(
                "settlement_step_failed", stream=stream_id, code=error.code, detail=error.detail
            )
            return ERROR_SECONDS
        if next_look is None:
            return None
        return self._seconds_until(next_look)

    def _seconds_until(self, moment: UnixMillis) -> float:
        return max(0.0, (moment - self._services.clock.now()) / _MILLIS)
