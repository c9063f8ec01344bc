"""SIGN-IN-WITH-X: a header by which a wallet's owner proves that the wallet is theirs.

The header's value is base64 of a JSON object; the wallet signs a text for people that follows from
its members. One header serves a whole onboarding, so it may come several times until it expires.

Spec: the reference SDK @dexterai/mpp 0.5.0 over @x402/extensions 2.9.0; CAIP-122, EIP-4361.
"""

import base64
import json
import re
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, cast

from nacl.bindings import crypto_sign_BYTES, crypto_sign_open, crypto_sign_PUBLICKEYBYTES
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey

from session_ledger.encoding import Base58Error, base58_decode, base58_encode
from session_ledger.json_text import JsonTextError, JsonValue, parse

SIGN_IN_HEADER: Final = "sign-in-with-x"
HEADER_CHARS_MAX: Final = 4 * 1024
"""Longest header value that is decoded; the reference's has about 650 characters."""

SIGN_IN_PATH: Final = "/api/sessions/onboard"
"""What every sign-in names, whichever route it is sent to."""

LIFETIME_MILLIS: Final = 5 * 60 * 1_000
"""From `issuedAt` to `expirationTime`, as the reference makes it."""

LIFETIME_MILLIS_MAX: Final = 15 * 60 * 1_000
CLOCK_SKEW_MILLIS: Final = 60 * 1_000
"""How far the signer's clock may be ahead of ours."""

_VERSION: Final = "1"
_TYPE: Final = "ed25519"
_SCHEME: Final = "siws"
_CHAIN_NAMESPACE: Final = "solana:"
_DEPTH_MAX: Final = 4

_BASE64: Final = re.compile(r"[A-Za-z0-9+/]+={0,2}\Z", re.ASCII)
_NONCE: Final = re.compile(r"[A-Za-z0-9-]{8,128}\Z", re.ASCII)
_TIME: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{3})?Z\Z", re.ASCII
)
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What could make one text out of two different headers, or no text at all."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


class SignInError(ValueError):
    """The header proves nothing. `reason` says what is wrong, without quoting the header."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class SignIn:
    """The members of a header, unjudged, but free of control characters.

    Absent optional members are `None`, absent resources are empty.
    """

    domain: str
    address: str
    uri: str
    version: str
    chain_id: str
    type: str
    nonce: str
    issued_at: str
    expiration_time: str
    signature_scheme: str
    signature: str
    statement: str | None = None
    not_before: str | None = None
    request_id: str | None = None
    resources: tuple[str, ...] = ()

    @property
    def message(self) -> str:
        """The exact text that the wallet signed; an empty optional member is not in it."""
        lines = [
            f"{self.domain} wants you to sign in with your Solana account:",
            self.address,
            "",
            *((self.statement, "") if self.statement else ()),
            f"URI: {self.uri}",
            f"Version: {self.version}",
            f"Chain ID: {self.chain_reference}",
            f"Nonce: {self.nonce}",
            f"Issued At: {self.issued_at}",
            f"Expiration Time: {self.expiration_time}",
            *((f"Not Before: {self.not_before}",) if self.not_before else ()),
            *((f"Request ID: {self.request_id}",) if self.request_id else ()),
            *(("Resources:",) if self.resources else ()),
            *(f"- {resource}" for resource in self.resources),
        ]
        return "\n".join(lines)

    @property
    def chain_reference(self) -> str:
        """The chain id without its namespace, as the text has it."""
        return self.chain_id.removeprefix(_CHAIN_NAMESPACE)

    @property
    def expires_at_millis(self) -> int:
        """When the proof ends, in Unix milliseconds.

        Raises:
            SignInError: `expirationTime` is not a time.
        """
        return _millis("expirationTime", self.expiration_time)


def build(
    signing_key: SigningKey,
    *,
    domain: str,
    chain_id: str,
    now_millis: int,
    nonce: str | None = None,
) -> str:
    """The header's value for the wallet of `signing_key`; see `build_for`."""
    return build_for(
        base58_encode(bytes(signing_key.verify_key)),
        lambda message: signing_key.sign(message).signature,
        domain=domain,
        chain_id=chain_id,
        now_millis=now_millis,
        nonce=nonce,
    )


def build_for(
    address: str,
    sign: Callable[[bytes], bytes],
    *,
    domain: str,
    chain_id: str,
    now_millis: int,
    nonce: str | None = None,
) -> str:
    """The header's value for a wallet, whose signature `sign` gives, as the reference makes it.

    `domain` is the hostname of the service as a URL has it: lower case, IPv6 in brackets, no port.
    `chain_id` is a CAIP-2 id. `now_millis` are Unix milliseconds. A nonce is made if none is given.
    """
    unsigned = SignIn(
        domain=domain,
        address=address,
        uri=_uri(domain),
        version=_VERSION,
        chain_id=chain_id,
        type=_TYPE,
        nonce=nonce or secrets.token_hex(16),
        issued_at=_time(now_millis),
        expiration_time=_time(now_millis + LIFETIME_MILLIS),
        signature_scheme=_SCHEME,
        signature="",
    )
    signature = sign(unsigned.message.encode())
    body = {
        "domain": unsigned.domain,
        "address": unsigned.address,
        "uri": unsigned.uri,
        "version": unsigned.version,
        "chainId": unsigned.chain_id,
        "type": unsigned.type,
        "nonce": unsigned.nonce,
        "issuedAt": unsigned.issued_at,
        "expirationTime": unsigned.expiration_time,
        "signatureScheme": unsigned.signature_scheme,
        "signature": base58_encode(signature),
    }
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    return base64.b64encode(text.encode()).decode()


def parse_header(text: str) -> SignIn:
    """The members of a header's value. Members that the format does not know are ignored, as they
    are not in the signed text.

    Raises:
        SignInError: too long, not base64, not JSON, or a member is missing or malformed.
    """
    if len(text) > HEADER_CHARS_MAX:
        raise SignInError(f"the header is longer than {HEADER_CHARS_MAX} characters")
    try:
        value = parse(_decoded(text), depth_max=_DEPTH_MAX)
    except JsonTextError as error:
        raise SignInError(f"the header does not hold JSON: {error}") from None
    if not isinstance(value, dict):
        raise SignInError("the header does not hold a JSON object")
    return SignIn(
        domain=_required(value, "domain"),
        address=_required(value, "address"),
        uri=_required(value, "uri"),
        version=_required(value, "version"),
        chain_id=_required(value, "chainId"),
        type=_required(value, "type"),
        nonce=_required(value, "nonce"),
        issued_at=_required(value, "issuedAt"),
        expiration_time=_required(value, "expirationTime"),
        signature_scheme=_required(value, "signatureScheme"),
        signature=_required(value, "signature"),
        statement=_optional(value, "statement"),
        not_before=_optional(value, "notBefore"),
        request_id=_optional(value, "requestId"),
        resources=_resources(value),
    )


def verify(
    sign_in: SignIn,
    *,
    wallet: str,
    domains: Collection[str],
    chain_references: Collection[str],
    now_seconds: int,
) -> None:
    """Make sure that `wallet` signed this for one of our hostnames and chains, and that it is
    valid now. Whether its nonce was used by another wallet is the caller's to know.

    `domains` are lower-case hostnames without ports (IPv6 with or without brackets);
    `chain_references` are CAIP-2 references without `solana:`; `now_seconds` is Unix time.

    Raises:
        SignInError: with the first thing that is wrong.
    """
    _check_domain(sign_in.domain, domains)
    expected = (
        ("uri", sign_in.uri, _uri(sign_in.domain)),
        ("version", sign_in.version, _VERSION),
        ("type", sign_in.type, _TYPE),
        ("signatureScheme", sign_in.signature_scheme, _SCHEME),
        ("address", sign_in.address, wallet),
    )
    for name, value, wanted in expected:
        if value != wanted:
            raise SignInError(f"{name} must be {wanted}")
    if not sign_in.chain_id.startswith(_CHAIN_NAMESPACE) or (
        sign_in.chain_reference not in chain_references
    ):
        raise SignInError("chainId must be the CAIP-2 id of this service's network")
    if not _NONCE.match(sign_in.nonce):
        raise SignInError("nonce must be 8 to 128 letters, digits or hyphens")
    _check_times(sign_in, now_seconds * 1_000)
    _check_signature(sign_in)


def _check_domain(domain: str, domains: Collection[str]) -> None:
    bare = domain
    if domain.startswith("[") and domain.endswith("]"):
        bare = domain[1:-1]
    elif ":" in domain:
        raise SignInError("domain must be a hostname without a port")
    if domain not in domains and bare not in domains:
        raise SignInError("domain must be a hostname of this service")


def _check_times(sign_in: SignIn, now: int) -> None:
    issued = _millis("issuedAt", sign_in.issued_at)
    expires = sign_in.expires_at_millis
    if issued > now + CLOCK_SKEW_MILLIS:
        raise SignInError("issuedAt is in the future")
    if expires <= now:
        raise SignInError("it has expired: expirationTime has passed")
    if not 0 < expires - issued <= LIFETIME_MILLIS_MAX:
        minutes = LIFETIME_MILLIS_MAX // 60_000
        raise SignInError(f"expirationTime must be at most {minutes} minutes after issuedAt")
    if sign_in.not_before and _millis("notBefore", sign_in.not_before) > now:
        raise SignInError("notBefore is in the future")


def _check_signature(sign_in: SignIn) -> None:
    key = _bytes("address", sign_in.address, crypto_sign_PUBLICKEYBYTES)
    signature = _bytes("signature", sign_in.signature, crypto_sign_BYTES)
    try:
        crypto_sign_open(signature + sign_in.message.encode(), key)
    except BadSignatureError:
        raise SignInError("the signature is not the wallet's for this text") from None


def _bytes(name: str, text: str, size: int) -> bytes:
    try:
        decoded = base58_decode(text)
    except Base58Error:
        decoded = b""
    if len(decoded) != size:
        raise SignInError(f"{name} must be base58 of {size} bytes")
    return decoded


def _decoded(text: str) -> bytes:
    """Standard base64 in its only spelling."""
    if _BASE64.match(text) and len(text) % 4 == 0:
        decoded = base64.b64decode(text)
        if base64.b64encode(decoded).decode() == text:
            return decoded
    raise SignInError("the header must be standard base64 with padding")


def _required(value: dict[str, JsonValue], name: str) -> str:
    text = _optional(value, name)
    if not text:
        raise SignInError(f"{name} is missing")
    return text


def _optional(value: dict[str, JsonValue], name: str) -> str | None:
    return None if name not in value else _printable(name, value[name])


def _resources(value: dict[str, JsonValue]) -> tuple[str, ...]:
    listed = value.get("resources", cast("list[JsonValue]", []))
    if not isinstance(listed, list):
        raise SignInError("resources must be an array of strings")
    return tuple(_printable("resources", resource) for resource in listed)


def _printable(name: str, value: JsonValue) -> str:
    if not isinstance(value, str):
        raise SignInError(f"{name} must be a string")
    if _UNPRINTABLE.search(value):
        raise SignInError(f"{name} holds control characters")
    return value


def _uri(domain: str) -> str:
    return f"https://{domain}{SIGN_IN_PATH}"


def _time(millis: int) -> str:
    """RFC 3339 in UTC with milliseconds, as `Date.prototype.toISOString` writes it."""
    moment = _EPOCH + timedelta(milliseconds=millis)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _millis(name: str, text: str) -> int:
    if _TIME.match(text):
        try:
            return (datetime.fromisoformat(text) - _EPOCH) // _MILLISECOND
        except ValueError:
            pass
    raise SignInError(f"{name} must be a time such as 2026-01-31T12:00:00.000Z")
