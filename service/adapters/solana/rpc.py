"""The `Chain` port over one Solana JSON-RPC provider.

A provider's answer is untrusted: whatever does not have exactly the expected form is
`ChainUnavailable`, never a crash and never evidence. URLs carry credentials, so no URL and no
transaction appears in an error or a record.
"""

import base64
import binascii
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, cast
from urllib.parse import urlsplit

from solana.exceptions import SolanaRpcException
from solana.rpc.async_http_provider import AsyncHTTPProvider
from solana.rpc.jsonrpc import JsonRpcRequest
from solders.transaction import VersionedTransaction

from service.adapters.solana import accounts
from service.adapters.solana.transfer import transaction_memos
from service.domain.codec import canonical
from service.domain.errors import ChainUnavailable, Corrupt
from service.domain.limits import U64_MAX
from service.domain.onchain import (
    ChainHeights,
    Commitment,
    FinalizedTransaction,
    LatestBlockhash,
    Mint,
    SignatureStatus,
    Simulation,
    TokenAccount,
)
from service.domain.units import BlockHeight, Lamports, Slot

TIMEOUT_SECONDS: Final = 10.0
"""Longest wait for one answer; a worker has other settlements to look after."""
_ERROR_CHARS_MAX: Final = 2_000
_LOG_LINES_MAX: Final = 64
_LOG_CHARS_MAX: Final = 300
_AMOUNT: Final = re.compile(r"[0-9]{1,20}", re.ASCII)
_LEVELS: Final = ("processed", "confirmed", "finalized")


@dataclass(frozen=True, slots=True)
class _Refusal:
    """The provider answered with an error object of this code."""

    code: int


_SIGNATURE_REFUSALS: Final = (_Refusal(-32003), _Refusal(-32006))
"""Signature and precompile verification failure. Spec: agave `rpc-client-api`, custom errors."""


class SolanaRpc:
    """One provider. `genesis_hash` is checked before the first answer counts, and at each signing.

    Raises:
        ValueError: `url` is not an http or https URL.
    """

    def __init__(
        self, url: str, genesis_hash: str, *, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("an RPC provider is an http or https URL")
        self._name = parts.hostname if parts.port is None else f"{parts.hostname}:{parts.port}"
        self._genesis_hash = genesis_hash
        self._genesis_checked = False
        self._provider = AsyncHTTPProvider(url, timeout=timeout_seconds)
        self._ids = itertools.count(1)

    @property
    def name(self) -> str:
        """Host and port; the rest of the URL may hold a key."""
        return self._name

    async def close(self) -> None:
        """Close the connections."""
        await self._provider.close()

    async def genesis_hash(self) -> str:
        """The cluster's genesis hash as the provider says it now, unchecked."""
        return _text(await self._request("getGenesisHash"))

    async def latest_blockhash(self) -> LatestBlockhash:
        """A blockhash at `confirmed`; the cluster's identity is checked again."""
        self._genesis_checked = False
        context = _object(await self._call("getLatestBlockhash", {"commitment": "confirmed"}))
        value = _object(context.get("value"))
        return LatestBlockhash(
            blockhash=_text(value.get("blockhash")),
            last_valid_block_height=BlockHeight(_integer(value.get("lastValidBlockHeight"))),
            tip_height=await self._height("processed"),
            slot=_context_slot(context),
            first_available_slot=await self._first_available_slot(),
        )

    async def token_account(self, address: str, commitment: Commitment) -> TokenAccount | None:
        """The token account at `address`; `None` when there is none."""
        found = await self._account(address, commitment)
        if found is None:
            return None
        program, data, slot = found
        return accounts.token_account(address, program, data, slot)

    async def mint(self, address: str) -> Mint | None:
        """The mint at `address`; `None` when there is none."""
        found = await self._account(address, "confirmed")
        if found is None:
            return None
        program, data, _ = found
        return accounts.mint(address, program, data)

    async def lamports(self, address: str) -> Lamports:
        """The balance at `confirmed`, in lamports."""
        context = _object(await self._call("getBalance", address, {"commitment": "confirmed"}))
        return Lamports(_integer(context.get("value")))

    async def simulate(self, transaction: bytes) -> Simulation:
        """Simulate the bytes exactly as they are, signatures verified, at `confirmed`.

        A provider that refuses the signatures says so by an RPC error, before it simulates.
        """
        options = {
            "encoding": "base64",
            "sigVerify": True,
            "replaceRecentBlockhash": False,
            "commitment": "confirmed",
        }
        answer = await self._exchange("simulateTransaction", _base64(transaction), options)
        if answer in _SIGNATURE_REFUSALS:
            return Simulation("SignatureFailure", (), 0)
        context = _object(self._unrefused("simulateTransaction", answer))
        value = _object(context.get("value"))
        return Simulation(
            error=_error(value.get("err")),
            logs=_logs(value.get("logs")),
            units_consumed=_integer(value.get("unitsConsumed") or 0),
        )

    async def send(self, transaction: bytes) -> str:
        """Hand over the bytes, without preflight and without the node's own retries."""
        options = {"encoding": "base64", "skipPreflight": True, "maxRetries": 0}
        answer = await self._exchange("sendTransaction", _base64(transaction), options)
        return f"refused {answer.code}" if isinstance(answer, _Refusal) else "accepted"

    async def signature_status(self, signature: str) -> SignatureStatus:
        """The status, the history searched; `level` is `None` when the provider has none."""
        options = {"searchTransactionHistory": True}
        context = _object(await self._call("getSignatureStatuses", [signature], options))
        match context.get("value"):
            case [None]:
                return SignatureStatus(None, None, None, _context_slot(context))
            case [object() as found]:
                status = _object(found)
            case _:
                raise _malformed("the statuses are not one")
        level = status.get("confirmationStatus")
        if level is None and status.get("confirmations", 0) is None:
            level = "finalized"  # old entries say it by null confirmations alone
        if level not in _LEVELS:
            raise _malformed("a confirmation status is unknown")
        return SignatureStatus(
            level=level,
            slot=Slot(_integer(status.get("slot"))),
            error=_error(status.get("err")),
            context_slot=_context_slot(context),
        )

    async def heights(self) -> ChainHeights:
        """The heights; the finalized one and its slot are of one reading."""
        epoch = _object(await self._call("getEpochInfo", {"commitment": "finalized"}))
        return ChainHeights(
            tip=await self._height("confirmed"),
            finalized=BlockHeight(_integer(epoch.get("blockHeight"))),
            finalized_slot=Slot(_integer(epoch.get("absoluteSlot"))),
            first_available_slot=await self._first_available_slot(),
        )

    async def finalized_transaction(self, signature: str) -> FinalizedTransaction | None:
        """The transaction with its balance changes; `None` when the provider has none finalized."""
        options = {
            "encoding": "base64",
            "commitment": "finalized",
            "maxSupportedTransactionVersion": 0,
        }
        result = await self._call("getTransaction", signature, options)
        if result is None:
            return None
        found = _object(result)
        raw = _bytes(found.get("transaction"))
        try:
            transaction = VersionedTransaction.from_bytes(raw)
        except ValueError:
            raise _malformed("a transaction cannot be read") from None
        if [signature] != [str(first) for first in transaction.signatures[:1]]:
            raise _malformed("another transaction was served")
        meta = _object(found.get("meta"))
        keys = [str(key) for key in transaction.message.account_keys]
        return FinalizedTransaction(
            signature=signature,
            slot=Slot(_integer(found.get("slot"))),
            error=_error(meta.get("err")),
            token_changes=_token_changes(meta, keys),
            memos=transaction_memos(transaction),
            raw_hash=sha256(raw).digest(),
            logs=_logs(meta.get("logMessages")),
        )

    async def _height(self, commitment: Commitment) -> BlockHeight:
        height = await self._call("getBlockHeight", {"commitment": commitment})
        return BlockHeight(_integer(height))

    async def _first_available_slot(self) -> Slot:
        return Slot(_integer(await self._call("getFirstAvailableBlock")))

    async def _account(
        self, address: str, commitment: Commitment
    ) -> tuple[str, bytes, Slot] | None:
        options = {"encoding": "base64", "commitment": commitment}
        context = _object(await self._call("getAccountInfo", address, options))
        if context.get("value") is None:
            return None
        value = _object(context["value"])
        return _text(value.get("owner")), _bytes(value.get("data")), _context_slot(context)

    async def _call(self, method: str, *params: object) -> object:
        """The result of a method; a refusal is no answer."""
        return self._unrefused(method, await self._exchange(method, *params))

    def _unrefused(self, method: str, answer: object | _Refusal) -> object:
        if isinstance(answer, _Refusal):
            raise ChainUnavailable(f"{self._name}: {method}: error {answer.code}")
        return answer

    async def _exchange(self, method: str, *params: object) -> object | _Refusal:
        """One request to a provider that serves the right cluster."""
        if not self._genesis_checked:
            if await self.genesis_hash() != self._genesis_hash:
                raise ChainUnavailable(f"{self._name} serves another cluster")
            self._genesis_checked = True
        return await self._request(method, *params)

    async def _request(self, method: str, *params: object) -> object | _Refusal:
        number = next(self._ids)
        request = JsonRpcRequest(id=number, method=method, params=list(params))
        try:
            text = await self._provider.make_request_unparsed(request)
        except SolanaRpcException as error:
            raise ChainUnavailable(f"{self._name}: {method}: {_reason(error)}") from None
        answer = _object(_parse(text))
        if answer.get("id") != number:
            raise _malformed("the answer is to another request")
        return _result(answer)


# --- reading answers ------------------------------------------------------------------------


def _malformed(what: str) -> ChainUnavailable:
    return ChainUnavailable(f"malformed answer: {what}")


def _reason(error: SolanaRpcException) -> str:
    """The kind of transport failure; its text would hold the URL."""
    cause = error.__cause__
    status = getattr(getattr(cause, "response", None), "status_code", None)
    return f"status {status}" if isinstance(status, int) else type(cause).__name__


def _parse(text: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError):
        raise _malformed("no JSON") from None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member stands twice")
    return members


def _result(answer: Mapping[str, object]) -> object | _Refusal:
    if answer.get("error") is not None:
        return _Refusal(_code(_object(answer["error"]).get("code")))
    if "result" not in answer:
        raise _malformed("neither result nor error")
    return answer["result"]


def _code(value: object) -> int:
    if type(value) is not int:
        raise _malformed("an error without a code")
    return value


def _object(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise _malformed("an object is missing")
    return cast("dict[str, object]", value)


def _integer(value: object) -> int:
    if type(value) is not int or not 0 <= value <= U64_MAX:
        raise _malformed("an integer is missing")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _malformed("a string is missing")
    return value


def _context_slot(value: Mapping[str, object]) -> Slot:
    return Slot(_integer(_object(value.get("context")).get("slot")))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(value: object) -> bytes:
    """`[text, "base64"]`, as accounts and transactions come."""
    match value:
        case [str() as text, "base64"]:
            try:
                return base64.b64decode(text, validate=True)
            except binascii.Error:
                pass
        case _:
            pass
    raise _malformed("base64 data is missing")


def _error(value: object) -> object | None:
    """A transaction error, which is recorded as it stands, so it must be plain and short."""
    try:
        if value is None or len(canonical(value)) <= _ERROR_CHARS_MAX:
            return value
    except Corrupt:
        pass
    raise _malformed("a transaction error has no plain form")


def _logs(value: object) -> tuple[str, ...]:
    lines = cast("list[object]", value) if isinstance(value, list) else []
    return tuple(str(line)[:_LOG_CHARS_MAX] for line in lines[:_LOG_LINES_MAX])


def _token_changes(meta: Mapping[str, object], keys: list[str]) -> dict[str, int]:
    """Post minus pre of every token account, in atomic units; a side that is missing is 0."""
    changes = dict.fromkeys(keys, 0)
    for member, sign in (("preTokenBalances", -1), ("postTokenBalances", 1)):
        balances = meta.get(member)
        if not isinstance(balances, list):
            raise _malformed("token balances are missing")
        for entry in cast("list[object]", balances):
            balance = _object(entry)
            index = _integer(balance.get("accountIndex"))
            amount = _text(_object(balance.get("uiTokenAmount")).get("amount"))
            if index >= len(keys) or not _AMOUNT.fullmatch(amount):
                raise _malformed("a token balance cannot be read")
            changes[keys[index]] += sign * int(amount)
    return {account: change for account, change in changes.items() if change}
