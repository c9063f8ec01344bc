"""Time on the local chain: slots, block heights, commitment levels and recent blockhashes."""

import time
from collections.abc import Callable
from enum import StrEnum
from hashlib import sha256
from typing import Final

from solders.hash import Hash

from service.local.chain.genesis import FIRST_SLOT, SKIPPED_SLOTS

BLOCKHASH_WINDOW: Final = 150
"""Blocks for which a blockhash stays usable after the block that it names."""


_REMEMBERED_BLOCKHASHES: Final = 300
"""Blocks whose hashes are known at all, as on a validator: old levels still use some of them."""


class Level(StrEnum):
    """Solana's commitment levels, weakest first."""

    PROCESSED = "processed"
    CONFIRMED = "confirmed"
    FINALIZED = "finalized"


def height_of(slot: int) -> int:
    """The block height of `slot`; every slot since genesis has a block."""
    return slot - SKIPPED_SLOTS


class SlotClock:
    """Slots counted by a monotonic clock; it can be paused and pushed forward, never back."""

    def __init__(
        self, *, slot: int, slot_seconds: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.slot_seconds = slot_seconds
        self._monotonic = monotonic
        self._base_slot = slot
        self._base_time: float | None = monotonic()

    def slot(self) -> int:
        """The current slot."""
        if self._base_time is None:
            return self._base_slot
        return self._base_slot + int((self._monotonic() - self._base_time) / self.slot_seconds)

    def advance(self, slots: int) -> None:
        """Adds `slots` at once, whether paused or not."""
        self._base_slot += slots

    def pause(self) -> None:
        """Holds the current slot until `resume`. Pausing twice is pausing once."""
        self._base_slot, self._base_time = self.slot(), None

    def resume(self) -> None:
        """Lets time run again from the current slot."""
        self._base_slot, self._base_time = self.slot(), self._monotonic()


class RecentBlockhashes:
    """The blockhashes that a transaction may carry now.

    A blockhash is a function of the chain's random salt and the block height, so the window needs
    no storage and a restart knows the same hashes; another chain's hashes are unknown here.
    """

    def __init__(self, salt: bytes) -> None:
        self._salt = salt
        self._heights: dict[Hash, int] = {}
        self._newest = height_of(FIRST_SLOT) - 1

    def at(self, height: int) -> Hash:
        """The blockhash of the block at `height`."""
        preimage = b"session-ledger local blockhash" + self._salt + height.to_bytes(8, "big")
        return Hash(sha256(preimage).digest())

    def advance(self, height: int) -> None:
        """Moves the window so that `height` is its newest block."""
        oldest = height - _REMEMBERED_BLOCKHASHES
        for known in range(max(oldest, self._newest + 1), height + 1):
            self._heights[self.at(known)] = known
        for blockhash in [h for h, known in self._heights.items() if known < oldest]:
            del self._heights[blockhash]
        self._newest = height

    def usable(self, blockhash: Hash, at_height: int) -> bool:
        """Whether a block at `at_height` would take a transaction with `blockhash`.

        It would from the block that the hash names up to its `lastValidBlockHeight`.
        """
        height = self._heights.get(blockhash)
        return height is not None and 0 <= at_height - height <= BLOCKHASH_WINDOW
