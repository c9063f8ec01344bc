"""The buyers' wire: how its bodies are read, and what its errors look like.

The reference client reads `success`, `error` and `detail` out of every answer, whatever its status,
and fails on anything that is not a JSON object. Fields that it does not know are ignored both ways.

Spec: the reference SDK @dexterai/mpp 0.5.0, `DexterSettlementClient`.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final, cast

import orjson
from fastapi import Request, Response

from service.api.dependencies import json_of
from service.domain.errors import InvalidAmount, InvalidRequest, InvalidWallet, LedgerError
from service.domain.limits import SAFE_INTEGER_MAX
from service.domain.units import AtomicUsdc, Pubkey, parse_amount, parse_pubkey
from session_ledger.json_text import JsonValue

WIRE_PREFIXES: Final = ("/mpp", "/api/sessions")
RETRY_AFTER_SECONDS: Final = 1
TEXT_CHARS_MAX: Final = 256

_WIRE_CODES: Final = {
    "insufficient_funds": "insufficient_balance",
    "allowance_too_small": "insufficient_balance",
    "swig_limit_too_small": "insufficient_balance",
    "swig_role_missing": "swig_role_not_found",
    "swig_role_wrong_key": "swig_role_not_found",
}
_UNAUTHORIZED: Final = 401
_UNAVAILABLE: Final = 503
_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")
_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def is_wire(path: str) -> bool:
    """Whether a path is answered as the reference client reads it, errors included."""
    return any(path == prefix or path.startswith(f"{prefix}/") for prefix in WIRE_PREFIXES)


def wire_json(body: Mapping[str, Any], status: int = 200) -> Response:
    """An answer. Keys without a value are left out by the caller: the client refuses null."""
    return Response(orjson.dumps(body), status, media_type="application/json")


def wire_success(body: Mapping[str, Any]) -> Response:
    """An answer that went well: `success` for the client's code, `ok` for its documentation."""
    return wire_json({"success": True, "ok": True, **body})


def wire_error(status: int, code: str, detail: str, **beside: Any) -> Response:
    """A refusal. `beside` are further members that a program can act on."""
    shown = _LONE_SURROGATE.sub("\ufffd", detail)
    answer = wire_json(
        {"success": False, "ok": False, "error": code, "detail": shown, **beside}, status
    )
    if status == _UNAVAILABLE:
        answer.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    if status == _UNAUTHORIZED:
        answer.headers["WWW-Authenticate"] = "SIGN-IN-WITH-X"
    return answer


def wire_code(error: LedgerError) -> str:
    """The code under which the wire knows an error: what was found, where that says more."""
    reason = cast("str | None", getattr(error, "reason", None))
    return failure_code(reason or error.code)


def failure_code(code: str) -> str:
    """The wire's name of a failure; docs/errors.md knows more of them than the wire."""
    return _WIRE_CODES.get(code, code)


class WireBody:
    """A body's members. A name's aliases are tried in order; null counts as absent.

    Every getter raises InvalidRequest, or what it says, naming the member.
    """

    def __init__(self, members: Mapping[str, JsonValue]) -> None:
        self._members = members

    def get(self, *names: str) -> JsonValue:
        """The first member of these names that is there, else `None`."""
        return next((v for n in names if (v := self._members.get(n)) is not None), None)

    def text(self, *names: str, chars_max: int = TEXT_CHARS_MAX, may_be_empty: bool = False) -> str:
        """A string, which is not empty unless it may be."""
        found = self.optional_text(*names, chars_max=chars_max, may_be_empty=may_be_empty)
        if found is None:
            raise InvalidRequest(f"{names[0]} is missing")
        return found

    def optional_text(
        self, *names: str, chars_max: int = TEXT_CHARS_MAX, may_be_empty: bool = False
    ) -> str | None:
        """A string, which is not empty unless it may be, or nothing."""
        value = self.get(*names)
        if value is None:
            return None
        if not isinstance(value, str) or not (value or may_be_empty):
            raise InvalidRequest(f"{names[0]} must be a string that is not empty")
        if len(value) > chars_max or _UNSTORABLE.search(value):
            raise InvalidRequest(
                f"{names[0]} must have at most {chars_max} characters, "
                "without NUL or lone surrogates"
            )
        return value

    def texts(self, *names: str, count_max: int, chars_max: int = TEXT_CHARS_MAX) -> list[str]:
        """An array of strings that are not empty; absent is empty."""
        value = self.get(*names)
        if value is None:
            return []
        if not isinstance(value, list) or len(value) > count_max:
            raise InvalidRequest(f"{names[0]} must be an array of at most {count_max} strings")
        return [
            WireBody({f"{names[0]}[{n}]": item}).text(f"{names[0]}[{n}]", chars_max=chars_max)
            for n, item in enumerate(value)
        ]

    def wallet(self, *names: str) -> Pubkey:
        """A base58 Solana address.

        Raises:
            InvalidWallet: absent or malformed.
        """
        try:
            return parse_pubkey(self.get(*names), names[0])
        except InvalidRequest as error:
            raise InvalidWallet(error.detail) from None

    def optional_wallet(self, *names: str) -> Pubkey | None:
        """A base58 Solana address, or nothing.

        Raises:
            InvalidWallet: malformed.
        """
        return None if self.get(*names) is None else self.wallet(*names)

    def amount(self, *names: str) -> AtomicUsdc:
        """A decimal string of atomic units, 0 to 2^64-1.

        Raises:
            InvalidAmount: absent or malformed.
        """
        try:
            return parse_amount(self.get(*names), names[0])
        except InvalidRequest as error:
            raise InvalidAmount(error.detail) from None

    def optional_amount(self, *names: str) -> AtomicUsdc | None:
        """A decimal string of atomic units, or nothing.

        Raises:
            InvalidAmount: malformed.
        """
        return None if self.get(*names) is None else self.amount(*names)

    def optional_integer(
        self, *names: str, least: int = 0, most: int = SAFE_INTEGER_MAX
    ) -> int | None:
        """A JSON number without a fraction within bounds, or nothing."""
        value = self.get(*names)
        if value is None:
            return None
        if isinstance(value, int | float) and not isinstance(value, bool):
            whole = int(value) if least <= value <= most else None
            if whole == value:
                return whole
        raise InvalidRequest(f"{names[0]} must be a whole number from {least} to {most}")

    def optional_object(self, *names: str, chars_max: int) -> dict[str, JsonValue]:
        """An object of at most so many characters of JSON; absent is empty."""
        value = self.get(*names)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise InvalidRequest(f"{names[0]} must be an object")
        if len(json.dumps(value, separators=(",", ":"), ensure_ascii=False)) > chars_max:
            raise InvalidRequest(f"{names[0]} must have at most {chars_max} characters")
        return value


async def wire_body(request: Request) -> WireBody:
    """The request's JSON object.

    Raises:
        InvalidRequest: not JSON, or not an object.
    """
    value = await json_of(request)
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object")
    return WireBody(value)
