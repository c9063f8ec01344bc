"""Looking again at accepted payments until the chain can take none of them back.

A payment accepted at `confirmed` stands in a fork that may still lose. Each look leases a batch
that is due, asks the chain, and appends the end: finalized with its credit, or reversed with the
evidence. A signature that is missing is gone for good only when the finalized height is past the
life of every blockhash that could carry it, counted from when it was first missing, and the
provider's history reaches back to where the payment stood.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from service.application.commit import Ledger
from service.application.streams import direct_stream
from service.domain.direct_events import DirectEvent, ReversalCause
from service.domain.direct_payment import DirectPayment, finalize, reverse
from service.domain.errors import ChainUnavailable, LedgerError
from service.domain.limits import BLOCKHASH_WINDOW_BLOCKS, EXPIRY_MARGIN_BLOCKS
from service.ports import Chain, Clock, DirectStore, DuePayment, NextCheck

BATCH: Final = 50
LEASE_SECONDS: Final = 30.0
"""How long the payments of a process that was killed wait for another, at most."""
_AT_ONCE: Final = 16
"""Payments whose chain is asked at the same time."""


@dataclass(slots=True)
class Rechecked:
    """What one look found. `reversed` holds signature, seller and cause."""

    payments: int = 0
    finalized: int = 0
    reversed: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])
    failed: list[tuple[str, LedgerError]] = field(default_factory=list[tuple[str, LedgerError]])
    unread: ChainUnavailable | None = None


class RecheckPayments:
    """One for one process; looks may run at the same time, here and in other processes."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        store: DirectStore,
        chain: Chain,
        clock: Clock,
        every_seconds: float,
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._chain = chain
        self._clock = clock
        self._every_seconds = every_seconds
        self._asking = asyncio.Semaphore(_AT_ONCE)

    async def look(self) -> Rechecked:
        """Look at a batch of payments that are due. What goes wrong with one holds up no other.

        Raises:
            DatabaseUnavailable: the database does not answer; what was leased is due again soon.
        """
        due = await self._store.lease_payments(seconds=LEASE_SECONDS, limit=BATCH)
        looked = Rechecked(payments=len(due))
        checks = await asyncio.gather(*(self._look_at(one, looked) for one in due))
        if later := [check for check in checks if check is not None]:
            await self._store.schedule_checks(later)
        return looked

    async def _look_at(self, due: DuePayment, looked: Rechecked) -> NextCheck | None:
        """One payment; gives when to look again, `None` when it has ended."""
        again = NextCheck(due.signature, self._every_seconds, due.missing_height)
        try:
            async with self._asking:
                return await self._judge(due, looked)
        except ChainUnavailable as error:
            looked.unread = error
        except LedgerError as error:
            looked.failed.append((due.signature, error))
        return again

    async def _judge(self, due: DuePayment, looked: Rechecked) -> NextCheck | None:
        held = await self._ledger.read(direct_stream(due.signature))
        if held is None or held.state is None or held.state.status != "accepted":
            return None
        status = await self._chain.signature_status(due.signature)
        if status.level == "finalized":
            return await self._judge_finalized(held.state, looked)
        if status.level is not None:
            return NextCheck(due.signature, self._every_seconds, None)
        return await self._judge_missing(held.state, due.missing_height, looked)

    async def _judge_missing(
        self, payment: DirectPayment, missing: int | None, looked: Rechecked
    ) -> NextCheck | None:
        """A signature that the chain does not know: not yet again, or never again?"""
        signature = payment.accepted.signature
        # The heights first: a status that is older than they are proves nothing.
        heights = await self._chain.heights()
        status = await self._chain.signature_status(signature)
        if status.level is not None:
            return NextCheck(signature, self._every_seconds, None)
        if missing is None:
            return NextCheck(signature, self._every_seconds, heights.tip)
        expired = heights.finalized > missing + BLOCKHASH_WINDOW_BLOCKS + EXPIRY_MARGIN_BLOCKS
        complete = heights.first_available_slot <= payment.slot
        if not expired or not complete or status.context_slot < heights.finalized_slot:
            return NextCheck(signature, self._every_seconds, missing)
        evidence = {
            "provider": self._chain.name,
            "missingHeight": missing,
            "finalizedHeight": heights.finalized,
            "finalizedSlot": heights.finalized_slot,
            "firstAvailableSlot": heights.first_available_slot,
            "contextSlot": status.context_slot,
        }
        await self._reverse(payment, "dropped", evidence, looked)
        return None

    async def _judge_finalized(self, payment: DirectPayment, looked: Rechecked) -> NextCheck | None:
        accepted = payment.accepted
        tx = await self._chain.transaction(accepted.signature, "finalized")
        if tx is None:  # the provider is behind its own status
            return NextCheck(accepted.signature, self._every_seconds, None)
        credit = tx.net(accepted.pay_to, accepted.asset)
        evidence: dict[str, Any] = {"provider": self._chain.name, "slot": tx.slot}
        if tx.error is not None:
            await self._reverse(payment, "failed", {**evidence, "error": tx.error}, looked)
        elif credit < accepted.required:
            await self._reverse(
                payment, "not_credited", {**evidence, "credit": str(credit)}, looked
            )
        else:
            now = self._clock.now()
            ended = await self._append(payment, lambda held: finalize(held, tx.slot, now))
            looked.finalized += ended  # after the await: others of the batch count too
        return None

    async def _reverse(
        self,
        payment: DirectPayment,
        cause: ReversalCause,
        evidence: dict[str, Any],
        looked: Rechecked,
    ) -> None:
        now = self._clock.now()
        if await self._append(payment, lambda held: reverse(held, cause, evidence, now)):
            looked.reversed.append((payment.accepted.signature, payment.seller_id, cause))

    async def _append(
        self, payment: DirectPayment, decide: Callable[[DirectPayment], Sequence[DirectEvent]]
    ) -> bool:
        """Whether this process, of all that may look at the moment, appended the end."""

        def decide_existing(held: DirectPayment | None) -> Sequence[DirectEvent]:
            return () if held is None else decide(held)

        stream = direct_stream(payment.accepted.signature)
        return bool((await self._ledger.commit(stream, decide_existing)).events)
