"""The right to stream on one channel, held in the ledger for a while at a time."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final
from uuid import uuid4

from session_ledger.seller.errors import SellerError
from session_ledger.seller.server import SessionServer

RENEWALS: Final = 3
"""Times that it is renewed within its time to live."""


class Lease:
    """One holder's lease. It counts its own time from before the request, so that it ends here
    before it ends in the ledger."""

    def __init__(self, server: SessionServer, channel_id: str, seconds: int) -> None:
        self._server = server
        self._channel_id = channel_id
        self._seconds = seconds
        self._holder = str(uuid4())
        self._until = 0.0
        self._renewing: asyncio.Task[None] | None = None

    @property
    def held(self) -> bool:
        """Whether nobody else can have it now."""
        return time.monotonic() < self._until

    async def take(self) -> bool:
        """Take it, or renew it; False while another one holds it.

        Raises:
            LedgerUnavailable, LedgerRefused: the ledger did not say.
        """
        asked = time.monotonic()
        taken = await self._server.lease(self._channel_id, self._holder, self._seconds)
        self._until = asked + self._seconds if taken else 0.0
        return taken

    def keep(self, lost: Callable[[], None]) -> None:
        """Renew it in the background; `lost` is called once if that fails for too long."""

        async def renew() -> None:
            while self.held:
                await asyncio.sleep(self._seconds / RENEWALS)
                with suppress(SellerError):  # it may still be renewed before it ends
                    await self.take()
            lost()

        self._renewing = asyncio.create_task(renew(), name="lease")

    async def release(self) -> None:
        """Give it back. Where the ledger cannot be told, it ends by itself."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
        self._until = 0.0
        with suppress(SellerError):
            await self._server.release(self._channel_id, self._holder)
