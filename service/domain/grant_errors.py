"""Why a grant does not pay, one class for each code.

Spec: docs/grants.md, the table of codes.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from service.domain.errors import Rejected

Fallback = Literal["owner_signature"]
_RENEW = "Have the owner sign another grant, or this voucher where the grant allows it."


@dataclass(frozen=True, slots=True)
class GrantDetails:
    """What a refusal rests on: amounts in atomic units, counts, or Unix seconds, as text."""

    grant_id: str | None = None
    limit: str | None = None
    used: str | None = None
    requested: str | None = None
    retry_after: int | None = None
    """Seconds until the same voucher would pass, where time alone helps."""


NO_DETAILS = GrantDetails()


class GrantRefused(Rejected):
    """The grant does not pay for this."""

    code = "grant_refused"
    hint = "See `detail`."
    alias: ClassVar[str | None] = None
    """The name that clients of Chipi know."""
    fallback: ClassVar[Fallback | None] = None
    """What the client may do at once instead."""

    def __init__(self, detail: str, details: GrantDetails = NO_DETAILS) -> None:
        super().__init__(detail)
        self.details = details


class GrantNotFound(GrantRefused):
    """No grant of this payer has this id, or the channel is not under it."""

    code = "grant_not_found"
    hint = "Register the grant first: POST /v1/grants."
    alias = "SESSION_NOT_REGISTERED"


class GrantInvalid(GrantRefused):
    """The grant does not have the documented form, or this service cannot honour it."""

    code = "grant_invalid"
    hint = "Correct what `detail` names and have the owner sign again."
    alias = "INVALID_SPENDING_POLICY"


class GrantEntrypointNotAllowed(GrantRefused):
    """The grant names another instruction than the one by which a settlement pays."""

    code = "grant_entrypoint_not_allowed"
    hint = 'Sign a grant with `allowedEntrypoints: ["transferChecked"]`.'
    alias = "SESSION_ENTRYPOINT_NOT_ALLOWED"


class GrantSignatureInvalid(GrantRefused):
    """The signature is not the owner's for this grant, or for its revocation."""

    code = "grant_signature_invalid"
    hint = "Sign the documented bytes with the owner's key."


class GrantExpired(GrantRefused):
    """The grant is past `validUntil`."""

    code = "grant_expired"
    hint = _RENEW
    alias = "SESSION_EXPIRED"
    fallback = "owner_signature"


class GrantNotYetValid(GrantRefused):
    """The grant is before `validFrom`."""

    code = "grant_not_yet_valid"
    hint = "Wait until `limit`, in Unix seconds."


class GrantRevoked(GrantRefused):
    """The owner revoked the grant. What was accepted before stays payable."""

    code = "grant_revoked"
    hint = "Ask the owner for another grant."
    alias = "SESSION_REVOKED"


class GrantSignerMismatch(GrantRefused):
    """The voucher is signed by another key than the grant's session key."""

    code = "grant_signer_mismatch"
    hint = "Sign with the session key that the grant names."


class GrantRecipientNotAllowed(GrantRefused):
    """The grant does not allow payments to this seller, on this network, in this mint."""

    code = "grant_recipient_not_allowed"
    hint = "Ask the owner for a grant that names this recipient."


class GrantPaymentTooLarge(GrantRefused):
    """One payment is above `maxPaymentAmount`."""

    code = "grant_payment_too_large"
    hint = "Pay at most `limit` at once."


class GrantMaxCallsExceeded(GrantRefused):
    """The grant's number of payments is used up."""

    code = "grant_max_calls_exceeded"
    hint = _RENEW
    alias = "SESSION_MAX_CALLS_EXCEEDED"
    fallback = "owner_signature"


class GrantBudgetExceeded(GrantRefused):
    """The payment would pass `maxTotalAmount`."""

    code = "grant_budget_exceeded"
    hint = _RENEW
    fallback = "owner_signature"


class GrantWindowExceeded(GrantRefused):
    """The payment would pass what the grant allows within its rolling window."""

    code = "grant_window_exceeded"
    hint = "Send the same voucher again after the seconds in Retry-After."


CHANNEL_REFUSALS = (
    GrantNotFound,
    GrantSignerMismatch,
    GrantRevoked,
    GrantNotYetValid,
    GrantExpired,
    GrantRecipientNotAllowed,
)
"""Why a channel is not opened under a grant."""
