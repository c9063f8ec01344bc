"""Polling with a deadline, in place of a sleep for luck."""

import time
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

DEADLINE_SECONDS: Final = 30


def until(holds: Callable[[], T], *, seconds: float = DEADLINE_SECONDS) -> T:
    """What `holds` gives once it is true-ish, polled until a deadline."""
    deadline = time.monotonic() + seconds
    while True:
        seen = holds()
        if seen:
            return seen
        assert time.monotonic() < deadline, f"still {seen!r} after {seconds} s"
        time.sleep(0.05)
