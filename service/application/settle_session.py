"""Carry a settlement one step further: observe, decide, one effect, one append.

What may be done is decided by `next_step` alone; this module only reads, signs, sends and appends
what it says. Nothing is remembered between steps but the time of the last send, so a process that
dies anywhere is continued by any other.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar, assert_never

import structlog

from service.domain import events as e
from service.domain.errors import SessionNotFound, Unavailable
from service.domain.onchain import TransferOrder, chain_id_of
from service.domain.settlement import Attempt, Settlement, Settling
from service.domain.settlement_plan import (
    Accounts,
    Draft,
    Observation,
    SettlementPolicy,
    fee_of,
    named,
)
from service.domain.settlement_steps import (
    Done,
    Fetch,
    ReadAccounts,
    ReadHeights,
    Reading,
    ReadStatus,
    Record,
    Send,
    SignDraft,
    Wait,
    next_step,
)
from service.domain.terms import FundingKind
from service.domain.units import UnixMillis
from service.ports import Chain, Clock, Cluster, FundingSource, Ledger, Signer
from session_ledger.encoding import base58_encode

T = TypeVar("T")

_SENDS_REMEMBERED: Final = 10_000

log: Final = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Keys:
    """The two keys of a settlement transaction; they may be one.

    `sources` say how money leaves the payer's account, `authority` signs for it.
    """

    sources: Mapping[FundingKind, FundingSource]
    authority: Signer
    fee_payer: Signer

    def __post_init__(self) -> None:
        if any(source.pubkey != self.authority.pubkey for source in self.sources.values()):
            raise ValueError("a funding source's key and its signer's key differ")


class SettleSession:
    """Settles sessions, and sees payments through. Safe to run in several processes at once, on the
    same settlement too.

    `cluster` says which database cluster answers and which is trusted (rule R4); the name of the
    first is recorded with each attempt.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        chain: Chain,
        keys: Keys,
        clock: Clock,
        policy: SettlementPolicy,
        cluster: Callable[[], Awaitable[Cluster]],
    ) -> None:
        self._ledger = ledger
        self._chain = chain
        self._keys = keys
        self._clock = clock
        self._policy = policy
        self._cluster = cluster
        self._sent_at: dict[str, UnixMillis] = {}

    async def advance(self, stream_id: str) -> UnixMillis | None:
        """One step; gives when to look again, in Unix milliseconds.

        `None`: nothing more to do, because the settlement is terminal, does not exist yet, or is
        parked until an operator acts. Safe to repeat and to cancel at any point.

        Raises:
            SessionNotFound: the stream does not exist.
            DatabaseUnavailable: the log cannot be read, or an append has no known outcome; the
                next call finds out.
            Corrupt: the log breaks the rules of settlements.
        """
        # Fresh from the primary: whatever is sent below is what the log was shown to hold (I3).
        found = await self._ledger.settling(stream_id)
        if found is None:
            raise SessionNotFound(f"no stream {stream_id!r}")
        settlement = found.settlement
        if settlement is None:
            return None
        try:
            step = await self._observe(settlement)
        except Unavailable as error:
            log.warning("settlement_waits", stream=stream_id, cause=error.code, detail=error.detail)
            return self._after(self._policy.resend_millis)
        match step:
            case Record():
                await self._record(stream_id, settlement, step.event)
                return self._clock.now()
            case Send():
                await self._send(stream_id, settlement, step.attempt)
                return self._after(self._policy.poll_millis)
            case Wait():
                if step.alarm:
                    log.error("settlement_alarm", stream=stream_id, alarm=step.alarm)
                return step.until
            case Done():
                self._forget(settlement)
                return None
            case _:
                assert_never(step)

    async def _observe(self, settlement: Settlement) -> Record | Send | Wait | Done:
        """Read what the decision asks for, one reading at a time, until it is made."""
        attempt = settlement.live_attempt
        sent_at = attempt and self._sent_at.get(attempt.signature)
        seen = Observation(provider=self._chain.name, sent_at=sent_at)
        while True:
            step = next_step(settlement, seen, self._clock.now(), self._policy)
            match step:
                case Record() | Send() | Wait() | Done():
                    return step
                case _:
                    seen = await self._read(step, seen)

    async def _read(self, reading: Reading, seen: Observation) -> Observation:
        match reading:
            case ReadAccounts():
                return replace(seen, accounts=await self._accounts(reading.order))
            case SignDraft():
                return replace(seen, draft=await self._draft(reading.order))
            case ReadStatus():
                return replace(seen, status=await self._chain.signature_status(reading.signature))
            case ReadHeights():
                return replace(seen, heights=await self._chain.heights())
            case Fetch():
                found = await self._chain.finalized_transaction(reading.signature)
                return replace(seen, fetched="nothing" if found is None else found)
            case _:
                assert_never(reading)

    async def _accounts(self, order: TransferOrder) -> Accounts:
        fee_payer = self._keys.fee_payer.pubkey
        cluster = await self._cluster()
        accounts = Accounts(
            chain_id=chain_id_of(await self._chain.genesis_hash()),
            authority=self._keys.authority.pubkey,
            fee_payer=fee_payer,
            fee_payer_lamports=await self._chain.lamports(fee_payer),
            source=await self._keys.sources[order.authority_kind].source_finding(order),
            destination=await self._chain.token_account(order.destination, "confirmed"),
            database_trusted=cluster.current == cluster.trusted,
        )
        runway = accounts.fee_payer_lamports // fee_of(replace(order, fee_payer=fee_payer))
        if runway < self._policy.fee_payer_runway:
            log.warning("fee_payer_low", fee_payer=fee_payer, settlements_left=runway)
        return accounts

    async def _draft(self, order: TransferOrder) -> Draft:
        """Build, sign and simulate (R1). The bytes stay in memory and are never sent from here."""
        blockhash = await self._chain.latest_blockhash()
        source = self._keys.sources[order.authority_kind]
        unsigned = source.unsigned(order, blockhash.blockhash)
        signatures = {
            signer.pubkey: await signer.sign(unsigned.message)
            for signer in (self._keys.fee_payer, self._keys.authority)
        }
        transaction = unsigned.signed(signatures)
        return Draft(
            order=order,
            transaction=transaction,
            signature=base58_encode(signatures[unsigned.signers[0]]),
            message_hash=hashlib.sha256(unsigned.message).digest(),
            blockhash=blockhash,
            fee=fee_of(order),
            cluster_id=(await self._cluster()).current,
            simulation=await self._chain.simulate(transaction),
        )

    async def _send(self, stream_id: str, settlement: Settlement, attempt: Attempt) -> None:
        """Send the log's bytes (R3). No answer to a send is evidence of anything (I7)."""
        try:
            result = await self._chain.send(named(attempt.transaction))
        except Unavailable as error:
            result = error.code
        now = self._clock.now()
        if len(self._sent_at) >= _SENDS_REMEMBERED:
            self._sent_at.clear()  # forgotten sends are sent again, which harms nothing
        self._sent_at[attempt.signature] = now
        log.info("settlement_sent", stream=stream_id, attempt=attempt.number, result=result)
        if attempt.state == "signed":
            sent = e.AttemptSent(
                at=now,
                settlement_id=settlement.settlement_id,
                number=attempt.number,
                provider=self._chain.name,
                result=result,
            )
            await self._record(stream_id, settlement, sent)

    async def _record(self, stream_id: str, seen: Settlement, event: e.Event) -> None:
        """Append `event`, unless the settlement moved on since it was read.

        A decision holds for the state it was made from and for no other: when another worker was
        first, ours is dropped, and with it a draft that nobody has seen.
        """

        def decide(found: Settling) -> list[e.Event]:
            return [event] if found.settlement == seen else []

        after = await _uninterrupted(self._ledger.record(stream_id, decide))
        was_first = after.settlement != seen
        log.info("settlement_event", stream=stream_id, type=type(event).__name__, first=was_first)

    def _after(self, millis: int) -> UnixMillis:
        return UnixMillis(self._clock.now() + millis)

    def _forget(self, settlement: Settlement) -> None:
        for attempt in settlement.attempts:
            self._sent_at.pop(attempt.signature, None)


async def _uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Let an append finish although its caller is cancelled (R6).

    A cancelled query may still commit, but unreplicated and unseen; so it is never cancelled.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
