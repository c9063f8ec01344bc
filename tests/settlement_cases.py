"""Settlements in every state, and everything that a chain can show of them."""

import hashlib
from dataclasses import replace
from typing import Any

from fakes import empty_account
from settlement_rig import (
    AMOUNT,
    AUTHORITY,
    DESTINATION,
    FEE_PAYER,
    MINT,
    RECIPIENT,
    SETTLEMENT_ID,
    SOL,
    SOURCE,
    intended,
)

from service.domain import events as e
from service.domain.failures import FAILURES
from service.domain.onchain import (
    ChainHeights,
    FinalizedTransaction,
    LatestBlockhash,
    SignatureStatus,
    Simulation,
    chain_id_of,
    message_of,
)
from service.domain.settlement import Settlement, evolve_settlement
from service.domain.settlement_plan import (
    Accounts,
    Draft,
    Observation,
    SettlementPolicy,
    order_of,
)
from service.domain.settlement_steps import (
    Record,
    next_step,
)
from service.domain.units import BlockHeight, Lamports, Slot, UnixMillis
from service.local.chain import LOCALNET_GENESIS_HASH

NOW = UnixMillis(1_700_000_000_000)
POLICY = SettlementPolicy()
RAW = b"signed transaction bytes"
SIGNATURE = "sig-1"
LAST_VALID = 1_150
SIGNED_SLOT = 1_500


def fold(*events: Any) -> Settlement:
    settlement = None
    for event in events:
        settlement = evolve_settlement(settlement, event)
    assert settlement is not None
    return settlement


def signed(number: int = 1, **changes: Any) -> e.AttemptSigned:
    event = e.AttemptSigned(
        at=NOW,
        settlement_id=SETTLEMENT_ID,
        number=number,
        transaction=RAW,
        signature=f"sig-{number}",
        message_hash=bytes(32),
        blockhash="blockhash",
        last_valid_block_height=BlockHeight(LAST_VALID),
        tip_height=BlockHeight(1_000),
        min_context_slot=Slot(SIGNED_SLOT),
        first_available_slot=Slot(0),
        fee=Lamports(11_000),
        fee_payer=FEE_PAYER,
        creates_recipient_account=False,
        cluster_id="test/1",
    )
    return replace(event, **changes)


def sent(number: int = 1) -> e.AttemptSent:
    return e.AttemptSent(NOW, SETTLEMENT_ID, number, "fake", "accepted")


def failed(code: str, number: int = 1) -> e.AttemptFailed:
    retryable = FAILURES[code].failure_class != "bug"
    return e.AttemptFailed(NOW, SETTLEMENT_ID, number, Slot(1), code, "{}", retryable)


def expired(number: int = 1) -> e.AttemptExpired:
    return e.AttemptExpired(NOW, SETTLEMENT_ID, number, {})


def parked(code: str, retry_at: int | None) -> e.SettlementParked:
    return e.SettlementParked(
        NOW, SETTLEMENT_ID, code, "detail", None if retry_at is None else UnixMillis(retry_at)
    )


INTENDED = fold(intended())
SIGNED = fold(intended(), signed())
IN_FLIGHT = fold(intended(), signed(), sent())
ORDER = order_of(INTENDED, POLICY, FEE_PAYER)

GOOD = Accounts(
    chain_id=chain_id_of(LOCALNET_GENESIS_HASH),
    authority=AUTHORITY,
    fee_payer=FEE_PAYER,
    fee_payer_lamports=Lamports(SOL),
    source=None,
    destination=empty_account(DESTINATION, owner=RECIPIENT, mint=MINT),
    database_trusted=True,
)


def draft(error: object = None, **changes: Any) -> Draft:
    return Draft(
        order=replace(ORDER, **changes),
        transaction=RAW,
        signature=SIGNATURE,
        message_hash=bytes(32),
        blockhash=LatestBlockhash(
            "blockhash", BlockHeight(LAST_VALID), BlockHeight(1_000), Slot(SIGNED_SLOT), Slot(0)
        ),
        fee=Lamports(11_000),
        cluster_id="test/1",
        simulation=Simulation(error, (), 700),
    )


def status(level: Any = None, context_slot: int = 2_000, error: object = None) -> SignatureStatus:
    slot = None if level is None else Slot(1_600)
    return SignatureStatus(level, slot, error, Slot(context_slot))


def heights(tip: int, finalized: int, *, slot: int = 1_900, first: int = 0) -> ChainHeights:
    return ChainHeights(BlockHeight(tip), BlockHeight(finalized), Slot(slot), Slot(first))


def fetched(error: object = None, **changes: Any) -> FinalizedTransaction:
    transaction = FinalizedTransaction(
        signature=SIGNATURE,
        slot=Slot(1_600),
        error=error,
        token_changes={} if error else {SOURCE: -AMOUNT, DESTINATION: AMOUNT},
        memos=(SETTLEMENT_ID,),
        raw_hash=hashlib.sha256(RAW).digest(),
        message_hash=hashlib.sha256(message_of(RAW)).digest(),
    )
    return replace(transaction, **changes)


def step(settlement: Settlement, policy: SettlementPolicy = POLICY, **seen: Any) -> Any:
    return next_step(settlement, Observation(provider="fake", **seen), NOW, policy)


def recorded(settlement: Settlement, policy: SettlementPolicy = POLICY, **seen: Any) -> Any:
    found = step(settlement, policy, **seen)
    assert isinstance(found, Record), found
    return found.event
