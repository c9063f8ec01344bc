"""`SessionServer` and `SyncSessionServer` do the same, with and without await."""

import asyncio
import json
import time
from typing import Any

import httpx
import pytest
from seller_rig import ACCEPTED, NOW, RECIPIENT, VOUCHER, Played, problem, server_of

from session_ledger.seller import (
    LedgerRefused,
    LedgerUnavailable,
    Patience,
    SellerSetupError,
    SyncSessionServer,
)


async def awaited(played: Played, name: str, *given: Any, **settings: Any) -> Any:
    async with server_of(played, **settings) as server:
        return await getattr(server, name)(*given)


async def blocking(played: Played, name: str, *given: Any, **settings: Any) -> Any:
    settings = {"network": "devnet", "api_key": "sk_1", "patience": NOW, **settings}
    transport = httpx.MockTransport(played)
    with SyncSessionServer(RECIPIENT, 10_000, transport=transport, **settings) as server:
        return getattr(server, name)(*given)


BOTH = pytest.mark.parametrize("kind", [awaited, blocking])
KNOWN = {"recipient": RECIPIENT, "network": "devnet"}
CALLS = {
    "check": ((), KNOWN, "GET /v1/challenge"),
    "get_challenge": ((7,), {"serverNonce": "n1"}, "GET /v1/challenge?nonce=true"),
    "verify_voucher": ((VOUCHER,), ACCEPTED, "POST /v1/vouchers/verify"),
    "get_session_context": (("a/b",), {"channelId": "a/b"}, "GET /v1/sessions/a%2Fb"),
    "remove_session": (("a/b",), httpx.Response(204), "DELETE /v1/sessions/a%2Fb"),
}
"""Each method with what it is given, an answer to it, and what it asks."""
EACH = pytest.mark.parametrize("name", CALLS)


def asked_by(played: Played) -> list[str]:
    return [f"{each.method} {each.url.raw_path.decode()}" for each in played.asked]


@BOTH
@EACH
async def test_both_servers_ask_the_same_and_say_the_same(kind: Any, name: str) -> None:
    given, answer, request = CALLS[name]
    said = {}
    for done in (awaited, kind):
        played = Played(answer)
        said[done] = await done(played, name, *given, require_nonce=True)
        assert asked_by(played) == [request]
    assert said[kind] == said[awaited]
    match name:
        case "get_challenge":
            assert (said[kind]["serverNonce"], said[kind]["pricePerUnit"]) == ("n1", "7")
        case "verify_voucher":
            assert said[kind].valid
        case "get_session_context":
            assert said[kind] == answer
        case _:
            assert said[kind] is None


@BOTH
@EACH
async def test_both_servers_repeat_a_lost_call_and_give_up_in_the_end(kind: Any, name: str) -> None:
    given, answer, request = CALLS[name]
    lost = httpx.ReadTimeout("late"), httpx.Response(503)
    played = Played(*lost, answer)
    await kind(played, name, *given, require_nonce=True)
    assert asked_by(played) == [request] * 3
    keys = [each.headers.get("idempotency-key") for each in played.asked]
    assert len(set(keys)) == 1
    assert (keys[0] is not None) == (name == "verify_voucher")
    played = Played(*lost, httpx.ConnectError("refused"), answer)
    with pytest.raises(LedgerUnavailable, match=r"refused.*answer 503"):
        await kind(played, name, *given, require_nonce=True)
    assert len(played.asked) == 3


@BOTH
@EACH
async def test_both_servers_say_why_a_call_was_refused(kind: Any, name: str) -> None:
    given, _, _ = CALLS[name]
    wrong_key = problem(401, "unauthorized")
    error = SellerSetupError if name == "check" else LedgerRefused
    with pytest.raises(error, match="401 unauthorized"):
        await kind(Played(wrong_key), name, *given, require_nonce=True)


async def test_the_blocking_server_charges_what_it_is_told() -> None:
    played = Played(ACCEPTED)
    with SyncSessionServer(
        RECIPIENT, 7, meter="tokens", api_key="k", transport=httpx.MockTransport(played)
    ) as server:
        server.verify_voucher(VOUCHER, usage=14)
        server.verify_voucher(VOUCHER, charge={"units": "2"})
        server.verify_voucher(VOUCHER)
    assert [body["charge"] for body in played.bodies] == [
        {"meter": "tokens", "usage": "14"},
        {"units": "2"},
        {"amount": "7"},
    ]


async def test_only_a_lease_that_is_held_is_no_error() -> None:
    async with server_of(Played(problem(409, "lease_held"))) as server:
        assert await server.lease("c", "me", 30) is False
    async with server_of(Played(problem(401, "unauthorized"))) as server:
        with pytest.raises(LedgerRefused, match="unauthorized"):
            await server.lease("c", "me", 30)
        with pytest.raises(LedgerRefused, match="unauthorized"):
            await server.release("c", "me")
    async with server_of(played := Played({})) as server:
        assert await server.lease("c", "me", 30) is True
        await server.release("c", "me")
        assert await server.lease("", "me", 30) is False
        await server.release("", "me")
    assert asked_by(played) == [
        "POST /v1/sessions/c/lease",
        "DELETE /v1/sessions/c/lease?holder=me",
    ]
    assert json.loads(played.asked[0].content) == {"holder": "me", "ttlSeconds": 30}


@BOTH
async def test_both_servers_know_an_unknown_channel_and_another_registration(kind: Any) -> None:
    assert await kind(Played(problem(404, "session_not_found")), "get_session_context", "c") is None
    with pytest.raises(SellerSetupError, match="network is"):
        await kind(Played({**KNOWN, "network": "other"}), "check")


@pytest.mark.parametrize("wait", [0.2, 0.05])
async def test_the_waits_between_attempts_grow(
    monkeypatch: pytest.MonkeyPatch, wait: float
) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(time, "sleep", waited.append)
    for kind in (awaited, blocking):
        waited.clear()
        played, patience = Played(httpx.ConnectError("away")), Patience(attempts=4, pause=wait)
        with pytest.raises(LedgerUnavailable):
            await kind(played, "check", patience=patience)
        assert waited == [0, wait, 2 * wait, 4 * wait]
