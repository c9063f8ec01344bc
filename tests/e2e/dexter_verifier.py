"""What a seller runs today: the reference's session server, with all that it accepts.

An independent witness: nothing of the product is imported, so that a mistake of ours cannot agree
with itself.

Spec: @dexterai/mpp 0.5.0, `createSessionServer`; its answers are in tests/vectors.
"""

from dataclasses import dataclass
from typing import Any, Final

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from tests.e2e.dexter_javascript import (
    UNDEFINED,
    Thrown,
    at_most,
    base58_bytes,
    base64_bytes,
    big_integer,
    canonicalize,
    stringify,
    text_of,
    truthy,
)

DOMAIN: Final = "solana-mpp-session-voucher-v1:"
CHANNEL_PROGRAM: Final = "swigypWHEksbC64pWKwah1WTeh9JXwx8H1rJHLdbQMB"
ORDER: Final = 2**252 + 27742317777372353535851937790883648493
"""Of the group of Ed25519."""


def signature_holds(voucher: Any, signature: Any, signer: Any) -> bool:
    """Whether the key signed the canonical text of the whole voucher."""
    message = (DOMAIN + stringify(canonicalize(voucher))).encode()
    mark, key = base64_bytes(signature), base58_bytes(signer)
    if len(mark) != 64:
        raise Thrown("Error", "bad signature size")
    if len(key) != 32:
        raise Thrown("Error", "bad public key size")
    # The reference's library accepts a scalar beyond the group's order; ours would refuse it.
    scalar = (int.from_bytes(mark[32:], "little") % ORDER).to_bytes(32, "little")
    try:
        VerifyKey(key).verify(message, mark[:32] + scalar)
    except BadSignatureError:
        return False
    return True


@dataclass
class Session:
    """What the reference remembers of a channel."""

    channel_id: Any
    signer: Any
    amount: int
    sequence: Any
    count: int = 1


class SessionServer:
    """The reference's seller: challenge, verdicts, and sessions in memory."""

    def __init__(
        self,
        recipient: str,
        pricePerUnit: str,  # noqa: N803  the reference's spelling
        *,
        network: str = "mainnet-beta",
        meter: str = "request",
    ) -> None:
        if not recipient.strip():
            raise Thrown(
                "Error",
                "@dexterai/mpp: createSessionServer() requires a non-empty 'recipient' wallet"
                " address",
            )
        self.recipient, self.price = recipient, pricePerUnit
        self.network, self.meter = network, meter
        self._sessions: dict[tuple[str, Any], Session] = {}

    def challenge(self) -> dict[str, str]:
        return {
            "type": "mpp-session",
            "recipient": self.recipient,
            "network": self.network,
            "pricePerUnit": self.price,
            "meter": self.meter,
            "suggestedDeposit": str(big_integer(self.price) * 100),
            "channelProgram": CHANNEL_PROGRAM,
        }

    def verify(self, envelope: Any) -> dict[str, Any]:
        """`{valid: true, voucher, amountPaid}` or `{valid: false, error}`.

        Raises:
            Thrown: what the reference's caller has to catch.
        """
        if envelope is None:
            raise Thrown("TypeError", "Cannot destructure property 'voucher' of 'signed'")
        voucher, signature, signer = (
            _member(envelope, name) for name in ("voucher", "signature", "signer")
        )
        if not (truthy(voucher) and truthy(signature) and truthy(signer)):
            return _refused("missing_voucher_fields")
        if (kind := _member(envelope, "signatureType")) != "ed25519":
            return _refused(f"unsupported_signature_type: {text_of(kind)}")
        try:
            if not signature_holds(voucher, signature, signer):
                return _refused("invalid_signature")
        except Thrown as thrown:
            return _refused(f"signature_verification_failed: {thrown.message}")
        if (recipient := _member(voucher, "recipient")) != self.recipient:
            expected = f"expected {self.recipient}, got {text_of(recipient)}"
            return _refused(f"recipient_mismatch: {expected}")
        return self._judge(voucher, signer)

    def context(self, channel_id: Any) -> dict[str, Any] | None:
        if (session := self._sessions.get(_map_key(channel_id))) is None:
            return None
        return {
            "channelId": channel_id,
            "sessionPubkey": session.signer,
            "cumulativeAmount": str(session.amount),
            "voucherCount": session.count,
        }

    def remove(self, channel_id: Any) -> None:
        self._sessions.pop(_map_key(channel_id), None)

    def _judge(self, voucher: Any, signer: Any) -> dict[str, Any]:
        channel_id, sequence = _member(voucher, "channelId"), _member(voucher, "sequence")
        key = _map_key(channel_id)
        session = self._sessions.get(key)
        if session is not None and not _same(signer, session.signer):
            return _refused("signer_changed_mid_session")
        amount = big_integer(_member(voucher, "cumulativeAmount"))
        if session is not None and amount <= session.amount:
            return _refused("amount_not_monotonic")
        if session is not None and at_most(sequence, session.sequence):
            return _refused("sequence_not_monotonic")
        units = _member(voucher, "units")
        required = big_integer(self.price) * big_integer(units if truthy(units) else "1")
        paid = amount - (session.amount if session else 0)
        if paid < required:
            least = "" if session else "at least "
            return _refused(f"underpaid: expected {least}{required}, got {paid}")
        count = session.count + 1 if session else 1
        self._sessions[key] = Session(channel_id, signer, amount, sequence, count)
        return {"valid": True, "voucher": voucher, "amountPaid": str(paid)}


def _refused(error: str) -> dict[str, Any]:
    return {"valid": False, "error": error}


def _member(value: Any, name: str) -> Any:
    return value.get(name, UNDEFINED) if isinstance(value, dict) else UNDEFINED


def _same(left: Any, right: Any) -> bool:
    """`left === right` for strings, arrays and objects."""
    return left is right if isinstance(left, list | dict) else left == right


def _map_key(value: Any) -> tuple[str, Any]:
    """What a `Map` tells apart: 1 from "1" from true, and every object from every other."""
    by_identity = isinstance(value, list | dict)
    return type(value).__name__, id(value) if by_identity else value
