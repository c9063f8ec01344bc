"""One sample of every event type, and the script that wrote the golden files from them.

`python -m tests.golden_events` writes a file for each (type, version) that has none and touches no
other: a golden file is what old databases hold, and is never made again.
"""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

from service.domain import direct_events as d
from service.domain import events as e
from service.domain import grant_events as g
from service.domain import wallet_events as w
from service.domain.log import SCHEMA_VERSIONS, EventRow, chain, type_name
from service.domain.terms import Limits, Terms
from service.domain.units import (
    AtomicUsdc,
    BlockHeight,
    Lamports,
    Slot,
    StreamPosition,
    UnixMillis,
)

DIRECTORY: Final = Path(__file__).parent / "vectors" / "events"
STREAM_ID: Final = "session/slr_1/channel \u00e9 \u20ac \U0001f600"
POSITION: Final = 41
PREV_HASH: Final = bytes(range(32))

_AT: Final = UnixMillis(1_763_700_000_123)
_SETTLEMENT: Final = "stl_1"
_PROOF: Final = {
    "address": "buyer",
    "domain": "ledger.example",
    "nonce": "0123456789abcdef",
    "issuedAt": "2026-03-04T05:06:07.008Z",
}
_LIMITS: Final = Limits(AtomicUsdc(2**64 - 1), None, 1_000)

_SAMPLES: Final[tuple[e.Event, ...]] = (
    e.SessionOpened(
        _AT,
        Terms(
            channel_id='channel "\u00e9" \\ \u20ac \U0001f600',
            seller_id="slr_1",
            payer="payer",
            recipient="recipient",
            network="localnet",
            mint="mint",
            decimals=6,
            session_pubkey="key",
            deposit=AtomicUsdc(2**64 - 1),
            source_token_account="source",
            swig_address="swig",
            valid_until=1_800_000_000,
            limits=Limits(AtomicUsdc(1), AtomicUsdc(2**64 - 1), 1_000),
            grant_id="grt_1",
            swig_role_id=7,
            idle_timeout_seconds=600,
            opened_by="buyer",
            settles="signed",
        ),
    ),
    e.VoucherAccepted(
        at=_AT,
        cumulative_amount=AtomicUsdc(2**64 - 1),
        increment=AtomicUsdc(10_000),
        required=AtomicUsdc(9_999),
        sequence=2**53 - 1,
        signer="signer",
        signature=bytes(range(64)),
        voucher='{"channelId": "\u00e9", "units": 1.0}',
        message_hash=bytes(range(32)),
        meter="tokens",
        usage="18446744073709551615",
        charge={"meter": "tokens", "usage": "7"},
        price_version=3,
    ),
    e.VoucherSigned(_AT, AtomicUsdc(2**64 - 1), 3, '{"units": "1"}', bytes(64), bytes(32)),
    e.FundingObserved(_AT, "verified", "source", AtomicUsdc(25), AtomicUsdc(20), Slot(100)),
    e.CloseRequested(_AT, "slr_1"),
    e.SettlementIntended(
        at=_AT,
        settlement_id=_SETTLEMENT,
        amount=AtomicUsdc(10),
        voucher_hash=bytes(32),
        voucher_signature=bytes(64),
        source="source",
        destination="destination",
        recipient="recipient",
        mint="mint",
        decimals=6,
        token_program="program",
        authority_kind="delegate",
        authority="authority",
        guard=None,
        chain_id="solana:chain",
        source_owner="owner",
        swig_address="swig",
        swig_role_id=7,
    ),
    e.SettlementNotNeeded(_AT, _SETTLEMENT),
    e.AttemptSigned(
        at=_AT,
        settlement_id=_SETTLEMENT,
        number=1,
        transaction=b"\x00\xff transaction",
        signature="signature",
        message_hash=bytes(32),
        blockhash="blockhash",
        last_valid_block_height=BlockHeight(250),
        tip_height=BlockHeight(100),
        min_context_slot=Slot(110),
        first_available_slot=Slot(1),
        fee=Lamports(5_060),
        fee_payer="fee payer",
        creates_recipient_account=True,
        cluster_id="7/1",
    ),
    e.AttemptSent(_AT, _SETTLEMENT, 1, "rpc.example:443", "accepted"),
    e.StatusSeen(_AT, _SETTLEMENT, 1, "confirmed", Slot(111)),
    e.SettlementFinalized(_AT, _SETTLEMENT, 1, "signature", Slot(111), "-10", "10", bytes(32)),
    e.AttemptFailed(
        _AT, _SETTLEMENT, 1, Slot(111), "delegate_revoked", '{"InstructionError":[2]}', True
    ),
    e.AttemptExpired(_AT, _SETTLEMENT, 1, {"provider": "rpc", "finalizedHeight": 500}),
    e.SettlementParked(_AT, _SETTLEMENT, "insufficient_funds", "held 1", UnixMillis(_AT + 1)),
    e.SettlementResumed(_AT, _SETTLEMENT, "operator"),
    e.SettlementAbandoned(_AT, _SETTLEMENT, "operator", "paid otherwise"),
    e.SessionRemoved(_AT, "slr_1"),
    e.PaymentSubmitted(
        at=_AT,
        payment_id="pay_1",
        dialect="mpp",
        seller_id="slr_1",
        payer="payer",
        recipient="recipient",
        amount=AtomicUsdc(2**64 - 1),
        source="source",
        destination="destination",
        mint="mint",
        decimals=6,
        token_program="program",
        chain_id="solana:chain",
        resource="https://api.example/\u00e9",
        memo="mppx:\U0001f600",
        transaction=b"\x00\xff transaction",
        signature="signature",
        message_hash=bytes(range(32)),
        blockhash="blockhash",
        last_valid_block_height=BlockHeight(250),
        tip_height=BlockHeight(100),
        min_context_slot=Slot(110),
        first_available_slot=Slot(1),
        fee=Lamports(10_050),
        fee_payer="fee payer",
        creates_recipient_account=True,
        cluster_id="7/1",
    ),
    d.PaymentAccepted(
        at=_AT,
        signature="signature",
        seller_id="slr_1",
        resource="https://api.example/\u00e9",
        chain_id="solana:chain",
        pay_to="recipient",
        asset="mint",
        required=AtomicUsdc(9_999),
        amount=AtomicUsdc(2**64 - 1),
        payer="payer",
        fee_payer="fee payer",
        slot=Slot(111),
        block_time=1_763_700_000,
        commitment="confirmed",
        binding="challenge",
        memo="slp1.challenge \U0001f600",
        reference="reference",
        header="eyJ9",
        transaction_hash=bytes(range(32)),
    ),
    d.DeliveryFailed(_AT, "slr_1"),
    d.PaymentRedelivered(_AT),
    d.PaymentFinalized(_AT, Slot(112)),
    d.PaymentReversed(_AT, "dropped", {"provider": "rpc", "finalizedHeight": 500}),
    e.DepositReserved(_AT, STREAM_ID, AtomicUsdc(2**64 - 1), AtomicUsdc(2**64 - 1), Slot(120)),
    e.DepositReleased(_AT, STREAM_ID, Slot(121)),
    e.SellerRegistered(
        at=_AT,
        seller_id="slr_1",
        name="Seller \u00e9",
        recipient="recipient",
        network="localnet",
        unknown_channels="refuse",
        require_nonce=True,
        shared_recipient=False,
        limits=_LIMITS,
    ),
    e.PriceBookPublished(_AT, 2, {"pricePerUnit": "10000", "meters": {}}),
    e.SellerKeyIssued(_AT, "0123456789ab", bytes(range(32)), "label"),
    e.SellerKeyRevoked(_AT, "0123456789ab"),
    w.OnboardingIssued(
        at=_AT,
        kind="swig",
        network="localnet",
        spend_limit=AtomicUsdc(2**64 - 1),
        ttl_seconds=3_600,
        recipients=("recipient", "another"),
        swig_address="swig",
        transactions=(
            w.IssuedTransaction("create_swig", b"\x80 message", ("buyer",), BlockHeight(250)),
            w.IssuedTransaction("add_role", b"\x80", ("fee payer", "buyer"), BlockHeight(251)),
        ),
        proof=_PROOF,
    ),
    w.OnboardingSubmitted(_AT, ("signature", "another"), (b"\x01\xff transaction", b"\x02")),
    w.WalletOnboarded(
        at=_AT,
        kind="swig",
        source="source",
        owner="owner",
        swig_address="swig",
        role_id=1,
        spend_limit=AtomicUsdc(2**64 - 1),
        expires_at=1_763_703_600,
        recipients=("recipient",),
        signatures=("signature", "another"),
        slot=Slot(120),
        proof=_PROOF,
    ),
    w.OnboardingRevoked(_AT, Slot(121), "delegate_revoked"),
    g.GrantRegistered(
        at=_AT,
        terms=g.GrantTerms(
            grant_id="grt_1",
            owner="owner",
            session_pubkey="key",
            network="localnet",
            mint="mint",
            recipients=("recipient", "another"),
            max_payment=AtomicUsdc(10_000),
            max_calls=2**53 - 1,
            max_total=AtomicUsdc(2**64 - 1),
            window_seconds=3_600,
            window_max=AtomicUsdc(20_000),
            valid_from=1_763_700_000,
            valid_until=1_763_703_600,
            owner_may_sign=True,
            label="\u00e9",
        ),
        grant='{"label":"\u00e9","version":1}',
        signature=bytes(range(64)),
    ),
    g.GrantRenewed(_AT, "grt_0"),
    g.GrantUsed(_AT, "session/slr_1/ch", AtomicUsdc(2**64 - 1), 1, bytes(range(32))),
    g.GrantExhausted(_AT),
    g.GrantRevoked(_AT, 1_763_700_000, bytes(64)),
)
SAMPLES: Final[dict[str, Any]] = {type_name(sample): sample for sample in _SAMPLES}
"""By the plain string of the type."""


def first_version(sample: e.Event) -> e.Event:
    """A sample as version 1 of its type is read: what later versions added has its default."""
    match sample:
        case e.SessionOpened(at, terms):
            added = ("swig_role_id", "idle_timeout_seconds", "opened_by", "settles")
            defaults = {f.name: f.default for f in fields(Terms) if f.name in added}
            return e.SessionOpened(at, replace(terms, **defaults))
        case e.SettlementIntended():
            return replace(sample, source_owner=None, swig_address=None, swig_role_id=None)
        case _:
            return sample


def row_of(sample: e.Event) -> EventRow:
    """The row under which a sample is stored."""
    (row,) = chain(STREAM_ID, StreamPosition(POSITION), PREV_HASH, [sample])
    return row


def file_of(name: str, version: int) -> Path:
    """Where a golden file lies."""
    return DIRECTORY / f"{name}.v{version}.json"


def write_missing() -> None:
    """Write the golden file of every current version that has none."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for name, version in SCHEMA_VERSIONS.items():
        path = file_of(name, version)
        if path.exists():
            continue
        row = row_of(SAMPLES[name])
        golden = {
            "streamId": row.stream_id,
            "position": row.position,
            "type": row.type,
            "schemaVersion": row.schema_version,
            "prevHash": row.prev_hash.hex(),
            "payload": row.payload.decode(),
            "hash": row.hash.hex(),
        }
        path.write_text(json.dumps(golden, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    write_missing()
