"""Reading a JSON-RPC provider's answers: whatever has not the expected form is no answer.

Each function gives the value in its type, or raises `ChainUnavailable`.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from solana.exceptions import SolanaRpcException

from service.domain.codec import canonical
from service.domain.errors import ChainUnavailable, Corrupt
from service.domain.limits import U64_MAX
from service.domain.onchain import RawAccount, SignatureStatus
from service.domain.units import Lamports, Slot

_ERROR_CHARS_MAX: Final = 2_000
_LOG_LINES_MAX: Final = 64
_LOG_CHARS_MAX: Final = 300
_LEVELS: Final = ("processed", "confirmed", "finalized")
_AMOUNT: Final = re.compile(r"[0-9]{1,20}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The provider answered with an error object of this code."""

    code: int


def malformed(what: str) -> ChainUnavailable:
    """The refusal of an answer, by what is wrong with it."""
    return ChainUnavailable(f"malformed answer: {what}", unreadable=True)


def transport_reason(error: SolanaRpcException) -> str:
    """The kind of transport failure; its text would hold the URL."""
    cause = error.__cause__
    status = getattr(getattr(cause, "response", None), "status_code", None)
    return f"status {status}" if isinstance(status, int) else type(cause).__name__


def parsed(text: str) -> object:
    """JSON without a member that stands twice."""
    try:
        return json.loads(text, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError):
        raise malformed("no JSON") from None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member stands twice")
    return members


def result_of(answer: Mapping[str, object]) -> object | Refusal:
    """The result, or the refusal, of an answer."""
    if answer.get("error") is not None:
        return Refusal(_error_code(as_object(answer["error"]).get("code")))
    if "result" not in answer:
        raise malformed("neither result nor error")
    return answer["result"]


def _error_code(value: object) -> int:
    """A JSON-RPC error code."""
    if type(value) is not int:
        raise malformed("an error without a code")
    return value


def as_object(value: object) -> Mapping[str, object]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise malformed("an object is missing")
    return cast("dict[str, object]", value)


def as_list(value: object) -> list[object]:
    """A JSON array."""
    if not isinstance(value, list):
        raise malformed("a list is missing")
    return cast("list[object]", value)


def as_integer(value: object) -> int:
    """An integer of 64 bits."""
    if type(value) is not int or not 0 <= value <= U64_MAX:
        raise malformed("an integer is missing")
    return value


def as_text(value: object) -> str:
    """A string."""
    if not isinstance(value, str):
        raise malformed("a string is missing")
    return value


def context_slot(value: Mapping[str, object]) -> Slot:
    """The slot of an answer's context."""
    return Slot(as_integer(as_object(value.get("context")).get("slot")))


def as_base64(data: bytes) -> str:
    """Bytes as a request has them."""
    return base64.b64encode(data).decode()


def as_bytes(value: object) -> bytes:
    """`[text, "base64"]`, as accounts and transactions come."""
    match value:
        case [str() as text, "base64"]:
            try:
                return base64.b64decode(text, validate=True)
            except binascii.Error:
                pass
        case _:
            pass
    raise malformed("base64 data is missing")


def raw_account(address: str, value: object) -> RawAccount | None:
    if value is None:
        return None
    found = as_object(value)
    return RawAccount(
        address=address,
        owner=as_text(found.get("owner")),
        lamports=Lamports(as_integer(found.get("lamports"))),
        data=as_bytes(found.get("data")),
    )


def signature_status(value: object, context_slot: Slot) -> SignatureStatus:
    """A status; null is one that the provider has nothing of."""
    if value is None:
        return SignatureStatus(None, None, None, context_slot)
    status = as_object(value)
    level = status.get("confirmationStatus")
    if level is None and status.get("confirmations", 0) is None:
        level = "finalized"  # old entries say it by null confirmations alone
    if level not in _LEVELS:
        raise malformed("a confirmation status is unknown")
    return SignatureStatus(
        level=level,
        slot=Slot(as_integer(status.get("slot"))),
        error=transaction_error(status.get("err")),
        context_slot=context_slot,
    )


def transaction_error(value: object) -> object | None:
    """A transaction error, which is recorded as it stands, so it must be plain and short."""
    try:
        if value is None or len(canonical(value)) <= _ERROR_CHARS_MAX:
            return value
    except Corrupt:
        pass
    raise malformed("a transaction error has no plain form")


def log_lines(value: object) -> tuple[str, ...]:
    lines = cast("list[object]", value) if isinstance(value, list) else []
    return tuple(str(line)[:_LOG_CHARS_MAX] for line in lines[:_LOG_LINES_MAX])


def inner_programs(value: object) -> tuple[str, ...] | None:
    """The programs that were invoked below the top level; `None` unless all are named.

    Spec: Solana RPC, `simulateTransaction`, whose inner instructions are always parsed.
    """
    if not isinstance(value, list):
        return None
    groups = [as_object(group).get("instructions") for group in cast("list[object]", value)]
    steps = [as_object(step) for group in groups for step in as_list(group)]
    names = [step.get("programId") for step in steps]
    return tuple(map(str, names)) if all(isinstance(name, str) for name in names) else None


def token_changes(meta: Mapping[str, object], keys: list[str]) -> dict[str, int]:
    """Post minus pre of every token account, in atomic units; a side that is missing is 0."""
    changes = dict.fromkeys(keys, 0)
    for member, sign in (("preTokenBalances", -1), ("postTokenBalances", 1)):
        balances = meta.get(member)
        if not isinstance(balances, list):
            raise malformed("token balances are missing")
        for entry in cast("list[object]", balances):
            balance = as_object(entry)
            index = as_integer(balance.get("accountIndex"))
            if index >= len(keys):
                raise malformed("a token balance cannot be read")
            changes[keys[index]] += sign * token_amount(balance)
    return {account: change for account, change in changes.items() if change}


def token_amount(balance: Mapping[str, object]) -> int:
    """The atomic units of an entry of the token balances."""
    amount = as_text(as_object(balance.get("uiTokenAmount")).get("amount"))
    if not _AMOUNT.fullmatch(amount):
        raise malformed("a token balance cannot be read")
    return int(amount)
