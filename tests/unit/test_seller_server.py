"""`SessionServer` against a ledger that is played: what is asked, and what the answers mean."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from seller_rig import (
    ACCEPTED,
    NOW,
    RECIPIENT,
    REFUSED,
    REPLAYED,
    VOUCHER,
    Played,
    problem,
    server_of,
    verdict_of,
)

from session_ledger.seller import (
    InvalidVoucher,
    LedgerRefused,
    LedgerUnavailable,
    SellerSetupError,
    SessionServer,
)


@pytest.mark.parametrize("key", [None, "", "with\nnewline", "schlüssel"])
def test_a_server_without_an_api_key_says_where_to_get_one(key: str | None) -> None:
    with pytest.raises(SellerSetupError, match="POST /v1/sellers"):
        SessionServer(RECIPIENT, "1", api_key=key)


@pytest.mark.parametrize("price", ["", "-1", "1.5", "0", 0, -1, True, 2**64, "1" * 30, None, 0.5])
def test_a_price_is_a_whole_number_above_zero(price: Any) -> None:
    with pytest.raises(SellerSetupError, match="price_per_unit"):
        SessionServer(RECIPIENT, price, api_key="k")


def test_an_unknown_network_is_found_out_at_once() -> None:
    with pytest.raises(SellerSetupError, match="network must be one of"):
        SessionServer(RECIPIENT, "1", network="testnet", api_key="k")


async def test_the_challenge_has_the_references_members_and_defaults() -> None:
    server = SessionServer(RECIPIENT, "10000", api_key="k")
    assert await server.get_challenge() == {
        "type": "mpp-session",
        "recipient": RECIPIENT,
        "network": "mainnet-beta",
        "pricePerUnit": "10000",
        "meter": "request",
        "suggestedDeposit": "1000000",
        "channelProgram": "swigypWHEksbC64pWKwah1WTeh9JXwx8H1rJHLdbQMB",
        "chainId": "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp",
    }
    named = SessionServer(RECIPIENT, 5, "http://l", "devnet", "token", "70", api_key="k")
    challenge = await named.get_challenge(price=7)
    assert (challenge["pricePerUnit"], challenge["meter"]) == ("7", "token")
    assert (challenge["suggestedDeposit"], challenge["network"]) == ("70", "devnet")


async def test_a_required_nonce_is_asked_of_the_ledger_for_each_challenge() -> None:
    played = Played({"serverNonce": "n1", "pricePerUnit": "1"}, {"serverNonce": "n2"})
    async with server_of(played, require_nonce=True) as server:
        first, second = await server.get_challenge(), await server.get_challenge()
    assert (first["serverNonce"], second["serverNonce"]) == ("n1", "n2")
    assert first["pricePerUnit"] == "10000"  # the price is this server's
    assert [request.url.query for request in played.asked] == [b"nonce=true"] * 2


async def test_an_accepted_voucher_is_valid_and_says_what_it_paid() -> None:
    played = Played(ACCEPTED)
    verdict = await verdict_of(played)
    assert (verdict.valid, verdict.replayed, verdict.error) == (True, False, None)
    assert (verdict.amount_paid, verdict.channel_id) == (10_000, "c")
    (request,) = played.asked
    assert request.headers["authorization"] == "Bearer sk_1"
    assert request.content.startswith(b'{"voucher":{"channelId": "c", "n": 1.0},"signature":"s"')


@pytest.mark.parametrize(("body", "replayed"), [(REPLAYED, True), (REFUSED, False)])
async def test_a_voucher_that_is_not_accepted_is_not_valid(
    body: dict[str, Any], replayed: bool
) -> None:
    verdict = await verdict_of(Played(body))
    assert (verdict.valid, verdict.replayed, verdict.amount_paid) == (False, replayed, 0)
    assert (verdict.error, verdict.reason) == (body["error"], body["code"])


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"valid": True},
        {"valid": 1, "verdict": "accepted", "amountPaid": "1"},
        {"valid": True, "verdict": "rejected", "amountPaid": "1"},
        {"valid": False, "verdict": "accepted", "amountPaid": "1"},
        [],
        "yes",
    ],
)
async def test_what_is_no_verdict_is_never_read_as_payment(body: Any) -> None:
    with pytest.raises(LedgerUnavailable):
        await verdict_of(Played(body))


async def test_the_charge_is_the_sellers_whatever_the_buyer_writes_beside_its_voucher() -> None:
    played = Played(ACCEPTED)
    cheap = json.dumps({**json.loads(VOUCHER), "charge": {"amount": "0"}, "more": 1})
    await verdict_of(played, cheap)
    await verdict_of(played, json.loads(cheap))
    await verdict_of(played, cheap[:-1] + ', "charge": {"units": "0"}}')
    for body in played.bodies:
        assert body["charge"] == {"amount": "10000"}
        assert "more" not in body
    assert all(request.content.count(b'"charge"') == 1 for request in played.asked)


async def test_a_usage_is_priced_by_the_meter() -> None:
    played = Played(ACCEPTED)
    async with server_of(played, meter=lambda words: 3 * words) as server:
        await server.verify_voucher(VOUCHER, usage=14)
        await server.verify_voucher(VOUCHER)
    async with server_of(played, meter="tokens") as server:
        await server.verify_voucher(VOUCHER, usage=14)
        await server.verify_voucher(VOUCHER, charge={"units": "2"})
    assert [body["charge"] for body in played.bodies] == [
        {"amount": "42"},
        {"amount": "10000"},
        {"meter": "tokens", "usage": "14"},
        {"units": "2"},
    ]


@pytest.mark.parametrize("amount", [-1, 1.5, "x", None, True, 2**64])
async def test_a_meter_that_gives_no_amount_sells_nothing(amount: Any) -> None:
    async with server_of(Played(ACCEPTED), meter=lambda _: amount) as server:
        with pytest.raises(SellerSetupError, match="meter's amount"):
            await server.verify_voucher(VOUCHER, usage=1)


@pytest.mark.parametrize("text", ["", "{", "nonsense", '{"a": NaN}', "[" * 40, " " * 20_000])
async def test_what_is_not_json_is_told_from_a_bad_voucher_without_asking(text: str) -> None:
    played = Played(ACCEPTED)
    with pytest.raises(InvalidVoucher):
        await verdict_of(played, text)
    assert played.asked == []


async def test_json_that_is_no_envelope_is_for_the_ledger_to_judge() -> None:
    played = Played(REFUSED)
    for text in ("5", "[]", "null", "{}"):
        assert not (await verdict_of(played, text)).valid
    assert played.bodies == [{"charge": {"amount": "10000"}}] * 4


FAILURES = [
    httpx.ConnectError("refused"),
    httpx.ReadTimeout("late"),
    httpx.RemoteProtocolError("cut"),
    httpx.Response(503),
    httpx.Response(502, text="<html>"),
    httpx.Response(429),
]


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
async def test_a_call_without_an_answer_is_made_again_under_the_same_key(failure: Any) -> None:
    played = Played(failure, failure, ACCEPTED)
    assert (await verdict_of(played)).valid
    assert len(played.asked) == 3
    assert len(set(played.keys)) == 1


@pytest.mark.parametrize("failure", [*FAILURES, httpx.Response(500, json={})], ids=repr)
async def test_a_ledger_that_is_away_is_one_clear_error(failure: Any) -> None:
    played = Played(failure)
    with pytest.raises(LedgerUnavailable, match="answer 503"):
        await verdict_of(played)
    assert len(played.asked) <= NOW.attempts


async def test_a_voucher_whose_verdict_was_lost_is_asked_for_under_its_first_key() -> None:
    played = Played(*[httpx.ReadTimeout("lost")] * 3, ACCEPTED)
    async with server_of(played) as server:
        with pytest.raises(LedgerUnavailable):
            await server.verify_voucher(VOUCHER)
        assert (await server.verify_voucher(VOUCHER)).valid
        assert len(set(played.keys)) == 1
        await server.verify_voucher(VOUCHER)  # answered: from now on it is another question
        assert len(set(played.keys)) == 2


async def test_a_lost_key_is_given_to_one_caller_only() -> None:
    played = Played(*[httpx.ReadTimeout("lost")] * 3, ACCEPTED)
    async with server_of(played) as server:
        with pytest.raises(LedgerUnavailable):
            await server.verify_voucher(VOUCHER)
        await server.verify_voucher(VOUCHER)
        await server.verify_voucher(VOUCHER)
    assert played.keys[3] == played.keys[0]
    assert played.keys[4] != played.keys[0]


async def test_what_is_owed_is_served_once_without_asking() -> None:
    played = Played(ACCEPTED, REPLAYED)
    async with server_of(played) as server:
        server.owe(await server.verify_voucher(VOUCHER))
        assert (await server.verify_voucher(VOUCHER)).valid
        assert len(played.asked) == 1
        server.owe(refused := await server.verify_voucher(VOUCHER))
        assert not refused.valid
        assert not (await server.verify_voucher(VOUCHER)).valid


async def test_a_refused_call_says_why_and_is_not_repeated() -> None:
    played = Played(problem(401, "unauthorized"))
    with pytest.raises(LedgerRefused, match="401 unauthorized"):
        await verdict_of(played)
    assert len(played.asked) == 1


async def test_an_unknown_channel_has_no_context_and_a_lost_one_is_no_unknown_one() -> None:
    played = Played(problem(404, "session_not_found"), {"channelId": "a/b"}, httpx.Response(204))
    async with server_of(played) as server:
        assert await server.get_session_context("a/b") is None
        assert await server.get_session_context("a/b") == {"channelId": "a/b"}
        await server.remove_session("..")
        for impossible in ("", "x" * 129, "\0", "\ud800"):
            assert await server.get_session_context(impossible) is None
            await server.remove_session(impossible)
    paths = [request.url.raw_path for request in played.asked]
    assert paths == [b"/v1/sessions/a%2Fb"] * 2 + [b"/v1/sessions/%2E%2E"]
    async with server_of(Played(problem(404, "not_found"))) as server:
        with pytest.raises(LedgerRefused):
            await server.get_session_context("c")


@pytest.mark.parametrize("member", ["recipient", "network"])
async def test_check_finds_a_seller_that_is_registered_otherwise(member: str) -> None:
    known = {"recipient": RECIPIENT, "network": "devnet"}
    async with server_of(Played(known)) as server:
        await server.check()
    async with server_of(Played({**known, member: "other"})) as server:
        with pytest.raises(SellerSetupError, match=f"{member} is"):
            await server.check()
    async with server_of(Played(problem(401, "unauthorized"))) as server:
        with pytest.raises(SellerSetupError, match="unauthorized"):
            await server.check()


async def test_a_caller_that_was_cancelled_leaves_its_key_to_the_next_one() -> None:
    asked, keys = asyncio.Event(), list[str]()

    async def ledger(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["idempotency-key"])
        if len(keys) == 1:
            asked.set()
            await asyncio.Event().wait()
        return httpx.Response(200, json=ACCEPTED)

    transport = httpx.MockTransport(ledger)
    async with SessionServer(
        RECIPIENT, 1, network="devnet", api_key="k", transport=transport
    ) as server:
        task = asyncio.create_task(server.verify_voucher(VOUCHER))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await server.verify_voucher(VOUCHER)).valid
    assert keys[0] == keys[1]


@pytest.mark.parametrize(
    ("told", "status"),
    [
        ({"status": 403}, 403),
        ({"status": 404}, 404),
        ({"status": 402}, 402),
        ({"status": 401}, 402),
        ({"status": 422}, 402),
        ({"status": 200}, 402),
        ({"status": "403"}, 402),
        ({"status": None}, 402),
        ({}, 402),
        (None, 402),
        ("403", 402),
    ],
)
async def test_a_refusal_has_the_status_of_its_code(told: Any, status: int) -> None:
    refused = await verdict_of(Played({**REFUSED, "grant": told}))
    assert (refused.status, refused.valid) == (status, False)
    assert refused.grant == (told if isinstance(told, dict) else {})
    assert (await verdict_of(Played(REPLAYED))).status == 402
    assert (await verdict_of(Played({**ACCEPTED, "grant": told}))).status == 200
