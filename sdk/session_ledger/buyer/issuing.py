"""One voucher as it is signed, shown and told of."""

import hashlib
import json
import secrets
from typing import Any, Final

from session_ledger.buyer.book import Channel, Voucher
from session_ledger.buyer.offers import Requirement
from session_ledger.buyer.payment import PaymentInfo
from session_ledger.buyer.session import Signer, signature_text
from session_ledger.voucher import SIGNATURE_TYPE, VOUCHER_HEADER, message_bytes

IDEMPOTENCY_HEADER: Final = "Idempotency-Key"


def issued(channel: Channel, asked: Requirement, fingerprint: str, signer: Signer) -> Voucher:
    """The next voucher on the channel, for the request of this fingerprint. It is not sent yet."""
    challenge = asked.challenge
    assert challenge is not None
    cumulative = channel.cumulative + asked.amount
    sequence = channel.sequence + 1
    fields: dict[str, Any] = {
        "channelId": channel.channel_id,
        "payer": channel.payer,
        "recipient": channel.recipient,
        "cumulativeAmount": str(cumulative),
        "sequence": sequence,
        "meter": challenge.meter,
        "units": "1",
        "serverNonce": challenge.server_nonce or secrets.token_hex(16),
        "chainId": challenge.chain_id,
        "channelProgram": challenge.channel_program,
    }
    if channel.grant_id is not None:
        fields["grantId"] = channel.grant_id
    envelope = {
        "voucher": fields,
        "signature": signature_text(signer.sign(message_bytes(fields))),
        "signer": signer.address,
        "signatureType": SIGNATURE_TYPE,
    }
    return Voucher(
        header=json.dumps(envelope, separators=(",", ":")),
        cumulative=cumulative,
        delta=asked.amount,
        sequence=sequence,
        fingerprint=fingerprint,
        url=asked.url,
    )


def headers_of(voucher: Voucher, fingerprint: str) -> dict[str, str]:
    """How it is shown; the same voucher with the same request by the same key, always."""
    named = hashlib.sha256(f"{fingerprint}\n{voucher.header}".encode()).hexdigest()
    return {VOUCHER_HEADER: voucher.header, IDEMPOTENCY_HEADER: named}


def info_of(channel: Channel, voucher: Voucher, receipt: str | None = None) -> PaymentInfo:
    """The payment that it makes."""
    return PaymentInfo(
        dialect="session",
        recipient=channel.recipient,
        amount=voucher.delta,
        url=voucher.url,
        channel_id=channel.channel_id,
        cumulative=voucher.cumulative,
        delta=voucher.delta,
        sequence=voucher.sequence,
        receipt_id=receipt,
    )
