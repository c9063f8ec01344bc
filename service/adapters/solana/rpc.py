"""The `Chain` port over one Solana JSON-RPC provider.

A provider's answer is untrusted: whatever does not have exactly the expected form is
`ChainUnavailable`, never a crash and never evidence. URLs carry credentials, so no URL and no
transaction appears in an error or a record.
"""

import itertools
from collections.abc import Sequence
from hashlib import sha256
from typing import Final, Literal
from urllib.parse import urlsplit

from solana.exceptions import SolanaRpcException
from solana.rpc.async_http_provider import AsyncHTTPProvider
from solana.rpc.jsonrpc import JsonRpcRequest
from solders.message import to_bytes_versioned
from solders.transaction import VersionedTransaction

from service.adapters.solana import accounts
from service.adapters.solana.observed import observed
from service.adapters.solana.rpc_answers import (
    Refusal,
    as_base64,
    as_bytes,
    as_integer,
    as_list,
    as_object,
    as_text,
    context_slot,
    inner_programs,
    log_lines,
    malformed,
    parsed,
    raw_account,
    result_of,
    signature_status,
    token_changes,
    transaction_error,
    transport_reason,
)
from service.adapters.solana.transfer import transaction_memos
from service.domain.errors import ChainUnavailable
from service.domain.observed import ObservedTransaction
from service.domain.onchain import (
    AccountsReading,
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
_INVALID_PARAMS: Final = -32602
"""Spec: JSON-RPC 2.0. The only refusal that is about the question, not about the node."""
_SIGNATURE_REFUSALS: Final = (Refusal(-32003), Refusal(-32006))
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
        return as_text(await self._request("getGenesisHash"))

    async def latest_blockhash(self) -> LatestBlockhash:
        """A blockhash at `confirmed`; the cluster's identity is checked again."""
        await self._check_genesis()
        context = as_object(await self._call("getLatestBlockhash", {"commitment": "confirmed"}))
        value = as_object(context.get("value"))
        return LatestBlockhash(
            blockhash=as_text(value.get("blockhash")),
            last_valid_block_height=BlockHeight(as_integer(value.get("lastValidBlockHeight"))),
            tip_height=await self._height("processed"),
            slot=context_slot(context),
            first_available_slot=await self._first_available_slot(),
        )

    async def token_account(self, address: str, commitment: Commitment) -> TokenAccount | None:
        """The token account at `address`; `None` when there is none."""
        found = await self._account(address, commitment)
        if found is None:
            return None
        program, data, slot = found
        return accounts.token_account(address, program, data, slot)

    async def accounts(
        self, addresses: Sequence[str], commitment: Commitment, *, first_bytes: int | None = None
    ) -> AccountsReading:
        """The accounts as they are stored, or the first bytes of each, at one slot."""
        options: dict[str, object] = {"encoding": "base64", "commitment": commitment}
        if first_bytes is not None:
            options["dataSlice"] = {"offset": 0, "length": first_bytes}
        context = as_object(await self._call("getMultipleAccounts", list(addresses), options))
        values = as_list(context.get("value"))
        if len(values) != len(addresses):
            raise malformed("the accounts are not those asked for")
        found = zip(addresses, values, strict=True)
        return AccountsReading(
            slot=context_slot(context),
            accounts=tuple(raw_account(address, value) for address, value in found),
        )

    async def mint(self, address: str) -> Mint | None:
        """The mint at `address`; `None` when there is none."""
        found = await self._account(address, "confirmed")
        if found is None:
            return None
        program, data, _ = found
        return accounts.mint(address, program, data)

    async def lamports(self, address: str) -> Lamports:
        """The balance at `confirmed`, in lamports."""
        context = as_object(await self._call("getBalance", address, {"commitment": "confirmed"}))
        return Lamports(as_integer(context.get("value")))

    async def simulate(self, transaction: bytes, *, complete: bool = True) -> Simulation:
        """Simulate the bytes exactly as they are, at `confirmed`; a complete one with signatures
        verified.

        A provider that refuses the signatures says so by an RPC error, before it simulates.
        """
        options = {
            "encoding": "base64",
            "sigVerify": complete,
            "replaceRecentBlockhash": False,
            "commitment": "confirmed",
            "innerInstructions": not complete,
        }
        answer = await self._exchange("simulateTransaction", as_base64(transaction), options)
        if answer in _SIGNATURE_REFUSALS:
            return Simulation("SignatureFailure", (), 0)
        context = as_object(self._unrefused("simulateTransaction", answer))
        value = as_object(context.get("value"))
        return Simulation(
            error=transaction_error(value.get("err")),
            logs=log_lines(value.get("logs")),
            units_consumed=as_integer(value.get("unitsConsumed") or 0),
            inner_programs=inner_programs(value.get("innerInstructions")),
        )

    async def send(self, transaction: bytes) -> str:
        """Hand over the bytes, without preflight and without the node's own retries."""
        options = {"encoding": "base64", "skipPreflight": True, "maxRetries": 0}
        answer = await self._exchange("sendTransaction", as_base64(transaction), options)
        return f"refused {answer.code}" if isinstance(answer, Refusal) else "accepted"

    async def signature_status(self, signature: str) -> SignatureStatus:
        """The status, the history searched; `level` is `None` when the provider has none."""
        return (await self.signature_statuses([signature]))[0]

    async def signature_statuses(self, signatures: Sequence[str]) -> list[SignatureStatus]:
        """At most 256 statuses, in the order asked for."""
        options = {"searchTransactionHistory": True}
        context = as_object(await self._call("getSignatureStatuses", list(signatures), options))
        values = as_list(context.get("value"))
        if len(values) != len(signatures):
            raise malformed("the statuses are not those asked for")
        return [signature_status(value, context_slot(context)) for value in values]

    async def heights(self) -> ChainHeights:
        """The heights; the finalized one and its slot are of one reading."""
        epoch = as_object(await self._call("getEpochInfo", {"commitment": "finalized"}))
        return ChainHeights(
            tip=await self._height("confirmed"),
            finalized=BlockHeight(as_integer(epoch.get("blockHeight"))),
            finalized_slot=Slot(as_integer(epoch.get("absoluteSlot"))),
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
        found = as_object(result)
        raw = as_bytes(found.get("transaction"))
        try:
            transaction = VersionedTransaction.from_bytes(raw)
        except ValueError:
            raise malformed("a transaction cannot be read") from None
        if [signature] != [str(first) for first in transaction.signatures[:1]]:
            raise malformed("another transaction was served")
        meta = as_object(found.get("meta"))
        keys = [str(key) for key in transaction.message.account_keys]
        return FinalizedTransaction(
            signature=signature,
            slot=Slot(as_integer(found.get("slot"))),
            error=transaction_error(meta.get("err")),
            token_changes=token_changes(meta, keys),
            memos=transaction_memos(transaction),
            raw_hash=sha256(raw).digest(),
            message_hash=sha256(to_bytes_versioned(transaction.message)).digest(),
            logs=log_lines(meta.get("logMessages")),
        )

    async def transaction(
        self, signature: str, commitment: Literal["confirmed", "finalized"]
    ) -> ObservedTransaction | None:
        """The transaction with all that it did; `None` when the provider has none at that level."""
        options = {
            "encoding": "base64",
            "commitment": commitment,
            "maxSupportedTransactionVersion": 0,
        }
        result = await self._call("getTransaction", signature, options)
        return None if result is None else observed(signature, result)

    async def _height(self, commitment: Commitment) -> BlockHeight:
        height = await self._call("getBlockHeight", {"commitment": commitment})
        return BlockHeight(as_integer(height))

    async def _first_available_slot(self) -> Slot:
        return Slot(as_integer(await self._call("getFirstAvailableBlock")))

    async def _account(
        self, address: str, commitment: Commitment
    ) -> tuple[str, bytes, Slot] | None:
        options = {"encoding": "base64", "commitment": commitment}
        context = as_object(await self._call("getAccountInfo", address, options))
        if context.get("value") is None:
            return None
        value = as_object(context["value"])
        return as_text(value.get("owner")), as_bytes(value.get("data")), context_slot(context)

    async def _call(self, method: str, *params: object) -> object:
        """The result of a method; a refusal is no answer."""
        return self._unrefused(method, await self._exchange(method, *params))

    def _unrefused(self, method: str, answer: object | Refusal) -> object:
        if isinstance(answer, Refusal):
            raise ChainUnavailable(
                f"{self._name}: {method}: error {answer.code}",
                unreadable=answer.code == _INVALID_PARAMS,
            )
        return answer

    async def _exchange(self, method: str, *params: object) -> object | Refusal:
        """One request to a provider that serves the right cluster."""
        if not self._genesis_checked:
            await self._check_genesis()
        return await self._request(method, *params)

    async def _check_genesis(self) -> None:
        """Make sure that the provider serves the right cluster, now."""
        self._genesis_checked = await self.genesis_hash() == self._genesis_hash
        if not self._genesis_checked:
            raise ChainUnavailable(f"{self._name} serves another cluster")

    async def _request(self, method: str, *params: object) -> object | Refusal:
        number = next(self._ids)
        request = JsonRpcRequest(id=number, method=method, params=list(params))
        try:
            text = await self._provider.make_request_unparsed(request)
        except SolanaRpcException as error:
            raise ChainUnavailable(f"{self._name}: {method}: {transport_reason(error)}") from None
        answer = as_object(parsed(text))
        if answer.get("id") != number:
            raise malformed("the answer is to another request")
        return result_of(answer)
