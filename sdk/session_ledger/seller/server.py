"""`SessionServer`: what a seller's program needs to be paid by vouchers.

Spec: the reference's session server, over the ledger's REST API: its sessions survive restarts, and
several processes of a seller share them.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

import httpx

from session_ledger.json_text import JsonValue
from session_ledger.seller.calls import Asking, json_call
from session_ledger.seller.errors import LedgerRefused, SellerSetupError
from session_ledger.seller.memory import Unserved
from session_ledger.seller.terms import (
    DEFAULT_METER,
    Meter,
    SignedVoucher,
    Terms,
    amount_of,
    challenge_call,
    digest_of,
    price_of,
    question,
    session_path,
    verify_call,
)
from session_ledger.seller.transport import AsyncLedger, Patience, SyncLedger
from session_ledger.seller.verdict import Verdict

DEFAULT_API_URL: Final = "http://localhost:8000"
DEFAULT_NETWORK: Final = "mainnet-beta"
_NOT_FOUND: Final = "session_not_found"
_LEASED: Final = "lease_held"

Transport = TypeVar("Transport")


class _Seller(ABC, Generic[Transport]):
    """What both kinds of server know and do."""

    def __init__(
        self,
        recipient: str,
        price_per_unit: str | int,
        api_url: str = DEFAULT_API_URL,
        network: str = DEFAULT_NETWORK,
        meter: Meter = DEFAULT_METER,
        suggested_deposit: str | int | None = None,
        *,
        api_key: str | None = None,
        require_nonce: bool = False,
        patience: Patience | None = None,
        transport: Transport | None = None,
    ) -> None:
        if not api_key or not api_key.isascii() or not api_key.isprintable():
            raise SellerSetupError(
                "api_key is required: the ledger's operator gives it to you with POST /v1/sellers"
            )
        if not api_url.startswith(("http://", "https://")):
            raise SellerSetupError("api_url must begin with https:// (or http://)")
        self.terms = Terms(
            recipient=recipient,
            network=network,
            price_per_unit=price_of(price_per_unit),
            meter=meter,
            suggested_deposit=None
            if suggested_deposit is None
            else amount_of(suggested_deposit, "suggested_deposit"),
        )
        self.terms.challenge()  # an unknown network is found out now
        self._require_nonce = require_nonce
        self._unserved = Unserved()
        self._connect(api_url.rstrip("/"), api_key, patience or Patience(), transport)

    @abstractmethod
    def _connect(
        self, url: str, key: str, patience: Patience, transport: Transport | None
    ) -> None: ...

    def owe(self, verdict: Verdict) -> None:
        """What this voucher paid for was not delivered: when it comes again, serve it once.

        This process remembers it, up to 10,000 vouchers.
        """
        self._unserved.owe(verdict)

    def _question(
        self, voucher: SignedVoucher, charge: Mapping[str, JsonValue] | None, usage: Any
    ) -> bytes:
        return question(voucher, self.terms.charge(usage) if charge is None else charge)

    def _challenge(self, price: int | None, body: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        challenge = self.terms.challenge(price).to_json()
        if "serverNonce" in body:
            challenge["serverNonce"] = body["serverNonce"]
        return challenge

    def _checking(self) -> Asking[None]:
        try:
            self._compare((yield challenge_call(nonce=False)))
        except LedgerRefused as error:
            raise SellerSetupError(str(error)) from None

    def _challenging(self, price: int | None) -> Asking[dict[str, JsonValue]]:
        nonce = (yield challenge_call(nonce=True)) if self._require_nonce else {}
        return self._challenge(price, nonce)

    def _verifying(
        self, voucher: SignedVoucher, charge: Mapping[str, JsonValue] | None, usage: Any
    ) -> Asking[Verdict]:
        content = self._question(voucher, charge, usage)
        digest = digest_of(content)
        if (owed := self._unserved.owed(digest)) is not None:
            return owed
        with self._unserved.asking(digest) as key:
            return Verdict.of((yield verify_call(content, key)), digest)

    def _reading(self, channel_id: str) -> Asking[dict[str, JsonValue] | None]:
        path = session_path(channel_id)
        if path is None:
            return None
        try:
            return (yield json_call("GET", path))
        except LedgerRefused as error:
            if error.code == _NOT_FOUND:
                return None
            raise

    def _removing(self, channel_id: str) -> Asking[None]:
        path = session_path(channel_id)
        if path is not None:
            yield json_call("DELETE", path)

    def _leasing(self, channel_id: str, holder: str, seconds: int) -> Asking[bool]:
        path = session_path(channel_id)
        if path is None:
            return False
        content = json.dumps({"holder": holder, "ttlSeconds": seconds}).encode()
        try:
            yield json_call("POST", f"{path}/lease", content)
        except LedgerRefused as error:
            if error.code == _LEASED:
                return False
            raise
        return True

    def _releasing(self, channel_id: str, holder: str) -> Asking[None]:
        path = session_path(channel_id)
        if path is not None:
            yield json_call("DELETE", f"{path}/lease", holder=holder)

    def _compare(self, body: Mapping[str, JsonValue]) -> None:
        for name in ("recipient", "network"):
            ours, theirs = self.terms.challenge().to_json()[name], body.get(name)
            if ours != theirs:
                raise SellerSetupError(
                    f"{name} is {ours}, but the ledger has {theirs} for this api_key: no voucher"
                    " would be accepted"
                )


class SessionServer(_Seller[httpx.AsyncBaseTransport]):
    """Challenges and verdicts, for one event loop. It keeps connections: make one and `aclose` it.

    `price_per_unit` and `suggested_deposit` are atomic USDC (default deposit: 100 prices). `meter`
    is a label, or a function that gives the atomic units of a usage. `require_nonce` is for sellers
    that are registered so: each challenge is then asked of the ledger.

    Raises:
        SellerSetupError: no `api_key`, or a parameter that cannot be.
    """

    def _connect(
        self, url: str, key: str, patience: Patience, transport: httpx.AsyncBaseTransport | None
    ) -> None:
        self._ledger = AsyncLedger(url, key, patience, transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._ledger.close()

    async def check(self) -> None:
        """Ask the ledger whether it knows this seller by the same recipient and network.

        Raises:
            SellerSetupError: it does not, or the api_key opens nothing.
            LedgerUnavailable: it gave no answer.
        """
        await self._ledger.carry_out(self._checking())

    async def get_challenge(self, price: int | None = None) -> dict[str, JsonValue]:
        """What to answer 402 with; `price` is that of a route which has its own.

        Raises:
            LedgerUnavailable: a nonce is required and the ledger gave none.
        """
        return await self._ledger.carry_out(self._challenging(price))

    async def verify_voucher(
        self,
        voucher: SignedVoucher,
        *,
        charge: Mapping[str, JsonValue] | None = None,
        usage: Any = None,
    ) -> Verdict:
        """The ledger's verdict. Serve only when it is `valid`; it is durable by then.

        The request costs `charge` (`{"units": "3"}`, `{"amount": "25000"}` or
        `{"meter": "tokens", "usage": "1200"}`), or what the meter says of `usage`, or one price.

        Raises:
            InvalidVoucher: what came is not JSON; answer 400.
            LedgerUnavailable: nothing is known; answer 503. When the buyer sends the same voucher
                again, the ledger is asked under the same key, so nothing is lost or paid twice.
            LedgerRefused: the charge or the api_key is wrong.
        """
        return await self._ledger.carry_out(self._verifying(voucher, charge, usage))

    async def get_session_context(self, channel_id: str) -> dict[str, JsonValue] | None:
        """The session as the ledger has it; `None` for a channel that it does not know.

        Raises:
            LedgerUnavailable, LedgerRefused: the ledger did not say.
        """
        return await self._ledger.carry_out(self._reading(channel_id))

    async def remove_session(self, channel_id: str) -> None:
        """Forget a session. The ledger's log keeps it, and its old vouchers stay refused.

        Raises:
            LedgerUnavailable, LedgerRefused: the ledger did not do it.
        """
        await self._ledger.carry_out(self._removing(channel_id))

    async def lease(self, channel_id: str, holder: str, seconds: int) -> bool:
        """Take or renew the channel's lease for `holder`; False while another one holds it.

        Raises:
            LedgerUnavailable, LedgerRefused: the ledger did not say.
        """
        return await self._ledger.carry_out(self._leasing(channel_id, holder, seconds))

    async def release(self, channel_id: str, holder: str) -> None:
        """Give the channel's lease back; nothing happens when `holder` does not hold it.

        Raises:
            LedgerUnavailable, LedgerRefused: the ledger did not do it; the lease ends by itself.
        """
        await self._ledger.carry_out(self._releasing(channel_id, holder))


class SyncSessionServer(_Seller[httpx.BaseTransport]):
    """The same without `await`, for any number of threads."""

    def _connect(
        self, url: str, key: str, patience: Patience, transport: httpx.BaseTransport | None
    ) -> None:
        self._ledger = SyncLedger(url, key, patience, transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._ledger.close()

    def check(self) -> None:
        """See `SessionServer.check`."""
        self._ledger.carry_out(self._checking())

    def get_challenge(self, price: int | None = None) -> dict[str, JsonValue]:
        """See `SessionServer.get_challenge`."""
        return self._ledger.carry_out(self._challenging(price))

    def verify_voucher(
        self,
        voucher: SignedVoucher,
        *,
        charge: Mapping[str, JsonValue] | None = None,
        usage: Any = None,
    ) -> Verdict:
        """See `SessionServer.verify_voucher`."""
        return self._ledger.carry_out(self._verifying(voucher, charge, usage))

    def get_session_context(self, channel_id: str) -> dict[str, JsonValue] | None:
        """See `SessionServer.get_session_context`."""
        return self._ledger.carry_out(self._reading(channel_id))

    def remove_session(self, channel_id: str) -> None:
        """See `SessionServer.remove_session`."""
        self._ledger.carry_out(self._removing(channel_id))
