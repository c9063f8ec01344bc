"""What a seller sells at, and the questions that it asks the ledger. Nothing is sent here."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from urllib.parse import quote

from session_ledger.challenge import Challenge, ChallengeError
from session_ledger.json_text import JsonTextError, JsonValue, NotTheKindError, members, parse
from session_ledger.seller.calls import Call, json_call
from session_ledger.seller.errors import InvalidVoucher, SellerSetupError
from session_ledger.voucher import HEADER_CHARS_MAX

Meter: TypeAlias = "str | Callable[[Any], int]"
"""A label of the ledger's price book, or a function from a usage to atomic units."""

SignedVoucher: TypeAlias = "str | bytes | Mapping[str, JsonValue]"
"""The header `x-mpp-voucher` (decoded as Latin-1), or the same JSON as bytes or as a dict."""

DEFAULT_METER: Final = "request"
_AMOUNT_MAX: Final = 2**64 - 1
_CHANNEL_CHARS_MAX: Final = 128
_MEMBERS: Final = ("voucher", "signature", "signer", "signatureType")


@dataclass(frozen=True, slots=True)
class Terms:
    """Where a voucher must point and what a request costs, in atomic USDC."""

    recipient: str
    network: str
    price_per_unit: int
    meter: Meter = DEFAULT_METER
    suggested_deposit: int | None = None

    def challenge(self, price: int | None = None) -> Challenge:
        """What to ask for; `price` is that of one route where it has its own.

        Raises:
            SellerSetupError: the network is not known.
        """
        try:
            return Challenge.of(
                recipient=self.recipient,
                network=self.network,
                price_per_unit=self.price_per_unit if price is None else price,
                meter=self.meter if isinstance(self.meter, str) else DEFAULT_METER,
                suggested_deposit=self.suggested_deposit,
            )
        except ChallengeError as error:
            raise SellerSetupError(str(error)) from None

    def charge(self, usage: Any = None) -> dict[str, JsonValue]:
        """What the request costs: the price, or what the meter says of its usage.

        Raises:
            SellerSetupError: the meter gave no amount.
        """
        if usage is None:
            return {"amount": str(self.price_per_unit)}
        if isinstance(self.meter, str):
            return {"meter": self.meter, "usage": str(usage)}
        return {"amount": str(amount_of(self.meter(usage), "the meter's amount"))}

    def price_of(self, usage: Any) -> int:
        """Atomic units of one request: the price, or what a metering function says of it."""
        if isinstance(self.meter, str):
            return self.price_per_unit
        return amount_of(self.meter(usage), "the meter's amount")


def amount_of(value: object, name: str) -> int:
    """Atomic units out of an int or a string of digits.

    Raises:
        SellerSetupError: anything else.
    """
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        value = int(value[:21])
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _AMOUNT_MAX:
        return value
    raise SellerSetupError(f"{name} must be a whole number of atomic units, 0 to 2^64-1")


def price_of(value: object, name: str = "price_per_unit") -> int:
    """An amount above 0.

    Raises:
        SellerSetupError: anything else.
    """
    if (price := amount_of(value, name)) == 0:
        raise SellerSetupError(f"{name} must be more than 0; leave a free route unpaid instead")
    return price


def question(voucher: SignedVoucher, charge: Mapping[str, JsonValue]) -> bytes:
    """The body that asks for a verdict, the voucher in the very characters that it came in.

    Of what the buyer sent, the four members of an envelope are taken and nothing else: the charge
    is the seller's to say.

    Raises:
        InvalidVoucher: no JSON, or longer than a header may be.
    """
    text = json.dumps(dict(voucher)) if isinstance(voucher, Mapping) else voucher
    if len(text) > HEADER_CHARS_MAX:
        raise InvalidVoucher(f"the voucher is longer than {HEADER_CHARS_MAX} characters")
    try:
        found = members(text)
    except NotTheKindError:
        found = {}
        _expect_json(text)
    except JsonTextError as error:
        raise InvalidVoucher(f"the voucher is not JSON that can be read: {error}") from None
    parts = [f'"{name}":{found[name].text}' for name in _MEMBERS if name in found]
    parts.append(f'"charge":{json.dumps(dict(charge))}')
    return f"{{{','.join(parts)}}}".encode()


def _expect_json(text: str | bytes) -> None:
    try:
        parse(text)
    except JsonTextError as error:
        raise InvalidVoucher(f"the voucher is not JSON that can be read: {error}") from None


def digest_of(content: bytes) -> bytes:
    """Names a question."""
    return hashlib.sha256(content).digest()


def session_path(channel_id: str) -> str | None:
    """The path of a session; `None` for what cannot be a channel id."""
    try:
        encoded = quote(channel_id, safe="")
    except UnicodeEncodeError:
        return None
    if not 0 < len(channel_id) <= _CHANNEL_CHARS_MAX or "\0" in channel_id:
        return None
    return f"/v1/sessions/{encoded.replace('.', '%2E')}"


def challenge_call(*, nonce: bool) -> Call:
    """Asks for the challenge as the ledger has it."""
    return Call("GET", "/v1/challenge", {"nonce": "true"} if nonce else {})


def verify_call(content: bytes, key: str) -> Call:
    """Asks for a verdict. The key makes repeating it safe."""
    return json_call("POST", "/v1/vouchers/verify", content, key=key)
