"""The session grant: what a wallet's owner allows a session key to spend, signed once.

The owner signs `session-grant:v1`, a line feed and the grant as RFC 8785 JSON; the signature is
base58. The SHA-256 of that message, as unpadded base64url, is the grant's id. Whoever enforces a
grant needs nothing else. Everything here is strict: a limit is given or the grant is none, and an
empty list allows nothing, so it is refused.

Spec: docs/grants.md.
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Literal

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from session_ledger.canonical import canonical_text
from session_ledger.challenge import NETWORKS
from session_ledger.encoding import Base58Error, base58_decode, base58_encode
from session_ledger.json_text import SAFE_INTEGER_MAX, JsonValue

GRANT_DOMAIN: Final = b"session-grant:v1\n"
REVOCATION_DOMAIN: Final = b"session-grant-revocation:v1\n"
VERSION: Final = 1
ENTRYPOINT: Final = "transferChecked"
"""The only instruction by which a settlement moves money."""
ANY_RECIPIENT: Final = "*"
RECIPIENTS_MAX: Final = 64
LIFE_SECONDS_MAX: Final = 30 * 24 * 3_600
"""No grant is valid for longer than 30 days; a service may allow less."""
TEXT_CHARS_MAX: Final = 128
"""Length of a nonce and of a label."""
REFUSAL_STATUSES: Final = frozenset(
    {HTTPStatus.PAYMENT_REQUIRED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND}
)
"""What a seller answers a voucher with that a grant does not pay for."""
PROBLEM_TYPE: Final = "application/problem+json"
"""The media type of those that are not 402 (RFC 9457)."""
REFUSAL_PREFIX: Final = "grant_"
"""How the codes of such refusals begin."""

_U64_MAX: Final = 2**64 - 1
_UNIX_SECONDS_MAX: Final = 253_402_300_799
_KEY_BYTES: Final = 32
_KEY_CHARS_MAX: Final = 44
_SIGNATURE_BYTES: Final = 64
_AMOUNT: Final = re.compile(r"[1-9][0-9]{0,19}\Z", re.ASCII)
_ID: Final = re.compile(r"[A-Za-z0-9_-]{43}\Z", re.ASCII)
_REQUIRED: Final = frozenset(
    {
        "version",
        "cluster",
        "owner",
        "sessionPublicKey",
        "mint",
        "allowedEntrypoints",
        "allowedRecipients",
        "maxPaymentAmount",
        "maxCalls",
        "maxTotalAmount",
        "validFrom",
        "validUntil",
        "nonce",
    }
)
_OPTIONAL: Final = frozenset({"window", "label", "fallback"})

GrantErrorCode = Literal["grant_invalid", "grant_entrypoint_not_allowed", "grant_signature_invalid"]


class GrantError(ValueError):
    """The value is no grant, or not one that its owner signed; `code` says which."""

    def __init__(self, detail: str, code: GrantErrorCode = "grant_invalid") -> None:
        super().__init__(detail)
        self.code: GrantErrorCode = code


@dataclass(frozen=True, slots=True)
class Window:
    """At most `max_amount` atomic units in any `seconds`."""

    seconds: int
    max_amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a session key may spend. Amounts are atomic units of `mint`, times Unix seconds.

    `fallback` "owner_signature": a channel under this grant also accepts vouchers that the owner
    signs with its own key; none of the limits applies to those.
    """

    cluster: str
    owner: str
    session_public_key: str
    mint: str
    allowed_recipients: tuple[str, ...]
    max_payment_amount: int
    max_calls: int
    max_total_amount: int
    valid_from: int
    valid_until: int
    nonce: str
    window: Window | None = None
    label: str | None = None
    fallback: Literal["owner_signature"] | None = None
    allowed_entrypoints: tuple[str, ...] = (ENTRYPOINT,)

    def allows_recipient(self, recipient: str) -> bool:
        """Whether it may pay this wallet."""
        return self.allowed_recipients == (ANY_RECIPIENT,) or recipient in self.allowed_recipients

    def to_json(self) -> dict[str, JsonValue]:
        """The object that is signed. Absent optional members are left out."""
        document: dict[str, JsonValue] = {
            "version": VERSION,
            "cluster": self.cluster,
            "owner": self.owner,
            "sessionPublicKey": self.session_public_key,
            "mint": self.mint,
            "allowedEntrypoints": list(self.allowed_entrypoints),
            "allowedRecipients": list(self.allowed_recipients),
            "maxPaymentAmount": str(self.max_payment_amount),
            "maxCalls": self.max_calls,
            "maxTotalAmount": str(self.max_total_amount),
            "validFrom": self.valid_from,
            "validUntil": self.valid_until,
            "nonce": self.nonce,
        }
        if self.window is not None:
            document["window"] = {
                "seconds": self.window.seconds,
                "maxAmount": str(self.window.max_amount),
            }
        if self.label is not None:
            document["label"] = self.label
        if self.fallback is not None:
            document["fallback"] = self.fallback
        return document


def parse_grant(value: JsonValue) -> Grant:
    """The grant in a decoded JSON value.

    Raises:
        GrantError: a member is unknown, missing or malformed, or limits contradict each other.
    """
    fields = _object(value, "grant", _REQUIRED, _OPTIONAL)
    if fields["version"] != VERSION or isinstance(fields["version"], bool):
        raise GrantError(f"version must be {VERSION}")
    cluster = fields["cluster"]
    if not isinstance(cluster, str) or cluster not in NETWORKS:
        raise GrantError(f"cluster must be one of {', '.join(NETWORKS)}")
    fallback = fields.get("fallback")
    if fallback not in (None, "owner_signature") or ("fallback" in fields and fallback is None):
        raise GrantError('fallback must be "owner_signature" or left out')
    grant = Grant(
        cluster=cluster,
        owner=_key(fields["owner"], "owner"),
        session_public_key=_key(fields["sessionPublicKey"], "sessionPublicKey"),
        mint=_key(fields["mint"], "mint"),
        allowed_entrypoints=_entrypoints(fields["allowedEntrypoints"]),
        allowed_recipients=_recipients(fields["allowedRecipients"]),
        max_payment_amount=_amount(fields["maxPaymentAmount"], "maxPaymentAmount"),
        max_calls=_integer(fields["maxCalls"], "maxCalls", 1, SAFE_INTEGER_MAX),
        max_total_amount=_amount(fields["maxTotalAmount"], "maxTotalAmount"),
        window=_window(fields["window"]) if "window" in fields else None,
        valid_from=_integer(fields["validFrom"], "validFrom", 0, _UNIX_SECONDS_MAX),
        valid_until=_integer(fields["validUntil"], "validUntil", 1, _UNIX_SECONDS_MAX),
        nonce=_text(fields["nonce"], "nonce"),
        label=_text(fields["label"], "label") if "label" in fields else None,
        fallback="owner_signature" if fallback is not None else None,
    )
    _check_together(grant)
    return grant


def grant_message(grant: Grant) -> bytes:
    """The bytes that the owner signs."""
    return GRANT_DOMAIN + canonical_text(grant.to_json()).encode()


def grant_id(message: bytes) -> str:
    """The id of the grant with this message: 43 characters of unpadded base64url."""
    return base64.urlsafe_b64encode(hashlib.sha256(message).digest()).rstrip(b"=").decode()


def is_grant_id(value: object) -> bool:
    """Whether the value can be a grant's id."""
    return isinstance(value, str) and _ID.match(value) is not None


def revocation_message(grant_id: str, at: int) -> bytes:
    """The bytes that the owner signs to end a grant; `at` is in Unix seconds."""
    return REVOCATION_DOMAIN + canonical_text({"grantId": grant_id, "at": at}).encode()


def sign_grant(grant: Grant, owner: SigningKey) -> str:
    """The owner's base58 signature of the grant.

    Raises:
        GrantError: the key is not the owner's.
    """
    return _sign(grant_message(grant), grant.owner, owner)


def sign_revocation(grant_id: str, at: int, owner: SigningKey) -> str:
    """The base58 signature that ends a grant."""
    return base58_encode(owner.sign(revocation_message(grant_id, at)).signature)


def verify_signature(message: bytes, signature: str, owner: str) -> bytes:
    """The signature's 64 bytes, once it holds.

    Raises:
        GrantError: `grant_signature_invalid`, whatever is wrong with it.
    """
    try:
        raw = base58_decode(signature)
        if len(raw) != _SIGNATURE_BYTES:
            raise GrantError("the signature must be 64 bytes, base58", "grant_signature_invalid")
        VerifyKey(base58_decode(owner)).verify(message, raw)
    except (Base58Error, BadSignatureError):
        detail = "the signature is not the owner's for this message"
        raise GrantError(detail, "grant_signature_invalid") from None
    return raw


def _sign(message: bytes, owner: str, key: SigningKey) -> str:
    if base58_encode(bytes(key.verify_key)) != owner:
        raise GrantError("the signing key is not the owner's", "grant_signature_invalid")
    return base58_encode(key.sign(message).signature)


def _check_together(grant: Grant) -> None:
    life = grant.valid_until - grant.valid_from
    if not 0 < life <= LIFE_SECONDS_MAX:
        raise GrantError(
            f"validUntil must be after validFrom, by at most {LIFE_SECONDS_MAX} seconds"
        )
    if grant.max_payment_amount > grant.max_total_amount:
        raise GrantError("maxPaymentAmount must be at most maxTotalAmount")
    if grant.window is not None and grant.max_payment_amount > grant.window.max_amount:
        raise GrantError("maxPaymentAmount must be at most window.maxAmount")
    if grant.session_public_key == grant.owner:
        raise GrantError("sessionPublicKey must be another key than the owner's")


def _object(
    value: JsonValue, name: str, required: frozenset[str], optional: frozenset[str] = frozenset()
) -> Mapping[str, JsonValue]:
    if not isinstance(value, dict):
        raise GrantError(f"{name} must be an object")
    if missing := sorted(required - value.keys()):
        raise GrantError(f"{name} must have {', '.join(missing)}")
    if value.keys() - required - optional:
        known = ", ".join(sorted(required | optional))
        raise GrantError(f"{name} must have no other members than {known}")
    return value


def _window(value: JsonValue) -> Window:
    fields = _object(value, "window", frozenset({"seconds", "maxAmount"}))
    seconds = _integer(fields["seconds"], "window.seconds", 1, LIFE_SECONDS_MAX)
    return Window(seconds, _amount(fields["maxAmount"], "window.maxAmount"))


def _entrypoints(value: JsonValue) -> tuple[str, ...]:
    listed = _list(value, "allowedEntrypoints", RECIPIENTS_MAX)
    if listed != (ENTRYPOINT,):
        raise GrantError(
            f'allowedEntrypoints must be ["{ENTRYPOINT}"], which is all that a settlement does',
            "grant_entrypoint_not_allowed",
        )
    return listed


def _recipients(value: JsonValue) -> tuple[str, ...]:
    listed = _list(value, "allowedRecipients", RECIPIENTS_MAX)
    if listed == (ANY_RECIPIENT,):
        return listed
    for index, recipient in enumerate(listed):
        _key(recipient, f"allowedRecipients[{index}]")
    return listed


def _list(value: JsonValue, name: str, length_max: int) -> tuple[str, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= length_max:
        raise GrantError(f"{name} must be a list of 1 to {length_max} strings")
    listed = tuple(each for each in value if isinstance(each, str))
    if len(listed) != len(value) or len(set(listed)) != len(listed):
        raise GrantError(f"{name} must hold strings, none of them twice")
    return listed


def _key(value: JsonValue, name: str) -> str:
    if isinstance(value, str) and len(value) <= _KEY_CHARS_MAX:
        try:
            if len(base58_decode(value)) == _KEY_BYTES:
                return value
        except Base58Error:
            pass
    raise GrantError(f"{name} must be a base58 Solana address (32 bytes)")


def _amount(value: JsonValue, name: str) -> int:
    if isinstance(value, str) and _AMOUNT.match(value) and (amount := int(value)) <= _U64_MAX:
        return amount
    raise GrantError(f"{name} must be a string of digits from 1 to 2^64-1, without a leading 0")


def _integer(value: JsonValue, name: str, least: int, most: int) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    raise GrantError(f"{name} must be an integer from {least} to {most}")


def _text(value: JsonValue, name: str) -> str:
    if isinstance(value, str) and 1 <= len(value) <= TEXT_CHARS_MAX and value.isprintable():
        return value
    raise GrantError(f"{name} must be 1 to {TEXT_CHARS_MAX} printable characters")
