"""How a settlement is to be paid (policy, order, fee), and what is seen while it is."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from service.domain.errors import Corrupt
from service.domain.failures import Finding
from service.domain.limits import EXPIRY_MARGIN_BLOCKS
from service.domain.onchain import (
    ChainHeights,
    FinalizedTransaction,
    LatestBlockhash,
    SignatureStatus,
    Simulation,
    TokenAccount,
    TransferOrder,
    message_of,
)
from service.domain.settlement import Attempt, Settlement
from service.domain.units import Lamports, UnixMillis

T = TypeVar("T")

LAMPORTS_PER_SIGNATURE: Final = 5_000
FEE_PAYER_RENT: Final = 890_880
"""Lamports that an account without data must keep. Spec: Solana rent exemption, 128 bytes."""
TOKEN_ACCOUNT_RENT: Final = 2_074_080
"""Lamports for a new token account of 170 bytes, the larger of the two token programs' sizes."""
COMPUTE_UNIT_LIMIT_MAX: Final = 1_400_000
_MICRO: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class SettlementPolicy:
    """How settlements are carried out. The pacing decides nothing about money.

    `compute_unit_price` in micro-lamports per unit; `fee_payer_runway` is the number of settlements
    below which a low fee payer is reported.
    """

    compute_unit_limit: int = 100_000
    compute_unit_price: int = 10_000
    create_recipient_account: bool = False
    poll_millis: int = 1_000
    resend_millis: int = 2_000
    backoff_min_millis: int = 60_000
    backoff_max_millis: int = 6 * 3_600_000
    expiry_margin_blocks: int = EXPIRY_MARGIN_BLOCKS
    fee_payer_runway: int = 200


@dataclass(frozen=True, slots=True)
class Accounts:
    """What the accounts of a settlement show, and which keys this process holds.

    `database_trusted` is false after a failover or a restore, until an operator says otherwise.
    """

    chain_id: str
    authority: str
    fee_payer: str
    fee_payer_lamports: Lamports
    source: Finding | None
    destination: TokenAccount | None
    database_trusted: bool


@dataclass(frozen=True, slots=True)
class Draft:
    """A transaction signed in memory. Nothing sends it: only the log's bytes are ever sent."""

    order: TransferOrder
    transaction: bytes
    signature: str
    message_hash: bytes
    blockhash: LatestBlockhash
    fee: Lamports
    cluster_id: str
    simulation: Simulation


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known beside the log. `None` is not read yet; a fetch may find nothing.

    `provider` names who answers; `sent_at` is when this process last sent the live attempt.
    """

    provider: str = ""
    sent_at: UnixMillis | None = None
    accounts: Accounts | None = None
    draft: Draft | None = None
    status: SignatureStatus | None = None
    heights: ChainHeights | None = None
    fetched: FinalizedTransaction | Literal["nothing"] | None = None


def order_of(
    settlement: Settlement, policy: SettlementPolicy, fee_payer: str = "", *, create: bool = False
) -> TransferOrder:
    """The order that the intent fixed, with the fee terms of now.

    Each attempt that ran out of compute units doubles the next one's limit.

    Raises:
        Corrupt: the settlement names no accounts, so there is nothing to pay.
    """
    doublings = in_a_row(settlement.attempts, "compute_exceeded")
    return TransferOrder(
        settlement_id=settlement.settlement_id,
        amount=settlement.amount,
        source=named(settlement.source),
        destination=named(settlement.destination),
        recipient=named(settlement.recipient),
        mint=named(settlement.mint),
        decimals=named(settlement.decimals),
        token_program=named(settlement.token_program),
        authority=named(settlement.authority),
        fee_payer=fee_payer,
        create_recipient_account=create,
        compute_unit_limit=min(COMPUTE_UNIT_LIMIT_MAX, policy.compute_unit_limit << doublings),
        compute_unit_price=policy.compute_unit_price,
        authority_kind=named(settlement.authority_kind),
        source_owner=settlement.source_owner,
        swig_address=settlement.swig_address,
        swig_role_id=settlement.swig_role_id,
    )


def fee_of(order: TransferOrder) -> Lamports:
    """The fee of the order's transaction, in lamports."""
    signatures = len({order.fee_payer, order.authority})
    return transaction_fee(signatures, order.compute_unit_limit, order.compute_unit_price)


def transaction_fee(signatures: int, unit_limit: int, unit_price: int) -> Lamports:
    """Base and priority fee in lamports, the price in micro-lamports a unit. Spec: Solana, fees."""
    priority = -(-unit_limit * unit_price // _MICRO)
    return Lamports(signatures * LAMPORTS_PER_SIGNATURE + priority)


def obstacle(
    settlement: Settlement, accounts: Accounts, policy: SettlementPolicy
) -> Finding | None:
    """What keeps a new attempt from succeeding, as the accounts show it; `None` when nothing."""
    create = accounts.destination is None and policy.create_recipient_account
    order = order_of(settlement, policy, accounts.fee_payer, create=create)
    if accounts.chain_id != settlement.chain_id:
        return Finding("wrong_cluster", f"{accounts.chain_id}, not {settlement.chain_id}")
    if accounts.authority != order.authority:
        detail = f"{accounts.authority} is configured, {order.authority} is named"
        return Finding("authority_mismatch", detail)
    if order.source == order.destination:
        return Finding("source_is_destination", order.source)
    return (
        accounts.source
        or destination_finding(order, accounts.destination)
        or _fee_payer_finding(order, accounts.fee_payer_lamports)
    )


def destination_finding(order: TransferOrder, account: TokenAccount | None) -> Finding | None:
    """What keeps the recipient's account from receiving the order; `None` when nothing."""
    if account is None:
        if order.create_recipient_account:
            return None
        return Finding("recipient_account_missing", order.destination)
    if account.mint != order.mint:
        return Finding("wrong_mint", f"the recipient's account holds {account.mint}")
    if account.owner != order.recipient:
        return Finding("destination_owner_mismatch", f"the owner is {account.owner}")
    if account.frozen:
        return Finding("destination_account_frozen", order.destination)
    return None


def _fee_payer_finding(order: TransferOrder, lamports: Lamports) -> Finding | None:
    rent = TOKEN_ACCOUNT_RENT if order.create_recipient_account else 0
    needed = fee_of(order) + FEE_PAYER_RENT + rent
    if lamports >= needed:
        return None
    code = "fee_payer_poor" if lamports else "fee_payer_missing"
    return Finding(code, f"{order.fee_payer} has {lamports} lamports and needs {needed}")


def is_of(attempt: Attempt, fetched: FinalizedTransaction, *, by_payer: bool) -> bool:
    """Whether the transaction is this attempt.

    Where all signatures are ours, its bytes must be the log's. A payer may sign its message anew
    and send that itself: other bytes, but the same payment, which the cluster takes only once.
    """
    transaction = named(attempt.transaction)
    if by_payer:
        return fetched.message_hash == hashlib.sha256(message_of(transaction)).digest()
    return fetched.raw_hash == hashlib.sha256(transaction).digest()


def in_a_row(attempts: Sequence[Attempt], failure: str) -> int:
    """How many of the last attempts ended by `failure`, without another ending between them."""
    count = 0
    while count < len(attempts) and attempts[-1 - count].failure == failure:
        count += 1
    return count


def named(value: T | None) -> T:
    """A field that every settlement with a payment has.

    Raises:
        Corrupt: it is missing; there is no payment to make.
    """
    if value is None:
        raise Corrupt("a settlement without accounts has no transaction")
    return value
