"""What OpenAPI says of the buyers' routes: each answer, each refusal, and the proof's header.

Nothing here runs on a request.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fastapi.openapi.constants import REF_TEMPLATE
from pydantic import BaseModel

from service.api.mpp import replies, schemas
from service.api.mpp.answers import TEXT_CHARS_MAX, failure_code
from service.api.problems import status_of
from service.domain import errors, grant_errors
from service.domain.errors import LedgerError
from service.domain.failures import FAILURES
from service.domain.refusals import REFUSALS
from service.domain.reservations import TOO_MANY_SESSIONS
from service.ports import SignerUnavailable
from session_ledger.sign_in import HEADER_CHARS_MAX

JSON: Final = "application/json"
SCHEMAS: Final[tuple[type[BaseModel], ...]] = (
    replies.ClosePending,
    replies.NotConfirmed,
    replies.NotOnboarding,
    replies.NotRising,
    replies.NotSettled,
    replies.PaymentRefused,
    replies.WireError,
    schemas.CloseSession,
    schemas.ConfirmOnboarding,
    schemas.OnboardWallet,
    schemas.OpenSession,
    schemas.PreparePayment,
    schemas.SettlePayment,
    schemas.SignVoucher,
)
"""What the entries below refer to by name."""

Entries = dict[int | str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Documented:
    """What a route's decorator takes: `responses` and `openapi_extra`."""

    responses: Entries
    extra: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Refusal:
    """One code under one status. `schema` says which members are `beside` the four of all."""

    status: int
    code: str
    summary: str
    schema: type[BaseModel] = replies.WireError
    beside: Mapping[str, Any] | None = None

    @property
    def example(self) -> dict[str, Any]:
        body = {"success": False, "ok": False, "error": self.code, "detail": self.summary}
        return {"summary": self.summary, "value": {**body, **(self.beside or {})}}


def _of(cls: type[LedgerError], status: int | None = None) -> _Refusal:
    summary = (cls.__doc__ or "").strip().split("\n")[0]
    return _Refusal(status or status_of(cls), cls.code, summary)


def _entries(
    description: str,
    reply: type[BaseModel],
    refusals: Iterable[_Refusal | type[LedgerError]],
) -> Entries:
    """The responses of a route: its reply, and every code that it can refuse with, by status."""
    listed = [each if isinstance(each, _Refusal) else _of(each) for each in refusals]
    by_status: dict[int, list[_Refusal]] = {}
    for refusal in listed:
        by_status.setdefault(refusal.status, []).append(refusal)
    entries: Entries = {200: {"description": description, "model": reply}}
    for status, members in sorted(by_status.items()):
        entry = entries.setdefault(status, {"description": "; ".join(m.code for m in members)})
        types = dict.fromkeys(member.schema for member in members)
        content: dict[str, Any] = {"examples": {m.code: m.example for m in members}}
        if "model" in entry:
            refused = [replies.PaymentRefused, replies.NotOnboarding, replies.NotConfirmed]
            entry["model"] = next(reply | each for each in refused if each in types)
        else:
            references = [{"$ref": REF_TEMPLATE.format(model=each.__name__)} for each in types]
            content["schema"] = references[0] if len(references) == 1 else {"anyOf": references}
        entry["content"] = {JSON: content}
    return entries


def _body(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    schema = {"$ref": REF_TEMPLATE.format(model=model.__name__)}
    return {"requestBody": {"required": required, "content": {JSON: {"schema": schema}}}}


def _parameter(place: str, name: str, description: str, *, required: bool = True) -> dict[str, Any]:
    longest = HEADER_CHARS_MAX if place == "header" else TEXT_CHARS_MAX
    return {
        "in": place,
        "name": name,
        "required": required,
        "schema": {"type": "string", "maxLength": longest},
        "description": description,
    }


_PROOF: Final = _parameter(
    "header",
    "SIGN-IN-WITH-X",
    "Proof that the wallet is the caller's: base64 of JSON, as in docs/buyers.md.",
)
_PROOF_OF_OPEN: Final = {
    **_PROOF,
    "required": False,
    "description": f"{_PROOF['description']} Needed where MPP_OPEN_PROOF is `required`.",
}

# --- what each route refuses ----------------------------------------------------------------

BODY_TOO_LARGE: Final = _Refusal(413, "body_too_large", "The body is too large.")
_READS: Final = (errors.InvalidRequest, errors.DatabaseUnavailable)
_WRITES: Final = (*_READS, errors.WrongPosition, BODY_TOO_LARGE)
_PROVES: Final = (errors.SignInRequired, errors.SignInInvalid, errors.InvalidWallet)
_GRANT_IS_OVER: Final = (
    grant_errors.GrantNotFound, grant_errors.GrantRevoked, grant_errors.GrantExpired,
    grant_errors.GrantMaxCallsExceeded, grant_errors.GrantBudgetExceeded,
)  # fmt: skip
"""Why the chain is not limited to a grant."""

_CONFLICT: Final = 409
_SOURCE_FINDINGS: Final = (
    "source_account_missing", "source_account_frozen", "source_owner_mismatch", "wrong_mint",
    "delegate_revoked", "swig_account_missing", "swig_v1", "swig_role_missing",
    "swig_role_expired", "swig_permission_missing",
)  # fmt: skip
"""What a reading of a funding source may find before an open. Codes are those of `FAILURES`."""


def _findings() -> list[_Refusal]:
    named = [
        _Refusal(_CONFLICT, failure_code(code), FAILURES[code].meaning) for code in _SOURCE_FINDINGS
    ]
    return [
        *named,
        _Refusal(_CONFLICT, TOO_MANY_SESSIONS, "Too many sessions are open on this source."),
        _Refusal(_CONFLICT, "swig_off", "This service does not pay out of Swig wallets."),
    ]


def _unsettled() -> list[_Refusal]:
    """Why a close may end without a payment; several failures may share the wire's code."""
    meanings = {
        "settlement_failed": ("settlement_failed", "The settlement was ended without a payment."),
        "abandoned": ("abandoned", "An operator gave the settlement up."),
    }
    for failure in FAILURES.values():
        meanings.setdefault(failure_code(failure.code), (failure.code, failure.meaning))
    return [
        _Refusal(
            _CONFLICT,
            code,
            meaning,
            replies.NotSettled,
            {"failure": failure, "channel_id": "ch_1", "settlement_status": "parked"},
        )
        for code, (failure, meaning) in meanings.items()
    ]


def _refused_payments() -> list[_Refusal]:
    """`/mpp/settle` refuses with 200; the client keeps the code of no other status."""
    classes = (
        errors.InvalidRequest, errors.InvalidWallet, errors.InvalidAmount, errors.NetworkMismatch,
        errors.SellerNotRegistered, errors.InvalidTransaction, errors.InvalidTransactionEncoding,
        errors.WrongPosition, errors.ClaimTaken, errors.DatabaseUnavailable,
        errors.ChainUnavailable, errors.DatabaseNotTrusted, SignerUnavailable,
    )  # fmt: skip
    causes = {cls.code: (_of(cls).summary, cls.retryable) for cls in classes}
    causes |= {code: (meaning, False) for code, meaning in REFUSALS.items()}
    causes["settlement_pending"] = ("Not final yet; send the same transaction again.", True)
    causes["transaction_failed"] = ("The transaction failed on the chain.", False)
    return [
        _Refusal(
            200,
            code,
            summary,
            replies.PaymentRefused,
            {"errorCode": code, "retryable": retryable},
        )
        for code, (summary, retryable) in causes.items()
    ]


def _standing(status: str, summary: str, schema: type[BaseModel], **beside: str) -> _Refusal:
    shown = {"status": status, "buyer_wallet": schemas.WALLET, "swig_address": "", **beside}
    return _Refusal(200, status, summary, schema, shown)


_HERE: Final = {"network": "localnet", "funding_source": "delegate"}
_NO_ANSWER: Final = "The chain does not answer; try again in a moment."

# --- the routes -----------------------------------------------------------------------------

OPEN: Final = Documented(
    _entries(
        "The session; its deposit is reserved.",
        replies.OpenReply,
        (
            *_WRITES, *_PROVES, errors.InvalidAmount, errors.NetworkMismatch,
            errors.WalletNotOnboarded, errors.RecipientNotAllowed, errors.SellerNotRegistered,
            errors.DepositExceeded, errors.FundingSourceRefused, *_findings(),
            errors.ChainUnavailable, errors.ReadingTooOld, errors.SessionKeysNotConfigured,
        ),
    ),
    {"parameters": [_PROOF_OF_OPEN], **_body(schemas.OpenSession)},
)  # fmt: skip
VOUCHER: Final = Documented(
    _entries(
        "The voucher; it is durable.",
        replies.VoucherReply,
        (
            *_WRITES, errors.InvalidAmount, errors.ChannelNotFound, errors.ChannelClosed,
            errors.ChannelExpired, errors.FundingRevoked, errors.DepositExceeded,
            _Refusal(
                _CONFLICT, errors.AmountNotRising.code, _of(errors.AmountNotRising).summary,
                replies.NotRising, {"last_amount": "30000", "last_sequence": 3},
            ),
            errors.SessionKeyUnavailable,
        ),
    ),
    _body(schemas.SignVoucher),
)  # fmt: skip
CLOSE: Final = Documented(
    _entries(
        "The session is over and paid.",
        replies.CloseReply,
        (
            *_WRITES, errors.ChannelNotFound,
            _Refusal(
                202, "settlement_pending", "The payment is not final yet; close again.",
                replies.ClosePending, {"channel_id": "ch_1", "state": "closing"},
            ),
            *_unsettled(),
        ),
    ),
    _body(schemas.CloseSession),
)  # fmt: skip
PREPARE: Final = Documented(
    _entries(
        "What to build the transfer with.",
        replies.PrepareReply,
        (errors.InvalidRequest, errors.NetworkMismatch, BODY_TOO_LARGE, errors.ChainUnavailable),
    ),
    _body(schemas.PreparePayment, required=False),
)
SETTLE: Final = Documented(
    _entries(
        "The payment, finalized; or why it is not, with `success: false`.",
        replies.SettleReply,
        (*_refused_payments(), BODY_TOO_LARGE),
    ),
    _body(schemas.SettlePayment),
)
STATS: Final = Documented(
    _entries("The counts.", replies.StatsReply, (errors.DatabaseUnavailable,)), {}
)
ONBOARD: Final = Documented(
    _entries(
        "`ready`, or what to sign; or with `success: false` why it does not go on.",
        replies.OnboardReply,
        (
            _standing(
                "not_eligible", "Nothing that the wallet could sign would help; see `detail`.",
                replies.NotOnboarding, **_HERE,
            ),
            _standing("temporarily_unavailable", _NO_ANSWER, replies.NotOnboarding, **_HERE),
            *_WRITES, *_PROVES, errors.InvalidAmount, errors.NetworkMismatch, *_GRANT_IS_OVER,
        ),
    ),
    {"parameters": [_PROOF], **_body(schemas.OnboardWallet)},
)  # fmt: skip
CONFIRM: Final = Documented(
    _entries(
        "`ready`, or `pending`; or with `success: false` that the chain does not answer.",
        replies.ConfirmReply,
        (
            _standing(
                "temporarily_unavailable", _NO_ANSWER, replies.NotConfirmed, message=_NO_ANSWER
            ),
            *_WRITES, *_PROVES, errors.InvalidTransactionEncoding, errors.OnboardingNotFound,
            errors.TransactionAltered, errors.SignatureInvalid, errors.TransactionExpired,
            errors.SimulationFailed,
        ),
    ),
    {"parameters": [_PROOF], **_body(schemas.ConfirmOnboarding)},
)  # fmt: skip
STATUS: Final = Documented(
    _entries(
        "The state of the wallet's onboarding.",
        replies.StatusReply,
        (*_READS, errors.WrongPosition, *_PROVES, errors.NetworkMismatch),
    ),
    {
        "parameters": [
            _parameter("query", "buyer_wallet", "The wallet; `wallet` is read as well."),
            _parameter("query", "network", "This service's network.", required=False),
            _PROOF,
        ]
    },
)
