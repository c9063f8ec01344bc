"""The stand-in for the reference's client sends, signs and reads as the reference does.

Recorded headers and transactions come from the reference itself.
"""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from solders.keypair import Keypair

from tests.e2e.dexter_charge import ChargeSeller
from tests.e2e.dexter_client import (
    PlainError,
    SessionClient,
    SettlementClient,
    SettlementError,
)
from tests.e2e.dexter_signing import (
    message_signer,
    transaction_signer,
)

RECORDED = json.loads((Path(__file__).parents[1] / "vectors" / "dexter_client.json").read_text())
BUYER = Keypair.from_seed(bytes.fromhex(RECORDED["seed_hex"]))
WALLET = str(BUYER.pubkey())
CHALLENGE: dict[str, Any] = RECORDED["charge"]["challenge"]
CHARGE: str = RECORDED["charge"]["transaction"]
DETAILS: dict[str, Any] = CHALLENGE["methodDetails"]
SELLER, MINT = CHALLENGE["recipient"], DETAILS["splToken"]

Handler = Callable[[httpx.Request], httpx.Response]


# --- the HTTP client ------------------------------------------------------------------------


def client_of(handler: Any, url: str = "http://ledger", **waits: int) -> SettlementClient:
    http = httpx.AsyncClient(transport=httpx.MockTransport(handler))
    return SettlementClient(http, url, **waits)


def answering(*answers: httpx.Response) -> tuple[SettlementClient, list[httpx.Request]]:
    """A client whose requests are kept and answered in turn."""
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return answers[min(len(seen), len(answers)) - 1]

    return client_of(handle, "http://ledger//"), seen


async def test_a_request_is_sent_as_the_reference_sends_it() -> None:
    client, seen = answering(httpx.Response(200, json={"success": True}))
    await client.session_voucher(channel_id="ch", amount="1", meter=None, serverNonce="é")
    request = seen[0]
    assert (request.method, str(request.url)) == ("POST", "http://ledger/mpp/session/voucher")
    assert request.content == '{"channel_id":"ch","amount":"1","serverNonce":"é"}'.encode()
    assert request.headers["content-type"] == "application/json"
    assert "authorization" not in request.headers
    assert "sign-in-with-x" not in request.headers


async def test_the_status_of_a_wallet_is_asked_for_with_its_proof() -> None:
    client, seen = answering(httpx.Response(200, json={"status": "active"}))
    assert await client.onboard_status("a b/é", "proof") == {"status": "active"}
    path = "/api/sessions/onboard/status?buyer_wallet=a%20b%2F%C3%A9"
    assert (seen[0].method, seen[0].url.raw_path.decode()) == ("GET", path)
    assert seen[0].headers["sign-in-with-x"] == "proof"


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({"success": False, "error": "a", "detail": "b"}, "a", "b"),
        ({"success": False, "error": "a"}, "a", "a"),
        ({"success": False, "error": None}, "session_open_failed", "Session open failed"),
        ({"success": False, "error": "a", "detail": ""}, "a", ""),
        ({"success": False, "error": "", "detail": None}, "", ""),
        ({"ok": True}, "session_open_failed", "Session open failed"),
        ({"detail": [{"msg": "m"}]}, "session_open_failed", [{"msg": "m"}]),
        ([1], "session_open_failed", "Session open failed"),
    ],
)
@pytest.mark.parametrize("status", [200, 422, 503])
async def test_only_success_decides_over_a_session_answer(
    body: Any, code: str, message: Any, status: int
) -> None:
    client, _ = answering(httpx.Response(status, json=body))
    with pytest.raises(SettlementError) as failed:
        await client.session_open()
    assert (failed.value.code, failed.value.message) == (code, message)


async def test_a_session_answer_with_success_is_one_whatever_its_status() -> None:
    client, _ = answering(httpx.Response(500, json={"success": {}, "channel_id": "ch"}))
    assert (await client.session_close(channel_id="ch"))["channel_id"] == "ch"


@pytest.mark.parametrize(("text", "error"), [("null", TypeError), ("<html>", ValueError)])
async def test_an_answer_that_is_no_json_object_is_a_raw_error(
    text: str, error: type[Exception]
) -> None:
    client, _ = answering(httpx.Response(200, text=text))
    for call in (client.session_open, client.onboard):
        with pytest.raises(error):
            await call()


async def test_only_the_status_decides_over_an_onboarding_answer() -> None:
    body = {"success": False, "status": "ready"}
    client, _ = answering(httpx.Response(200, json=body), httpx.Response(400, json={}))
    assert await client.onboard("proof") == body
    for call, code in (
        (client.onboard, "onboard_failed"),
        (client.confirm, "onboard_confirm_failed"),
    ):
        with pytest.raises(SettlementError) as failed:
            await call("proof")
        assert failed.value.code == code


async def test_a_late_head_is_a_timeout_and_a_late_body_is_none() -> None:
    begun = asyncio.Event()

    async def late_body() -> AsyncIterator[bytes]:
        await begun.wait()
        yield b'{"success":true}'

    async def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("open"):
            await asyncio.Event().wait()
        return httpx.Response(200, stream=Stream(late_body()))

    client = client_of(handle, prepare_ms=20, settle_ms=20)
    url = "http://ledger/mpp/session/open"
    with pytest.raises(PlainError, match=f"^Dexter API request timed out after 20ms: {url}$"):
        await client.session_open()
    call = asyncio.create_task(client.session_close())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(call), 0.1)
    begun.set()
    assert await call == {"success": True}


class Stream(httpx.AsyncByteStream):
    def __init__(self, parts: AsyncIterator[bytes]) -> None:
        self._parts = parts

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._parts:
            yield part


PREPARED = {
    "feePayer": DETAILS["feePayerKey"],
    **{
        name: DETAILS[name]
        for name in ("recentBlockhash", "network", "splToken", "decimals", "tokenProgram")
    },
}


@pytest.mark.parametrize("name", PREPARED)
async def test_a_preparation_must_have_every_member(name: str) -> None:
    for wrong in ({**PREPARED, name: None}, {k: v for k, v in PREPARED.items() if k != name}):
        client, _ = answering(httpx.Response(200, json=wrong))
        with pytest.raises(PlainError, match=f"prepare returned invalid response: {name}"):
            await client.prepare(network="devnet")


async def test_a_preparation_keeps_what_the_shape_names() -> None:
    client, _ = answering(httpx.Response(200, json={**PREPARED, "blockhash": "b", "ok": True}))
    assert await client.prepare() == PREPARED
    nulled = {**PREPARED, "lastValidBlockHeight": None}
    client, _ = answering(httpx.Response(200, json=nulled))
    with pytest.raises(PlainError, match="lastValidBlockHeight"):
        await client.prepare()


async def test_a_one_shot_refusal_keeps_its_code_with_a_good_status_alone() -> None:
    seller = ChargeSeller(answering(httpx.Response(402, text="x" * 300))[0], SELLER, "devnet")
    with pytest.raises(PlainError, match=r"^Dexter settle failed \(402\): x{200}$"):
        await seller.verify(CHALLENGE, CHARGE)
    body = {"success": False, "error": "told", "errorCode": "code"}
    seller = ChargeSeller(answering(httpx.Response(200, json=body))[0], SELLER, "devnet")
    with pytest.raises(SettlementError) as failed:
        await seller.verify(CHALLENGE, CHARGE)
    assert (failed.value.code, failed.value.message) == ("code", "told")


@pytest.mark.parametrize("name", ["recipient", "amount", "asset", None])
async def test_a_seller_compares_the_proof_of_settlement(name: str | None) -> None:
    proof = {"recipient": SELLER, "amount": "10000", "asset": MINT}
    proof |= {name: "other"} if name else {}
    body = {"success": True, "signature": "s", "settlement": proof}
    client, seen = answering(httpx.Response(200, json=body))
    seller = ChargeSeller(client, SELLER, "devnet")
    if name is None:
        assert await seller.verify(CHALLENGE, CHARGE) == "s"
        assert json.loads(seen[0].content) == {
            "transaction": CHARGE,
            "recipient": SELLER,
            "amount": "10000",
            "asset": MINT,
            "network": "devnet",
        }
        return
    with pytest.raises(SettlementError) as failed:
        await seller.verify(CHALLENGE, CHARGE)
    assert failed.value.code == f"settlement_{name}_mismatch"


# --- the session client ---------------------------------------------------------------------


async def test_a_channel_of_nobody_never_reaches_the_server() -> None:
    client, seen = answering(httpx.Response(200, json={"success": True}))
    session = SessionClient(client, WALLET, "swig")
    for call in (session.close("ch"), session.pay("ch", amount="1", server_nonce="n")):
        with pytest.raises(SettlementError) as failed:
            await call
        assert failed.value.code == "session_not_found"
    assert seen == []


async def test_a_session_is_opened_paid_and_closed_with_what_was_answered() -> None:
    opened = {"success": True, "channel_id": "ch", "session_pubkey": "key", "network": "devnet"}
    paid = {"success": True, "voucher": {"sequence": 7}}
    settlement = {"amount_settled": "5", "buyer_refund": "95"}
    closed = {"success": True, "settlement": settlement}
    client, seen = answering(*(httpx.Response(200, json=body) for body in (opened, paid, closed)))
    session = SessionClient(client, WALLET, "swig", "devnet")
    await session.open(seller=SELLER, deposit="100")
    assert json.loads(seen[0].content) == {
        "buyer_wallet": WALLET,
        "buyer_swig_address": "swig",
        "seller_wallet": SELLER,
        "deposit_atomic": "100",
        "network": "devnet",
    }
    await session.pay("ch", amount="5", server_nonce="n")
    assert session.sessions["ch"].cumulative_amount == 5
    await session.close("ch")
    assert [step["type"] for step in session.progress] == [
        "opening",
        "opened",
        "voucher",
        "closing",
        "closed",
    ]
    assert session.progress[2]["sequence"] == 7
    with pytest.raises(SettlementError):
        await session.close("ch")
    assert len(seen) == 3


REQUIRED = {
    "status": "transactions_required",
    "swig_address": "swig",
    "transactions": [{"type": "t", "tx": CHARGE}],
}


async def test_one_proof_serves_three_rounds_and_no_more() -> None:
    pending = {"status": "pending"}
    bodies = [REQUIRED, pending] * 3
    client, seen = answering(*(httpx.Response(200, json=body) for body in bodies))
    with pytest.raises(SettlementError) as failed:
        await SessionClient(client, WALLET, "swig", "devnet").onboard(signer=BUYER)
    assert failed.value.code == "onboard_incomplete"
    assert len(seen) == 6
    [proof] = {request.headers["sign-in-with-x"] for request in seen}
    assert json.loads(base64.b64decode(proof))["address"] == WALLET
    assert json.loads(seen[1].content)["signed_transactions"] == [CHARGE]


async def test_callbacks_sign_in_with_the_key_that_they_name() -> None:
    ready = {"status": "ready", "role_id": 3}
    client, seen = answering(*(httpx.Response(200, json=body) for body in (REQUIRED, ready)))
    other = Keypair.from_seed(bytes(32))
    result = await SessionClient(client, WALLET, "swig", "devnet").onboard(
        sign_transaction=transaction_signer(BUYER),
        sign_message=message_signer(other),
        public_key=str(other.pubkey()),
        spend_limit="5",
    )
    assert (result["swigAddress"], result["roleId"]) == ("swig", 3)
    proof = json.loads(base64.b64decode(seen[0].headers["sign-in-with-x"]))
    assert proof["address"] == str(other.pubkey())
    assert json.loads(seen[0].content) == {"buyer_wallet": WALLET, "spend_limit_atomic": "5"}


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ({"status": "not_eligible"}, "onboard_rejected"),
        ({"status": "temporarily_unavailable"}, "onboard_rejected"),
        ({"status": "transactions_required", "transactions": []}, "onboard_unexpected"),
        ({"status": "other"}, "onboard_unexpected"),
    ],
)
async def test_an_onboarding_that_cannot_go_on_has_a_code(
    answer: dict[str, Any], code: str
) -> None:
    client, _ = answering(httpx.Response(200, json=answer))
    with pytest.raises(SettlementError) as failed:
        await SessionClient(client, WALLET, "swig").onboard(signer=BUYER)
    assert failed.value.code == code


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({}, "onboard_no_signer"),
        ({"sign_transaction": transaction_signer(BUYER)}, "onboard_no_message_signer"),
        (
            {"signer": BUYER, "sign_message": message_signer(BUYER)},
            "onboard_no_public_key",
        ),
    ],
)
async def test_an_onboarding_without_signers_asks_nobody(given: dict[str, Any], code: str) -> None:
    client, seen = answering(httpx.Response(200, json=REQUIRED))
    with pytest.raises(SettlementError) as failed:
        await SessionClient(client, WALLET, "swig").onboard(**given)
    assert failed.value.code == code
    assert seen == []
