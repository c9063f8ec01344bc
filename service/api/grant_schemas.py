"""The bodies of the grants' routes, read and answered."""

from typing import Any, Literal

from pydantic import Field

from service.api.answers import Answer
from service.api.schemas import AMOUNT_PATTERN, Body
from service.domain.limits import UNIX_SECONDS_MAX

_SIGNATURE_CHARS_MAX = 128


class NewGrantBody(Body):
    """A session grant as its owner signed it."""

    grant: dict[str, Any]
    signature: str = Field(
        min_length=1, max_length=_SIGNATURE_CHARS_MAX, description="Base58 of 64 bytes."
    )
    previous_grant_id: str | None = Field(
        default=None, max_length=64, description="The owner's grant that this one renews."
    )


class RevokeGrantBody(Body):
    """The owner's word that a grant has ended; `at` is in Unix seconds."""

    signature: str = Field(
        min_length=1, max_length=_SIGNATURE_CHARS_MAX, description="Base58 of 64 bytes."
    )
    at: int = Field(ge=0, le=UNIX_SECONDS_MAX)


class WindowAnswer(Answer):
    """A rolling window."""

    seconds: int
    max_amount: str = Field(pattern=AMOUNT_PATTERN)


class GrantAnswer(Answer):
    """A session grant, and what of it is used up."""

    grant_id: str
    state: Literal["pending", "active", "exhausted", "expired", "revoked"]
    is_active: bool
    cluster: str
    owner: str
    session_public_key: str
    mint: str
    allowed_entrypoints: list[str]
    allowed_recipients: list[str]
    max_payment_amount: str = Field(pattern=AMOUNT_PATTERN)
    max_calls: int
    max_total_amount: str = Field(pattern=AMOUNT_PATTERN)
    window: WindowAnswer | None
    valid_from: int
    valid_until: int
    label: str | None
    fallback: Literal["owner_signature"] | None
    calls_used: int
    amount_used: str = Field(pattern=AMOUNT_PATTERN)
    remaining_calls: int
    remaining_amount: str = Field(pattern=AMOUNT_PATTERN)
    window_remaining: str | None
    registered_at: str
    exhausted_at: str | None
    revoked_at: str | None
    previous_grant_id: str | None


class EnforcedGrant(GrantAnswer):
    """A session grant; the chain enforces it too, by the delegated amount or by the role in a Swig
    wallet, where that lets us take no more than what the grant still allows and owes."""

    enforced_by: list[Literal["server", "delegate", "swig"]]


class GrantPage(Answer):
    """An owner's grants, the newest first."""

    grants: list[GrantAnswer]
    next_cursor: str | None


SCHEMAS = (NewGrantBody, RevokeGrantBody)
"""The bodies that routes read themselves."""

GRANT: dict[str, Any] = {
    "model": EnforcedGrant,
    "description": "The grant, what is used up, and who enforces it.",
}
GRANTS: dict[str, Any] = {"model": GrantPage, "description": "A page of the owner's grants."}
PROOF: dict[str, Any] = {
    "in": "header",
    "name": "SIGN-IN-WITH-X",
    "required": True,
    "schema": {"type": "string"},
    "description": "Proof that the wallet is the caller's: base64 of JSON, as in docs/buyers.md.",
}
