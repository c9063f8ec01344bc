"""The system clock."""

import time

from service.domain.units import UnixMillis


class SystemClock:
    """See `Clock`."""

    def now(self) -> UnixMillis:
        """The time of day in Unix milliseconds."""
        return UnixMillis(time.time_ns() // 1_000_000)
