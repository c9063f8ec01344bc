"""Many accounts by few requests."""

from collections.abc import Sequence
from typing import Final

from service.domain.onchain import RawAccount
from service.domain.units import Slot
from service.ports import Chain

ACCOUNTS_PER_READ: Final = 100
"""Spec: Solana JSON-RPC, `getMultipleAccounts`."""


async def read_all(chain: Chain, addresses: Sequence[str]) -> list[tuple[Slot, RawAccount | None]]:
    """Each account with the slot it was read at, at `confirmed`, in the order asked for.

    Raises:
        ChainUnavailable: no provider answers.
    """
    found: list[tuple[Slot, RawAccount | None]] = []
    for start in range(0, len(addresses), ACCOUNTS_PER_READ):
        reading = await chain.accounts(addresses[start : start + ACCOUNTS_PER_READ], "confirmed")
        found += [(reading.slot, account) for account in reading.accounts]
    return found
