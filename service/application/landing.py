"""Bringing a buyer's signed transactions onto the chain: one after the other, these bytes only."""

import asyncio
from typing import Final

from service.domain.errors import SimulationFailed, TransactionExpired
from service.domain.units import Slot
from service.domain.wallet_events import IssuedTransaction, OnboardingIssued, OnboardingSubmitted
from service.ports import Chain

POLL_SECONDS: Final = 0.25
POLLS_BETWEEN_SENDS: Final = 8

_LANDED: Final = ("confirmed", "finalized")


class Landing:
    """Every method raises `ChainUnavailable`, and may be cancelled and repeated at any time."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    async def simulate(self, wire: bytes) -> None:
        """Make sure that the chain would take the transaction, or has taken it.

        Raises:
            TransactionExpired: its blockhash is not known, or no longer.
            SimulationFailed: it would fail.
        """
        simulation = await self._chain.simulate(wire)
        if simulation.error in (None, "AlreadyProcessed"):
            return
        if simulation.error == "BlockhashNotFound":
            raise TransactionExpired("its blockhash is too old, or not known to the cluster")
        raise SimulationFailed(f"{simulation.error}; {' '.join(simulation.logs[-2:])}")

    async def land(self, issued: OnboardingIssued, submitted: OnboardingSubmitted) -> Slot:
        """Send until all are confirmed; gives the last one's slot.

        Raises:
            TransactionExpired: one did not land in time, and never will.
            SimulationFailed: one failed, or would fail.
        """
        slot = Slot(0)
        sent = zip(issued.transactions, submitted.transactions, submitted.signatures, strict=True)
        for number, (asked, wire, signature) in enumerate(sent):
            # The first was simulated before it was submitted; the next ones need it to land.
            slot = await self._land(asked, wire, signature, simulated=number == 0)
        return slot

    async def landed(self, submitted: OnboardingSubmitted) -> Slot | None:
        """The last one's slot, if all are confirmed without an error."""
        slot = None
        for signature in submitted.signatures:
            status = await self._chain.signature_status(signature)
            if status.error is not None or status.level not in _LANDED:
                return None
            slot = status.slot
        return slot

    async def is_over(self, issued: OnboardingIssued, submitted: OnboardingSubmitted) -> bool:
        """Whether all have landed, one has failed, or one can never land.

        The height is read first: what is unknown afterwards and was too old before never lands.
        """
        tip = (await self._chain.heights()).tip
        for asked, signature in zip(issued.transactions, submitted.signatures, strict=True):
            status = await self._chain.signature_status(signature)
            if status.error is not None:
                return True
            if status.level is None:
                return tip > asked.last_valid_block_height
            if status.level not in _LANDED:
                return False
        return True

    async def _land(
        self, asked: IssuedTransaction, wire: bytes, signature: str, *, simulated: bool
    ) -> Slot:
        poll = 0
        while True:
            sending = poll % POLLS_BETWEEN_SENDS == 0
            tip = (await self._chain.heights()).tip if sending else 0
            status = await self._chain.signature_status(signature)
            if status.error is not None:
                raise SimulationFailed(f"{asked.type} failed on the chain: {status.error}")
            if status.level in _LANDED and status.slot is not None:
                return status.slot
            if status.level is None and sending:
                if tip > asked.last_valid_block_height:
                    raise TransactionExpired(f"{asked.type} did not land in time")
                if not simulated:
                    await self.simulate(wire)
                    simulated = True
                await self._chain.send(wire)
            await asyncio.sleep(POLL_SECONDS)
            poll += 1
