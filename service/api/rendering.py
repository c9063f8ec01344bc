"""From typed values to the JSON of the contract. Amounts are decimal strings, times RFC 3339."""

import base64
import json
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import orjson

from service.api.problems import grant_members, status_of
from service.application.verdicts import Receipt, Verdict
from service.domain.events import VoucherAccepted
from service.domain.failures import FAILURES
from service.domain.log import decode
from service.domain.seller import Seller
from service.domain.session import Session
from service.domain.settlement import Settlement, Settling
from service.domain.terms import Limits
from service.ports import LoggedEvent
from session_ledger.challenge import NETWORKS

MILLIS: Final = 1_000
WITHHELD: Final = frozenset({"voucher_signed"})
"""Events of which the feed shows place and hash only."""
_CLUSTER_QUERY: Final = {"devnet": "?cluster=devnet", "mainnet-beta": ""}


@lru_cache(4_096)
def moment(millis: int | None) -> str | None:
    """Unix milliseconds as RFC 3339 in UTC."""
    if millis is None:
        return None
    text = datetime.fromtimestamp(millis / MILLIS, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def amount(value: int | None) -> str | None:
    """An amount as the wire has it."""
    return None if value is None else str(value)


def limits_json(limits: Limits) -> dict[str, Any]:
    """Bounds beside the deposit."""
    return {
        "maxIncrement": amount(limits.max_increment),
        "maxCumulative": amount(limits.max_cumulative),
        "maxVouchers": limits.max_vouchers,
    }


def session_json(session: Session, position: int) -> dict[str, Any]:
    """The session context. Spec: HTTP contract, "Session context"."""
    terms = session.terms
    return {
        "channelId": terms.channel_id,
        "state": session.state,
        "sessionPubkey": session.session_pubkey,
        "cumulativeAmount": str(session.cumulative_amount),
        "voucherCount": session.voucher_count,
        "lastSequence": session.last_sequence,
        "payer": terms.payer,
        "recipient": terms.recipient,
        "network": terms.network,
        "deposit": amount(terms.deposit),
        "remaining": amount(session.remaining),
        "funding": session.funding,
        "fundingSlot": session.funding_slot,
        "sourceTokenAccount": session.source_token_account,
        "swigAddress": terms.swig_address,
        "validUntil": moment(None if terms.valid_until is None else terms.valid_until * MILLIS),
        "limits": limits_json(terms.limits),
        "position": position,
        "openedAt": moment(session.opened_at),
        "lastVoucherAt": moment(session.last_voucher_at),
        "closeRequestedAt": moment(session.close_requested_at),
        "settlement": None if session.settlement is None else settlement_brief(session.settlement),
        "grantId": terms.grant_id,
    }


def settlement_brief(settlement: Settlement) -> dict[str, Any]:
    """A settlement inside another answer."""
    return {
        "settlementId": settlement.settlement_id,
        "status": settlement.status,
        "amount": str(settlement.amount),
        "signature": settlement.signature,
    }


def settlement_json(settlement: Settlement, channel_id: str | None, network: str) -> dict[str, Any]:
    """A settlement in full. Spec: HTTP contract, `GET /v1/settlements/{settlementId}`."""
    last = settlement.attempts[-1] if settlement.attempts else None
    return {
        "settlementId": settlement.settlement_id,
        "channelId": channel_id,
        "status": settlement.status,
        "amount": str(settlement.amount),
        "signature": settlement.signature,
        "slot": settlement.slot,
        "confirmationStatus": last.confirmation_status if last else None,
        "source": settlement.source,
        "destination": settlement.destination,
        "authority": settlement.authority,
        "attempts": [
            {
                "number": attempt.number,
                "signature": attempt.signature,
                "lastValidBlockHeight": attempt.last_valid_block_height,
                "state": attempt.state,
            }
            for attempt in settlement.attempts
        ],
        "failure": failure_json(settlement),
        "retryAt": moment(settlement.retry_at),
        "explorerUrl": explorer_url(settlement.signature, network),
    }


def settling_json(found: Settling) -> dict[str, Any]:
    """The settlement of a session, or of a payment, which has no channel."""
    settlement = found.settlement
    assert settlement is not None
    if isinstance(found, Session):
        return settlement_json(settlement, found.terms.channel_id, found.terms.network)
    named = (
        network.name for network in NETWORKS.values() if network.chain_id == settlement.chain_id
    )
    return settlement_json(settlement, None, next(named, ""))


def channel_of(stream_id: str) -> str | None:
    """The channel whose stream this is; `None` for a payment's."""
    kind, _, name = stream_id.partition("/")
    return name.partition("/")[2] if kind == "session" else None


def failure_json(settlement: Settlement) -> dict[str, Any] | None:
    """Why the settlement waits or ended without payment, and what to do about it."""
    failure = settlement.failure
    if failure is None or (settlement.status == "settled" and settlement.amount > 0):
        return None
    return {
        "code": failure.code,
        "detail": failure.detail,
        "hint": FAILURES[failure.code].remedy if failure.code in FAILURES else None,
        "at": moment(failure.at),
    }


def explorer_url(signature: str | None, network: str) -> str | None:
    """Where people look a transaction up; the local chain has no such place."""
    if signature is None or network not in _CLUSTER_QUERY:
        return None
    return f"https://explorer.solana.com/tx/{signature}{_CLUSTER_QUERY[network]}"


def receipt_json(receipt: Receipt) -> dict[str, Any]:
    """What the log holds of an accepted voucher; the same for every retry."""
    return {
        "channelId": receipt.channel_id,
        "position": receipt.position,
        "amountPaid": str(receipt.amount_paid),
        "cumulativeAmount": str(receipt.cumulative_amount),
        "sequence": receipt.sequence,
        "acceptedAt": moment(receipt.accepted_at),
        "eventHash": receipt.event_hash.hex(),
    }


def verdict_json(verdict: Verdict, *, with_session: bool) -> bytes:
    """The verdict as JSON text, the accepted voucher inside it exactly as it was received."""
    body: dict[str, Any] = {"valid": verdict.kind == "accepted", "verdict": verdict.kind}
    if verdict.reason is not None:
        body["code"] = verdict.reason
        body["error"] = verdict.error
        body["detail"] = _detail(verdict)
    if (refusal := verdict.refusal) is not None:
        body["grant"] = {
            "status": status_of(type(refusal)),
            **grant_members(refusal),
            "retryAfter": refusal.details.retry_after,
        }
    if verdict.receipt is not None:
        if verdict.kind == "accepted":
            body["amountPaid"] = str(verdict.receipt.amount_paid)
        body["receipt"] = receipt_json(verdict.receipt)
    if with_session and verdict.session is not None and verdict.session.removed_at is None:
        assert verdict.position is not None
        body["session"] = session_json(verdict.session, verdict.position)
    text = orjson.dumps(body)
    if verdict.kind == "accepted":
        voucher = verdict.submission.envelope.voucher_text.encode()
        text = b'%s,"voucher":%s}' % (text[:-1], voucher)
    return text


def _detail(verdict: Verdict) -> str:
    if verdict.kind == "replayed":
        return "this voucher was accepted before; `receipt` is the one of that time"
    if verdict.refusal is not None:
        return verdict.refusal.detail
    return REASONS.get(verdict.reason or "", "see docs/errors.md")


REASONS: Final = {
    "missing_voucher_fields": "voucher, signature and signer must all be there",
    "unsupported_signature_type": "signatureType must be ed25519",
    "signature_verification_failed": "the signature or the signer cannot be decoded",
    "invalid_signature": "the signature is not the signer's for this voucher",
    "recipient_mismatch": "the voucher pays another recipient",
    "network_mismatch": "the voucher is for another chain",
    "program_mismatch": "the voucher names another channel program",
    "malformed_voucher": "a field of the voucher does not have the documented form",
    "session_not_found": "the channel is not registered with this seller, nor by this voucher",
    "session_closed": "the session was closed and accepts no further voucher",
    "session_removed": "the seller removed this session; its vouchers stay refused",
    "voucher_expired": "the voucher or the session is past its end",
    "funding_revoked": "the payer revoked the funding source",
    "signer_changed_mid_session": "a session keeps the signer of its first voucher",
    "payer_changed": "a session keeps its payer",
    "payer_unproven": "the payer's wallet has not signed for this session key",
    "amount_not_monotonic": "the cumulative amount must rise with each voucher",
    "sequence_not_monotonic": "the sequence must rise with each voucher",
    "underpaid": "the voucher adds less than this request costs",
    "deposit_exceeded": "the voucher promises more than the deposit",
    "limit_exceeded": "the voucher passes a limit of the session",
    "meter_mismatch": "this seller prices its declared meters only",
    "nonce_unknown": "the serverNonce was not issued by this seller, is spent, or has expired",
}
"""What each refusal means. Also the source of docs/errors.md."""


def voucher_row(logged: LoggedEvent) -> str:
    """One row of the voucher history as JSON text."""
    row = logged.row
    event = decode(row.type, row.schema_version, row.payload)
    assert isinstance(event, VoucherAccepted)
    head = json.dumps(
        {
            "position": row.position,
            "time": moment(event.at),
            "recordedAt": moment(logged.recorded_at),
            "rawVoucher": event.voucher,
            "signature": base64.b64encode(event.signature).decode(),
            "signer": event.signer,
            "signatureType": "ed25519",
            "amountPaid": str(event.increment),
            "cumulativeAmount": str(event.cumulative_amount),
            "required": str(event.required),
            "sequence": event.sequence,
            "meter": event.meter,
            "usage": event.usage,
            "charge": event.charge,
            "priceVersion": event.price_version,
            "eventHash": row.hash.hex(),
        }
    )
    return f'{head[:-1]}, "voucher": {event.voucher}}}'


def event_text(logged: LoggedEvent) -> str:
    """One event of the feed as JSON text, its payload exactly the bytes that were hashed.

    A voucher that we signed is the buyer's until the buyer presents it, so its payload is withheld:
    else a seller could be paid for what it never served.
    """
    row = logged.row
    payload = "null" if row.type in WITHHELD else row.payload.decode()
    head = json.dumps(
        {
            "cursor": logged.cursor,
            "stream": row.stream_id.partition("/")[0],
            "channelId": channel_of(row.stream_id),
            "position": row.position,
            "type": row.type,
            "schemaVersion": row.schema_version,
            "recordedAt": moment(logged.recorded_at),
            "prevHash": row.prev_hash.hex(),
            "hash": row.hash.hex(),
        }
    )
    return f'{head[:-1]}, "payload": {payload}}}'


def seller_json(seller: Seller) -> dict[str, Any]:
    """A seller without anything secret."""
    return {
        "sellerId": seller.seller_id,
        "name": seller.name,
        "recipient": seller.recipient,
        "network": seller.network,
        **seller.price_books[-1],
        "priceVersion": len(seller.price_books),
        "unknownChannels": seller.unknown_channels,
        "requireNonce": seller.require_nonce,
        "sharedRecipient": seller.shared_recipient,
        "limits": limits_json(seller.limits),
        "registeredAt": moment(seller.registered_at),
        "keys": [
            {
                "keyId": key.key_id,
                "label": key.label,
                "issuedAt": moment(key.issued_at),
                "revokedAt": moment(key.revoked_at),
            }
            for key in seller.keys
        ],
    }
