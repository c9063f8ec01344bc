"""The reference's buyer, call by call, over httpx.

An independent witness like `dexter_verifier`: nothing of the product is imported, and every quirk
that a server can notice is kept. An argument of `None` is JavaScript's `undefined`.

Spec: @dexterai/mpp 0.5.0, `DexterSettlementClient` and `createSessionClient`.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

import httpx
from solders.keypair import Keypair

from tests.e2e.dexter_javascript import big_integer, parse, stringify, truthy
from tests.e2e.dexter_signing import (
    SignMessage,
    SignTransaction,
    message_signer,
    sign_in_header,
    transaction_signer,
)

PREPARE_MS: Final = 10_000
SETTLE_MS: Final = 30_000
ROUNDS_MAX: Final = 3


class SettlementError(Exception):
    """An error with a code that callers branch on."""

    def __init__(self, code: Any, message: Any) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class PlainError(Exception):
    """An `Error` without a code."""


# --- the HTTP client ------------------------------------------------------------------------


class SettlementClient:
    """`DexterSettlementClient`. The connections are the caller's `http`, which has no timeouts."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        base_url: str = "https://x402.dexter.cash",
        *,
        prepare_ms: int = PREPARE_MS,
        settle_ms: int = SETTLE_MS,
    ) -> None:
        self._http, self.base_url = http, base_url.rstrip("/")
        self._prepare_ms, self._settle_ms = prepare_ms, settle_ms

    async def prepare(self, *, network: str | None = None) -> dict[str, Any]:
        body = {"network": network}
        return await self._one_shot("prepare", body, self._prepare_ms, _PREPARED)

    async def settle(
        self, *, transaction: str, recipient: str, amount: str, asset: str, network: str
    ) -> dict[str, Any]:
        body = {
            "transaction": transaction,
            "recipient": recipient,
            "amount": amount,
            "asset": asset,
            "network": network,
        }
        return await self._one_shot("settle", body, self._settle_ms, _SETTLED)

    async def session_open(self, **body: Any) -> dict[str, Any]:
        fallback = ("session_open_failed", "Session open failed")
        return await self._session("open", body, self._settle_ms, fallback)

    async def session_voucher(self, **body: Any) -> dict[str, Any]:
        fallback = ("voucher_failed", "Voucher signing failed")
        return await self._session("voucher", body, self._prepare_ms, fallback)

    async def session_close(self, **body: Any) -> dict[str, Any]:
        fallback = ("session_close_failed", "Session close failed")
        return await self._session("close", body, self._settle_ms, fallback)

    async def onboard(self, sign_in: str | None = None, **body: Any) -> dict[str, Any]:
        answer = await self._post("/api/sessions/onboard", body, self._settle_ms, sign_in)
        return _of_status(answer, "onboard_failed", "Session onboard failed")

    async def confirm(self, sign_in: str | None = None, **body: Any) -> dict[str, Any]:
        answer = await self._post("/api/sessions/onboard/confirm", body, self._settle_ms, sign_in)
        return _of_status(answer, "onboard_confirm_failed", "Session onboard confirm failed")

    async def onboard_status(self, buyer_wallet: str, sign_in: str | None = None) -> dict[str, Any]:
        wallet = quote(buyer_wallet, safe="!'()*-._~")
        path = f"/api/sessions/onboard/status?buyer_wallet={wallet}"
        answer = await self._fetch("GET", path, b"", self._prepare_ms, sign_in)
        return _of_status(answer, "onboard_status_failed", "Session onboard status failed")

    async def _one_shot(
        self, name: str, body: dict[str, Any], wait_ms: int, shape: dict[str, Any]
    ) -> dict[str, Any]:
        answer = await self._post(f"/mpp/{name}", body, wait_ms)
        if not answer.is_success:
            raise PlainError(f"Dexter {name} failed ({answer.status_code}): {answer.text[:200]}")
        try:
            return _checked(parse(answer.text), shape)
        except TypeError as mismatch:
            message = f"Dexter {name} returned invalid response: {mismatch}"
            raise PlainError(message) from None

    async def _session(
        self, name: str, body: dict[str, Any], wait_ms: int, fallback: tuple[str, str]
    ) -> dict[str, Any]:
        """The status is not looked at, only `success`."""
        answer = await self._post(f"/mpp/session/{name}", body, wait_ms)
        data = _object(answer)
        if not truthy(data.get("success")):
            raise _error(data, *fallback)
        return data

    async def _post(
        self, path: str, body: dict[str, Any], wait_ms: int, sign_in: str | None = None
    ) -> httpx.Response:
        sent = stringify({name: value for name, value in body.items() if value is not None})
        return await self._fetch("POST", path, sent.encode(), wait_ms, sign_in)

    async def _fetch(
        self, method: str, path: str, body: bytes, wait_ms: int, sign_in: str | None
    ) -> httpx.Response:
        """The wait covers the head of the answer; its body may take any time."""
        headers = {"Content-Type": "application/json"}
        if sign_in:
            headers["SIGN-IN-WITH-X"] = sign_in
        url = self.base_url + path
        request = self._http.build_request(method, url, content=body, headers=headers)
        try:
            async with asyncio.timeout(wait_ms / 1_000):
                answer = await self._http.send(request, stream=True)
        except TimeoutError:
            message = f"Dexter API request timed out after {wait_ms}ms: {url}"
            raise PlainError(message) from None
        await answer.aread()
        await answer.aclose()
        return answer


def _object(answer: httpx.Response) -> dict[str, Any]:
    """The members of a JSON answer.

    Raises:
        ValueError: the body is not JSON.
        TypeError: it is `null`, of which nothing can be read.
    """
    data = parse(answer.text)
    if data is None:
        raise TypeError("Cannot read properties of null")
    return data if isinstance(data, dict) else {}


def _error(data: dict[str, Any], code: str, message: str) -> SettlementError:
    """`??` passes over what is absent or null, never over an empty string."""
    named, detail = data.get("error"), data.get("detail")
    told = message if named is None else named
    return SettlementError(code if named is None else named, told if detail is None else detail)


def _of_status(answer: httpx.Response, code: str, message: str) -> dict[str, Any]:
    """Here the status alone decides, never `success`."""
    data = _object(answer)
    if not answer.is_success:
        raise _error(data, code, message)
    return data


_PREPARED: Final[dict[str, Any]] = {
    "feePayer": str,
    "recentBlockhash": str,
    "lastValidBlockHeight?": float,
    "network": str,
    "splToken": str,
    "decimals": float,
    "tokenProgram": str,
}
_PROOF: Final[dict[str, Any]] = {
    "recipient": str,
    "amount": str,
    "asset?": str,
    "feePayer?": str,
}
_SETTLED: Final[dict[str, Any]] = {
    "success": bool,
    "signature?": str,
    "payer?": str,
    "network?": str,
    "settlement?": _PROOF,
    "error?": str,
    "errorCode?": str,
    "detail?": str,
}


def _checked(data: Any, shape: dict[str, Any]) -> dict[str, Any]:
    """The members that the shape names, as zod leaves them: optional may be absent, never null.

    Raises:
        TypeError: naming the first member that does not fit.
    """
    if not isinstance(data, dict):
        raise TypeError("expected an object")
    found: dict[str, Any] = {}
    for key, kind in shape.items():
        name = key.rstrip("?")
        if name not in data and key != name:
            continue
        value = data.get(name)
        if isinstance(kind, dict):
            value = _checked(value, kind)
        elif not isinstance(value, kind):
            raise TypeError(f"{name}: expected {kind.__name__}, got {value!r}")
        found[name] = value
    return found


# --- the session client ---------------------------------------------------------------------


@dataclass
class ActiveSession:
    """What the buyer remembers of an open channel."""

    channel_id: str
    session_pubkey: str
    seller: str
    deposit: str
    network: str
    cumulative_amount: int = 0
    voucher_count: int = 0


@dataclass
class SessionClient:
    """`createSessionClient`. `progress` collects what its `onProgress` would be told."""

    client: SettlementClient
    buyer_wallet: str
    buyer_swig_address: str
    network: str = "mainnet-beta"
    progress: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    sessions: dict[str, ActiveSession] = field(default_factory=dict[str, ActiveSession])

    def __post_init__(self) -> None:
        for name in ("buyer_wallet", "buyer_swig_address"):
            if not getattr(self, name):
                raise PlainError(f"@dexterai/mpp: createSessionClient() requires {name}")

    async def open(
        self,
        *,
        seller: str,
        deposit: str,
        idle_timeout_seconds: int | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        self.progress.append({"type": "opening", "seller": seller, "deposit": deposit})
        result = await self.client.session_open(
            buyer_wallet=self.buyer_wallet,
            buyer_swig_address=self.buyer_swig_address,
            seller_wallet=seller,
            deposit_atomic=deposit,
            network=self.network,
            idle_timeout_seconds=idle_timeout_seconds,
            metadata=metadata,
        )
        channel, key = result["channel_id"], result["session_pubkey"]
        self.sessions[channel] = ActiveSession(channel, key, seller, deposit, result["network"])
        self.progress.append({"type": "opened", "channelId": channel, "sessionPubkey": key})
        return result

    async def pay(
        self,
        channel_id: str,
        *,
        amount: str,
        server_nonce: str,
        meter: str | None = None,
        units: str | None = None,
    ) -> dict[str, Any]:
        """A voucher for `amount`, which is cumulative: the caller adds up."""
        session = self._session(channel_id)
        result = await self.client.session_voucher(
            channel_id=channel_id,
            amount=amount,
            meter=meter,
            units=units,
            serverNonce=server_nonce,
        )
        session.cumulative_amount = big_integer(amount)
        session.voucher_count += 1
        sequence = result["voucher"]["sequence"]
        told = {"channelId": channel_id, "sequence": sequence, "cumulative": amount}
        self.progress.append({"type": "voucher", **told})
        return result

    async def close(self, channel_id: str) -> dict[str, Any]:
        self._session(channel_id)
        self.progress.append({"type": "closing", "channelId": channel_id})
        result = await self.client.session_close(channel_id=channel_id)
        del self.sessions[channel_id]
        settlement = result["settlement"]
        told = {"settled": settlement["amount_settled"], "refund": settlement["buyer_refund"]}
        self.progress.append({"type": "closed", "channelId": channel_id, **told})
        return result

    async def onboard(
        self,
        *,
        signer: Keypair | None = None,
        sign_transaction: SignTransaction | None = None,
        sign_message: SignMessage | None = None,
        public_key: str | None = None,
        buyer_wallet: str | None = None,
        spend_limit: str | None = None,
        ttl_seconds: int | None = None,
    ) -> dict[str, Any]:
        """Until the wallet is `ready`, in at most three rounds, all with one proof."""
        if not signer and not sign_transaction:
            raise SettlementError("onboard_no_signer", "Provide a signer or callbacks")
        if not signer and not sign_message:
            raise SettlementError("onboard_no_message_signer", "Provide a way to sign messages")
        if sign_message and not public_key:
            raise SettlementError("onboard_no_public_key", "The callback needs its public key")
        wallet = self.buyer_wallet if buyer_wallet is None else buyer_wallet
        if signer:
            address, sign_message = wallet, message_signer(signer)
            sign_transaction = transaction_signer(signer)
        else:
            address = public_key or ""
        assert sign_message
        assert sign_transaction
        base_url = self.client.base_url
        proof = await sign_in_header(base_url, self.network, address, sign_message)
        for _ in range(ROUNDS_MAX):
            result = await self.client.onboard(
                proof, buyer_wallet=wallet, spend_limit_atomic=spend_limit, ttl_seconds=ttl_seconds
            )
            if result.get("status") == "ready":
                return _onboarded(result["swig_address"], result["role_id"], result)
            transactions = _to_sign(result)
            signed = [await sign_transaction(entry["tx"]) for entry in transactions]
            confirmed = await self.client.confirm(
                proof, buyer_wallet=wallet, signed_transactions=signed
            )
            if confirmed.get("status") == "ready":
                address = confirmed.get("swig_address")
                swig_address = result.get("swig_address") if address is None else address
                return _onboarded(swig_address, confirmed.get("role_id", 0.0), result)
        raise SettlementError("onboard_incomplete", "Onboarding did not complete after 3 rounds")

    def _session(self, channel_id: str) -> ActiveSession:
        """Only channels of this client reach the server."""
        if channel_id not in self.sessions:
            message = f"No active session for channel {channel_id}"
            raise SettlementError("session_not_found", message)
        return self.sessions[channel_id]


def _to_sign(result: dict[str, Any]) -> list[dict[str, str]]:
    status = result.get("status")
    if status in {"not_eligible", "temporarily_unavailable"}:
        raise SettlementError("onboard_rejected", f"Onboarding rejected: {status}")
    transactions = result.get("transactions")
    if status != "transactions_required" or not transactions:
        raise SettlementError("onboard_unexpected", f"Unexpected onboard response: {status}")
    return transactions


def _onboarded(swig_address: Any, role_id: Any, result: dict[str, Any]) -> dict[str, Any]:
    created = result.get("create_tx_signatures")
    return {
        "swigAddress": swig_address,
        "roleId": role_id,
        "status": "ready",
        "createTxSignatures": created,
    }


def voucher_header(signed: dict[str, Any]) -> bytes:
    """The value of `x-mpp-voucher`.

    Raises:
        UnicodeEncodeError: where `fetch` refuses the header.
    """
    return stringify(signed).encode("latin-1")
