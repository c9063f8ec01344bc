"""Who delivers on a channel at the moment. No money, so beside the log."""

from typing import Protocol

from service.domain.units import UnixMillis


class LeaseStore(Protocol):
    """Leases by seller and channel, each with one holder until it ends.

    Every method raises `DatabaseUnavailable` when it cannot answer.
    """

    async def take(
        self, seller_id: str, channel_id: str, holder: str, seconds: int
    ) -> UnixMillis | None:
        """Take a free or ended lease, or renew one's own; when it will end, `None` while another
        one holds it. The database's clock decides."""
        ...

    async def release(self, seller_id: str, channel_id: str, holder: str) -> None:
        """Give a lease back. One that `holder` does not hold stays as it is."""
        ...
