"""WebSocket subscriptions: signatures, slots and accounts, which is what confirming needs.

Every subscription is looked at once per slot and told when what it watches has changed. Other
kinds of subscription are answered with "Method not found".

Spec: solana.com/docs/rpc/websocket.
"""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from typing import Final

from starlette.websockets import WebSocket, WebSocketDisconnect

from service.local.chain.accounts import account_form
from service.local.chain.bank import NO_ACCOUNT, Bank
from service.local.chain.params import Params
from service.local.chain.protocol import METHOD_NOT_FOUND, Json, RpcError, invalid_params
from service.local.chain.rpc import answer, parse_json, parse_request, refusal
from service.local.chain.slots import Level

SUBSCRIPTIONS_MAX: Final = 1_000
"""Most subscriptions of one connection."""

POLL_SECONDS_MIN: Final = 0.01
"""Shortest pause between two looks at the chain, however short the slots are."""

_ids = count(1)


@dataclass(frozen=True, slots=True)
class Subscription:
    """`poll` gives the next result to send, or None while there is nothing new."""

    method: str
    poll: Callable[[], Json]
    once: bool = False


def _signature_subscription(bank: Bank, params: Params) -> Subscription:
    signature, level = params.signature(0), params.options(1).level()

    def poll() -> Json:
        view = bank.view(level)
        stored = bank.store.transaction(signature)
        if stored is None or stored.slot > view.slot:
            return None
        err: Json = None if stored.err is None else json.loads(stored.err)
        return view.in_context({"err": err})

    return Subscription("signatureNotification", poll, once=True)


def _slot_subscription(bank: Bank, _params: Params) -> Subscription:
    told = bank.tick()

    def poll() -> Json:
        nonlocal told
        slot = bank.tick()
        if slot == told:
            return None
        told = slot
        return {"parent": slot - 1, "root": bank.level_slot(Level.FINALIZED), "slot": slot}

    return Subscription("slotNotification", poll)


def _account_subscription(bank: Bank, params: Params) -> Subscription:
    address, options = params.address(0), params.options(1)
    level, form = options.level(), replace(account_form(options), strict=False)
    told = bank.view(level).account(address)

    def poll() -> Json:
        nonlocal told
        view = bank.view(level)
        account = view.account(address)
        if account == told:
            return None
        told = account
        return view.in_context(form.render(account or NO_ACCOUNT, view.account))

    return Subscription("accountNotification", poll)


_KINDS: Final = {
    "signatureSubscribe": _signature_subscription,
    "slotSubscribe": _slot_subscription,
    "accountSubscribe": _account_subscription,
}
_UNSUBSCRIBE: Final = {kind.replace("Subscribe", "Unsubscribe") for kind in _KINDS}


class Connection:
    """One WebSocket and its subscriptions."""

    def __init__(self, bank: Bank, socket: WebSocket) -> None:
        self._bank = bank
        self._socket = socket
        self._subscriptions: dict[int, Subscription] = {}

    async def serve(self) -> None:
        """Answers until the client leaves."""
        await self._socket.accept()
        notifier = asyncio.create_task(self._notify())
        try:
            while (message := await self._socket.receive())["type"] == "websocket.receive":
                response = self._respond(message.get("text") or message.get("bytes") or "")
                await self._socket.send_json(response)
                await self._poll()  # what is already true is told right after the answer
        except WebSocketDisconnect:
            return
        finally:
            notifier.cancel()
            with suppress(asyncio.CancelledError, WebSocketDisconnect):
                await notifier

    def _respond(self, text: str | bytes) -> Json:
        try:
            request = parse_request(parse_json(text))
        except RpcError as error:
            return refusal(None, error)
        try:
            return answer(request.id, self._call(request.method, request.params))
        except RpcError as error:
            return refusal(request.id, error)

    def _call(self, method: str, params: Params) -> Json:
        if method in _UNSUBSCRIBE:
            if self._subscriptions.pop(params.integer(0), None) is None:
                raise invalid_params("Invalid subscription id.")
            return True
        kind = _KINDS.get(method)
        if kind is None:
            raise RpcError(METHOD_NOT_FOUND, "Method not found")
        if len(self._subscriptions) >= SUBSCRIPTIONS_MAX:
            raise invalid_params(f"Too many subscriptions; max {SUBSCRIPTIONS_MAX}")
        number = next(_ids)
        self._subscriptions[number] = kind(self._bank, params)
        return number

    async def _notify(self) -> None:
        pause = max(self._bank.settings.slot_seconds, POLL_SECONDS_MIN)
        while True:
            await asyncio.sleep(pause)
            await self._poll()

    async def _poll(self) -> None:
        for number, subscription in list(self._subscriptions.items()):
            result = subscription.poll()
            if result is None or number not in self._subscriptions:
                continue
            if subscription.once:
                del self._subscriptions[number]
            await self._socket.send_json(
                {
                    "jsonrpc": "2.0",
                    "method": subscription.method,
                    "params": {"result": result, "subscription": number},
                }
            )
