"""What the ledger says of one voucher, as a seller reads it."""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Self

from session_ledger.grant import REFUSAL_STATUSES
from session_ledger.json_text import JsonValue
from session_ledger.seller.errors import LedgerUnavailable
from session_ledger.voucher import RECEIPT_HEADER


@dataclass(frozen=True, slots=True)
class Verdict:
    """Serve only what is `valid`: such a voucher is durable in the ledger.

    `error` is the reference's exact text, `reason` its bare code. `replayed` says that the voucher
    was accepted before; `receipt` is then the one of that time. `body` is the whole answer.
    """

    valid: bool
    replayed: bool
    error: str | None
    reason: str | None
    detail: str | None
    amount_paid: int
    receipt: Mapping[str, JsonValue]
    body: Mapping[str, JsonValue]
    digest: bytes
    """Of the question: this voucher, at this price."""

    @classmethod
    def of(cls, body: Mapping[str, JsonValue], digest: bytes) -> Self:
        """The verdict in an answer.

        Raises:
            LedgerUnavailable: the answer is no verdict.
        """
        receipt = body.get("receipt")
        match body:
            case {"valid": True, "verdict": "accepted", "amountPaid": str(paid)}:
                valid, replayed, amount = True, False, int(paid)
            case {"valid": False, "verdict": "replayed" | "rejected" as kind}:
                valid, replayed, amount = False, kind == "replayed", 0
            case _:
                raise LedgerUnavailable("the ledger's verdict has another shape: check api_url")
        return cls(
            valid=valid,
            replayed=replayed,
            error=_text(body, "error"),
            reason=_text(body, "code"),
            detail=_text(body, "detail"),
            amount_paid=amount,
            receipt=receipt if isinstance(receipt, dict) else {},
            body=body,
            digest=digest,
        )

    @property
    def channel_id(self) -> str | None:
        """The channel of an accepted or a replayed voucher."""
        return _text(self.receipt, "channelId")

    @property
    def session(self) -> Mapping[str, JsonValue] | None:
        """The session context that the voucher met or left behind."""
        session = self.body.get("session")
        return session if isinstance(session, dict) else None

    @property
    def grant(self) -> Mapping[str, JsonValue]:
        """What a grant says against the voucher; empty when no grant refused it."""
        told = self.body.get("grant")
        return told if isinstance(told, dict) else {}

    @property
    def status(self) -> HTTPStatus:
        """What to answer the buyer with: 200, or 402, or a grant's own 403 or 404."""
        if self.valid:
            return HTTPStatus.OK
        told = self.grant.get("status")
        known = isinstance(told, int) and told in REFUSAL_STATUSES
        return HTTPStatus(told) if known else HTTPStatus.PAYMENT_REQUIRED

    @property
    def headers(self) -> dict[str, str]:
        """What tells the buyer, beside whatever the answer is, that its voucher was taken."""
        receipt_id = _text(self.receipt, "eventHash")
        return {} if receipt_id is None else {RECEIPT_HEADER: receipt_id}


def _text(body: Mapping[str, JsonValue], name: str) -> str | None:
    value = body.get(name)
    return value if isinstance(value, str) else None
