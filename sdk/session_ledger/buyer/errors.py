"""What an automatic payment can end with, each class saying what to do about it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from session_ledger.buyer.offers import Requirement
    from session_ledger.buyer.payment import PaymentInfo
    from session_ledger.json_text import JsonValue


class AutoPayError(Exception):
    """A request that was not paid, or not answered after it was paid."""


class RequirementError(AutoPayError):
    """What the seller asks for is not paid by this client. Nothing was signed."""

    def __init__(self, message: str, requirement: "Requirement | None" = None) -> None:
        super().__init__(message)
        self.requirement = requirement


class PaymentTooLarge(RequirementError):
    """The price is above `max_payment_amount`. Raise the cap, or do not buy."""


class TotalExceeded(RequirementError):
    """The price would pass `max_total`, which counts all that was ever signed with this store."""


class RecipientNotAllowed(RequirementError):
    """The seller's address is not among `allowed_recipients`. Add it, or `"*"`, on purpose."""


class NetworkMismatch(RequirementError):
    """The seller is paid on another network. Point the client at that one, or do not buy."""


class AssetNotAllowed(RequirementError):
    """The seller wants another token than the USDC of the network."""


class SessionMissing(RequirementError):
    """There is no session key, or nobody to pay for it. Create a session and register it."""


class WalletMissing(RequirementError):
    """The seller wants a transaction, and no wallet was given. Pass `wallet=`."""


class OwnerSignatureRequired(RequirementError):
    """The session's grant is used up or over, and there is no `owner_signer` to go on with."""

    def __init__(self, message: str, requirement: "Requirement | None", code: str) -> None:
        super().__init__(message, requirement)
        self.code = code


class SessionKeyLocked(AutoPayError):
    """The sealed session key does not open: the PIN is wrong, or the text was altered."""


class WeakPin(AutoPayError):
    """A PIN of fewer than six characters. Choose a longer one, or pass `allow_weak_pin`."""


class StoreError(AutoPayError):
    """The client's file cannot be used: another process has it, or it is damaged."""


class GrantRefused(AutoPayError):
    """The ledger did not register, show or revoke the grant; `code` is the problem's."""

    def __init__(self, message: str, code: str, status: int) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class ApprovalRefused(AutoPayError):
    """What the ledger gives the owner to sign is not what was agreed to. Nothing was signed.

    `amount` is what the chain would have to allow, where only that is too much.
    """

    def __init__(self, message: str, amount: int | None = None) -> None:
        super().__init__(message)
        self.amount = amount


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a seller did not take a payment, as far as it says so."""

    code: str | None
    detail: str | None = None
    fallback: str | None = None
    replayed: bool = False
    body: "Mapping[str, JsonValue]" = field(default_factory=dict["str", "JsonValue"])


class PaymentRefused(AutoPayError):
    """The seller did not take the payment. `refusal.code` says why; nothing was bought."""

    def __init__(self, message: str, requirement: "Requirement", refusal: Refusal) -> None:
        super().__init__(message)
        self.requirement = requirement
        self.refusal = refusal

    @property
    def code(self) -> str | None:
        """The code of the refusal, such as `grant_max_calls_exceeded`."""
        return self.refusal.code


class PaymentUncertain(AutoPayError):
    """No answer says whether the seller took the payment, however often it was shown.

    It is kept: the next request to this seller shows it before another one is made. If the seller
    has closed its books since, it is given up, and stays counted in what was signed.
    """

    def __init__(self, message: str, payment: "PaymentInfo") -> None:
        super().__init__(message)
        self.payment = payment


class PaidWithoutAnswer(AutoPayError):
    """The seller has this request's payment from before, and gives no answer for it any more.

    Nothing further was paid. Sending the request once more buys it anew.
    """

    def __init__(self, message: str, payment: "PaymentInfo") -> None:
        super().__init__(message)
        self.payment = payment
