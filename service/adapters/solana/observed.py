"""A `getTransaction` answer as an `ObservedTransaction`: every account, balance, transfer, memo.

The wire bytes say which instructions the transaction has, `meta` what they did: the addresses that
lookup tables gave, the instructions of called programs, the token balances on both sides.
Spec: Solana JSON-RPC, `getTransaction` in base64; spl-token and Token-2022, `instruction`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from solders.transaction import VersionedTransaction
from spl.memo.constants import MEMO_PROGRAM_ID
from spl.token.constants import TOKEN_2022_PROGRAM_ID, TOKEN_PROGRAM_ID

from service.adapters.solana.rpc_answers import (
    as_bytes,
    as_integer,
    as_list,
    as_object,
    as_text,
    malformed,
    token_amount,
    transaction_error,
)
from service.domain.observed import ObservedTransaction, TokenBalance, TokenTransfer
from service.domain.units import Slot
from session_ledger.encoding import Base58Error, base58_decode

_MEMO_PROGRAMS: Final = (str(MEMO_PROGRAM_ID), "Memo1UhkJRfHyvLMcVucJwxXeuD728EqVDDwQDxFMNo")
"""The memo program, and its first version, which is still deployed."""
_TOKEN_PROGRAMS: Final = (str(TOKEN_PROGRAM_ID), str(TOKEN_2022_PROGRAM_ID))
_TRANSFER, _TRANSFER_CHECKED = 3, 12
_TRANSFER_WITH_FEE: Final = b"\x1a\x01"
"""TransferFeeExtension, TransferCheckedWithFee."""
_INNER_DATA_CHARS_MAX: Final = 128
"""Base58 text that is decoded; a transfer has at most 26 characters. Longer data is no transfer."""


@dataclass(frozen=True, slots=True)
class _Step:
    """One instruction of any level. `data` is empty where it is too long to matter."""

    program: str
    accounts: tuple[str, ...]
    data: bytes


def observed(signature: str, result: object) -> ObservedTransaction:
    """The transaction of an answer.

    Raises:
        ChainUnavailable: the answer has another form, or is of another transaction.
    """
    found = as_object(result)
    raw = as_bytes(found.get("transaction"))
    try:
        transaction = VersionedTransaction.from_bytes(raw)
    except ValueError:
        raise malformed("a transaction cannot be read") from None
    if [signature] != [str(first) for first in transaction.signatures[:1]]:
        raise malformed("another transaction was served")
    message, meta = transaction.message, as_object(found.get("meta"))
    keys = [*map(str, message.account_keys), *_loaded(meta)]
    own = [
        _step(keys, step.program_id_index, step.accounts, bytes(step.data))
        for step in message.instructions
    ]
    steps = [*own, *_inner_steps(meta, keys)]
    block_time = found.get("blockTime")
    return ObservedTransaction(
        signature=signature,
        slot=Slot(as_integer(found.get("slot"))),
        block_time=None if block_time is None else as_integer(block_time),
        error=transaction_error(meta.get("err")),
        signers=tuple(keys[: message.header.num_required_signatures]),
        accounts=tuple(keys),
        balances=_balances(meta, keys),
        transfers=tuple(_transfers(steps)),
        memos=tuple(
            step.data.decode(errors="replace") for step in steps if step.program in _MEMO_PROGRAMS
        ),
        raw_hash=sha256(raw).digest(),
    )


def _loaded(meta: Mapping[str, object]) -> list[str]:
    """What lookup tables gave, in the order that indexes count."""
    loaded = meta.get("loadedAddresses")
    if loaded is None:  # a legacy transaction of an older provider
        return []
    sides = as_object(loaded)
    return [as_text(key) for side in ("writable", "readonly") for key in as_list(sides.get(side))]


def _inner_steps(meta: Mapping[str, object], keys: Sequence[str]) -> Iterator[_Step]:
    for group in as_list(meta.get("innerInstructions")):
        for entry in as_list(as_object(group).get("instructions")):
            step = as_object(entry)
            accounts = [as_integer(index) for index in as_list(step.get("accounts"))]
            program = as_integer(step.get("programIdIndex"))
            yield _step(keys, program, accounts, _inner_data(as_text(step.get("data"))))


def _inner_data(text: str) -> bytes:
    if len(text) > _INNER_DATA_CHARS_MAX:
        return b""
    try:
        return base58_decode(text)
    except Base58Error:
        raise malformed("an instruction's data is not base58") from None


def _step(keys: Sequence[str], program: int, accounts: Iterable[int], data: bytes) -> _Step:
    try:
        return _Step(keys[program], tuple(keys[index] for index in accounts), data)
    except IndexError:
        raise malformed("an instruction names an account that is not there") from None


def _transfers(steps: Iterable[_Step]) -> Iterator[TokenTransfer]:
    for step in steps:
        if step.program not in _TOKEN_PROGRAMS:
            continue
        match step.accounts, step.data:
            case [source, destination, authority, *_], data if (
                data[:1] == bytes([_TRANSFER]) and len(data) >= 9  # noqa: PLR2004  tag and u64
            ):
                amount = data[1:9]
            case [source, _, destination, authority, *_], data if (
                data[:1] == bytes([_TRANSFER_CHECKED]) and len(data) >= 9  # noqa: PLR2004
            ):
                amount = data[1:9]
            case [source, _, destination, authority, *_], data if (
                data[:2] == _TRANSFER_WITH_FEE and len(data) >= 10  # noqa: PLR2004
            ):
                amount = data[2:10]
            case _:
                continue
        yield TokenTransfer(source, destination, authority, int.from_bytes(amount, "little"))


def _balances(meta: Mapping[str, object], keys: Sequence[str]) -> tuple[TokenBalance, ...]:
    """Both sides of every (account, owner, mint); a side that is missing is 0."""
    sides: dict[tuple[str, str, str, str], list[int]] = {}
    for side, member in enumerate(("preTokenBalances", "postTokenBalances")):
        for entry in as_list(meta.get(member)):
            balance = as_object(entry)
            index = as_integer(balance.get("accountIndex"))
            if index >= len(keys):
                raise malformed("a token balance is of an account that is not there")
            of = (
                keys[index],
                as_text(balance.get("owner")),
                as_text(balance.get("mint")),
                as_text(balance.get("programId")),
            )
            sides.setdefault(of, [0, 0])[side] = token_amount(balance)
    return tuple(TokenBalance(*of, *amounts) for of, amounts in sides.items())
