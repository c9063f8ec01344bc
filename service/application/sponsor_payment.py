"""Sponsor one-shot payments: judge a payer's transaction, sign it as fee payer, see it through.

Nothing is signed before the transaction was judged and simulated, and nothing is sent before the
log holds it with all signatures. What happens then is the settlement worker's business, as it is
for sessions. The same transaction is the same payment, however often and wherever it is submitted.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog

from service.application.commit import Ledger, Outcome
from service.application.streams import payment_stream
from service.domain.codec import canonical
from service.domain.errors import (
    ChainUnavailable,
    ClaimTaken,
    DatabaseNotTrusted,
    SellerNotRegistered,
    SponsorshipRefused,
)
from service.domain.events import Dialect, PaymentSubmitted
from service.domain.failures import FAILURES, classify_transfer, is_passing
from service.domain.onchain import LatestBlockhash, UnsignedTransaction
from service.domain.payment import Payment, payment_id, submit_payment
from service.domain.settlement import TERMINAL_STATUSES
from service.domain.sponsorship import (
    ParsedTransaction,
    SponsoredTransfer,
    SponsorPolicy,
    TransferClaim,
    check_inner,
    check_sponsored,
    needs_inner,
)
from service.domain.units import UnixMillis
from service.ports import Chain, Claim, Clock, Cluster, PaymentStore, Signer
from session_ledger.encoding import base58_encode

SUBMIT_SECONDS: Final = 18.0
"""Longest wait for the chain before the log: the client gives up after 30 seconds."""
BLOCKHASH_MILLIS: Final = 1_000
"""How long a prepared blockhash is given to others as well."""
_POLL_SECONDS: Final = 0.1
_DAY_MILLIS: Final = 86_400_000
_SLOT_ATTEMPTS: Final = 20
_BY_ERROR: Final[Mapping[str, tuple[str, str]]] = {
    "BlockhashNotFound": ("blockhash_expired", "the blockhash is unknown or too old"),
    "AlreadyProcessed": ("already_processed", "the chain has it, but this ledger has not sent it"),
}

_OF_ANOTHER_DIALECT: Final[Mapping[Dialect, str]] = {
    "mpp": "already_processed",
    "x402": "duplicate_settlement",
}

log: Final = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SponsorTerms:
    """Whom this deployment sponsors. The caps count payments of one UTC day, of every dialect;
    `None` is no cap."""

    policy: SponsorPolicy
    network: str
    chain_id: str
    sellers_only: bool
    per_day: int | None
    per_seller_per_day: int | None
    dialect: Dialect = "mpp"


@dataclass(frozen=True, slots=True)
class Lookups:
    """What is asked beside the log and the chain.

    `seller_of` gives the registered seller of (recipient, network); `parse` reads wire bytes;
    `advance` takes one step of a stream's settlement.
    """

    payments: PaymentStore
    seller_of: Callable[[str, str], Awaitable[str | None]]
    cluster: Callable[[], Awaitable[Cluster]]
    parse: Callable[[bytes], ParsedTransaction]
    advance: Callable[[str], Awaitable[UnixMillis | None]]


class SponsorPayment:
    """Safe to run in several processes at once, on the same transaction too."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        chain: Chain,
        fee_payer: Signer,
        clock: Clock,
        terms: SponsorTerms,
        lookups: Lookups,
    ) -> None:
        if fee_payer.pubkey != terms.policy.fee_payer:
            raise ValueError("the policy is for another fee payer")
        self._ledger = ledger
        self._chain = chain
        self._fee_payer = fee_payer
        self._clock = clock
        self._terms = terms
        self._lookups = lookups
        self._prepared: tuple[UnixMillis, LatestBlockhash] | None = None
        self._preparing = asyncio.Lock()
        self._counting = asyncio.Lock()

    @property
    def terms(self) -> SponsorTerms:
        """What is sponsored."""
        return self._terms

    async def blockhash(self) -> LatestBlockhash:
        """A recent blockhash to build a transaction with.

        Raises:
            ChainUnavailable: no provider answers.
        """
        async with self._preparing:  # one reading for all who ask at the same moment
            now = self._clock.now()
            if self._prepared is None or not 0 <= now - self._prepared[0] < BLOCKHASH_MILLIS:
                self._prepared = now, await self._chain.latest_blockhash()
            return self._prepared[1]

    async def verify(self, raw: bytes, claim: TransferClaim) -> Payment | str:
        """The payment that the transaction is already, or the payer of one that `settle` would
        submit now. Nothing is signed and nothing is written.

        Raises:
            InvalidTransaction, SponsorshipRefused, SellerNotRegistered, Unavailable: as `settle`.
        """
        parsed = self._lookups.parse(raw)
        payment = await self._find(payment_id(parsed.message))
        if payment is not None:
            _check_same(payment, claim, self._terms.dialect)
            return payment
        transfer, _, _ = await self._judge(parsed, claim)
        await self._numbers(self._clock.now(), transfer.recipient)
        try:
            async with asyncio.timeout(SUBMIT_SECONDS):
                await self._simulate(parsed, transfer)
        except TimeoutError:
            raise ChainUnavailable("the chain did not answer in time") from None
        return transfer.payer

    async def settle(self, raw: bytes, claim: TransferClaim, *, seconds: float) -> Payment:
        """Submit the transaction, or find that it was, and wait for its end or until time is up.

        Raises:
            InvalidTransaction: the bytes are no sound transaction.
            SponsorshipRefused: with the wire's code.
            SellerNotRegistered: only registered sellers are sponsored, and the recipient is none.
            Unavailable: the log, the chain or the key does not answer; the same call may be made
                again.
        """
        deadline = asyncio.get_running_loop().time() + seconds
        parsed = self._lookups.parse(raw)
        name = payment_id(parsed.message)
        payment = await self._find(name)
        if payment is None:
            try:
                payment = await self._submit(parsed, claim)
            except (SponsorshipRefused, ChainUnavailable):
                # Another process may have been first, and the money has moved already.
                payment = await self._find(name)
                if payment is None:
                    raise
        _check_same(payment, claim, self._terms.dialect)
        if payment.settlement.status == "signed":
            await self._lookups.advance(payment_stream(name).stream_id)
        while payment.settlement.status not in TERMINAL_STATUSES:
            remaining = deadline - asyncio.get_running_loop().time()
            if remaining <= 0:
                break
            await asyncio.sleep(min(_POLL_SECONDS, remaining))
            payment = await self._find(name) or payment
        return payment

    async def _find(self, name: str) -> Payment | None:
        """The payment as the database has it now."""
        held = await self._ledger.read(payment_stream(name))
        return None if held is None else held.state

    async def _judge(
        self, parsed: ParsedTransaction, claim: TransferClaim
    ) -> tuple[SponsoredTransfer, str | None, str]:
        """The transfer, the seller that it pays, and the cluster of the log; all but the chain."""
        transfer = check_sponsored(parsed, claim, self._terms.policy)
        seller_id = await self._lookups.seller_of(claim.recipient, self._terms.network)
        if seller_id is None and self._terms.sellers_only:
            raise SellerNotRegistered(f"{claim.recipient} is not a seller of this ledger")
        cluster = await self._lookups.cluster()
        if cluster.current != cluster.trusted:
            # R4: a payment that this log has forgotten may have landed. Nothing is signed.
            raise DatabaseNotTrusted("the database was replaced: an operator has to look first")
        return transfer, seller_id, cluster.current

    async def _submit(self, parsed: ParsedTransaction, claim: TransferClaim) -> Payment:
        """Judge, simulate, sign and log; the bytes are sent by whoever advances the settlement."""
        transfer, seller_id, cluster_id = await self._judge(parsed, claim)
        try:
            async with asyncio.timeout(SUBMIT_SECONDS):
                await self._simulate(parsed, transfer)
                seen = await self._chain.latest_blockhash()
                signature = await self._fee_payer.sign(parsed.message)
        except TimeoutError:
            raise ChainUnavailable("the chain did not answer in time") from None
        submitted = replace(
            self._submitted(parsed, transfer, seen, signature, seller_id, cluster_id),
            resource=claim.resource,
        )
        payment = await self._append(submitted)
        log.info("payment_submitted", settlement_id=payment.payment_id, signature=payment.signature)
        return payment

    async def _simulate(self, parsed: ParsedTransaction, transfer: SponsoredTransfer) -> None:
        """Whether it would succeed; our signature is left out, so nobody can send what is tried."""
        unsigned = UnsignedTransaction(parsed.message, parsed.signers)
        signatures = dict(zip(parsed.signers, parsed.signatures, strict=True))
        trial = unsigned.signed({**signatures, parsed.fee_payer: bytes(64)})
        simulation, account = await asyncio.gather(
            self._chain.simulate(trial, complete=False),
            self._chain.token_account(transfer.destination, "confirmed"),
        )
        if account is None and not transfer.creates_recipient_account:
            raise SponsorshipRefused(
                "recipient_account_missing", FAILURES["recipient_account_missing"].meaning
            )
        if account is not None and account.owner != transfer.recipient:
            raise SponsorshipRefused(
                "recipient_mismatch", f"the recipient's account belongs to {account.owner}"
            )
        error = simulation.error
        if error is None:
            if simulation.inner_programs is None and needs_inner(parsed, self._terms.policy):
                raise ChainUnavailable("the provider does not show what called programs call")
            check_inner(simulation.inner_programs or (), self._terms.policy)
            return
        text = canonical(error).decode()
        if isinstance(error, str) and error in _BY_ERROR:
            raise SponsorshipRefused(*_BY_ERROR[error])
        if is_passing(error):
            raise ChainUnavailable(f"the simulation came to nothing: {text}")
        code = classify_transfer(error)
        raise SponsorshipRefused(
            "insufficient_balance" if code == "insufficient_funds" else "simulation_failed",
            f"{FAILURES[code].meaning} ({text})",
        )

    def _submitted(
        self,
        parsed: ParsedTransaction,
        transfer: SponsoredTransfer,
        seen: LatestBlockhash,
        signature: bytes,
        seller_id: str | None,
        cluster_id: str,
    ) -> PaymentSubmitted:
        unsigned = UnsignedTransaction(parsed.message, parsed.signers)
        signatures = dict(zip(parsed.signers, parsed.signatures, strict=True))
        return PaymentSubmitted(
            at=self._clock.now(),
            payment_id=payment_id(parsed.message),
            dialect=self._terms.dialect,
            seller_id=seller_id,
            payer=transfer.payer,
            recipient=transfer.recipient,
            amount=transfer.amount,
            source=transfer.source,
            destination=transfer.destination,
            mint=transfer.mint,
            decimals=transfer.decimals,
            token_program=self._terms.policy.token_program,
            chain_id=self._terms.chain_id,
            resource=None,
            memo=transfer.memo,
            transaction=unsigned.signed({**signatures, parsed.fee_payer: signature}),
            signature=base58_encode(signature),
            message_hash=hashlib.sha256(parsed.message).digest(),
            blockhash=parsed.blockhash,
            # The blockhash is the payer's and no younger than ours, so ours bounds its life.
            last_valid_block_height=seen.last_valid_block_height,
            tip_height=seen.tip_height,
            min_context_slot=seen.slot,
            first_available_slot=seen.first_available_slot,
            fee=transfer.fee,
            fee_payer=parsed.fee_payer,
            creates_recipient_account=transfer.creates_recipient_account,
            cluster_id=cluster_id,
        )

    async def _append(self, submitted: PaymentSubmitted) -> Payment:
        """The payment in the log: this one, or the same one that another caller submitted."""
        if self._terms.per_day is None and self._terms.per_seller_per_day is None:
            return await self._commit(submitted, ())
        async with self._counting:
            for _ in range(_SLOT_ATTEMPTS):
                with suppress(ClaimTaken):  # another process took the number: count again
                    return await self._commit(submitted, await self._slots(submitted))
            return await self._commit(submitted, await self._slots(submitted))

    async def _commit(self, submitted: PaymentSubmitted, slots: Sequence[Claim]) -> Payment:
        async def claims(outcomes: Sequence[Outcome[Any]]) -> Sequence[Claim]:
            return slots if outcomes[0].events else ()

        outcome = await self._ledger.commit(
            payment_stream(submitted.payment_id),
            lambda payment: submit_payment(payment, submitted),
            claims,
        )
        assert outcome.state is not None
        return outcome.state

    async def _slots(self, submitted: PaymentSubmitted) -> list[Claim]:
        """The next number under each cap, to be claimed with the payment: no two have the same."""
        numbers = await self._numbers(submitted.at, submitted.recipient)
        return [Claim(scope, str(number), submitted.message_hash) for scope, number in numbers]

    async def _numbers(self, now: UnixMillis, recipient: str) -> list[tuple[str, int]]:
        """The scope of each cap that is set, and the next number under it.

        Raises:
            SponsorshipRefused: none is left.
        """
        terms, day = self._terms, now // _DAY_MILLIS
        found: list[tuple[str, int]] = []
        for code, whose, most in (
            ("global_settle_cap_exceeded", None, terms.per_day),
            ("seller_settle_cap_exceeded", recipient, terms.per_seller_per_day),
        ):
            if most is None:
                continue
            used = await self._lookups.payments.submitted(UnixMillis(day * _DAY_MILLIS), whose)
            if used >= most:
                raise SponsorshipRefused(code, f"{most} payments a day are sponsored")
            found.append((f"settle-cap/{day}/{whose or ''}", used + 1))
        return found


def _check_same(payment: Payment, claim: TransferClaim, dialect: Dialect) -> None:
    """Whether a payment that is known already is the one that is claimed.

    Raises:
        SponsorshipRefused: it is of another dialect, or pays another recipient, amount or asset, or
            has another memo than the one asked for.
    """
    if payment.dialect != dialect:
        raise SponsorshipRefused(
            _OF_ANOTHER_DIALECT[dialect], f"this payment was made by {payment.dialect}"
        )
    if claim.memo is not None and payment.memo != claim.memo:
        raise SponsorshipRefused("policy:memo_mismatch", "the memo is not the one asked for")
    settlement = payment.settlement
    for name, claimed, paid in (
        ("recipient", claim.recipient, payment.recipient),
        ("amount", claim.amount, settlement.amount),
        ("asset", claim.mint, settlement.mint),
    ):
        if claimed != paid:
            raise SponsorshipRefused(f"{name}_mismatch", f"the transaction pays {paid}")
