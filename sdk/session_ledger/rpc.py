"""The few calls of Solana's JSON-RPC that a wallet makes, at commitment `confirmed`."""

import base64
import time
from binascii import Error as BinasciiError
from dataclasses import dataclass
from typing import Final

import httpx

from session_ledger.json_text import JsonTextError, JsonValue, parse
from session_ledger.x402.errors import X402Error

COMMITMENT: Final = "confirmed"
_CONFIRM_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.05
_DEPTH_MAX: Final = 64


class RpcError(X402Error):
    """The chain's node refused a call or could not be reached."""


@dataclass(frozen=True, slots=True)
class AccountData:
    """An account: the program that owns it, and its bytes."""

    owner: str
    data: bytes


class Rpc:
    """One node. Safe to share between threads."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=30)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def call(self, method: str, *params: JsonValue) -> JsonValue:
        """The result of one call.

        Raises:
            RpcError: the node is unreachable, or it refused.
        """
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        try:
            answer = parse(self._http.post("", json=body).content, depth_max=_DEPTH_MAX)
        except (httpx.HTTPError, JsonTextError) as error:
            raise RpcError(f"{method}: {error}") from error
        match answer:
            case {"error": {"message": str(message)}}:
                raise RpcError(message)
            case {"result": result}:
                return result
            case _:
                raise RpcError(f"{method}: the node did not answer as JSON-RPC")

    def account(self, address: str) -> AccountData | None:
        """The account at the address, if there is one."""
        config: JsonValue = {"encoding": "base64", "commitment": COMMITMENT}
        match self.call("getAccountInfo", address, config):
            case {"value": None}:
                return None
            case {"value": {"owner": str(owner), "data": [str(text), "base64"]}}:
                return AccountData(owner, _bytes(text))
            case _:
                raise RpcError("getAccountInfo: the node's answer has another shape")

    def latest_blockhash(self) -> str:
        """The blockhash for a new transaction."""
        match self.call("getLatestBlockhash", {"commitment": COMMITMENT}):
            case {"value": {"blockhash": str(blockhash)}}:
                return blockhash
            case _:
                raise RpcError("getLatestBlockhash: the node's answer has another shape")

    def send(self, transaction: bytes) -> str:
        """Send a signed transaction; its signature."""
        text = base64.b64encode(transaction).decode()
        config: JsonValue = {"encoding": "base64", "preflightCommitment": COMMITMENT}
        return _text(self.call("sendTransaction", text, config))

    def airdrop(self, address: str, lamports: int) -> str:
        """Ask a test chain's faucet for SOL; the signature of its transfer."""
        return _text(self.call("requestAirdrop", address, lamports))

    def confirm(self, signature: str) -> None:
        """Wait until the transaction is confirmed.

        Raises:
            RpcError: it failed, or it was not confirmed within a minute.
        """
        deadline = time.monotonic() + _CONFIRM_SECONDS
        while time.monotonic() < deadline:
            match self.call("getSignatureStatuses", [signature]):
                case {"value": [{"err": error, "confirmationStatus": status}]}:
                    if error is not None:
                        raise RpcError(f"Transaction failed: {error}")
                    if status in {"confirmed", "finalized"}:
                        return
                case _:
                    pass
            time.sleep(_POLL_SECONDS)
        raise RpcError(f"Transaction was not confirmed in {_CONFIRM_SECONDS:.0f} seconds")

    def transaction(self, signature: str) -> dict[str, JsonValue] | None:
        """A confirmed transaction with its balances, if the node shows it."""
        config: JsonValue = {
            "encoding": "json",
            "commitment": COMMITMENT,
            "maxSupportedTransactionVersion": 0,
        }
        found = self.call("getTransaction", signature, config)
        return found if isinstance(found, dict) else None


def _text(result: JsonValue) -> str:
    if isinstance(result, str):
        return result
    raise RpcError("the node did not answer with a signature")


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except BinasciiError as error:
        raise RpcError("the node's answer is not base64") from error
