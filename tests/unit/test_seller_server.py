"""`SessionServer` against a ledger that is played: what is asked, and what the answers mean."""

import asyncio
import json
import time
from typing import Any

import httpx
import pytest

from session_ledger.seller import (
    InvalidVoucher,
    LedgerRefused,
    LedgerUnavailable,
    Patience,
    SellerSetupError,
    SessionServer,
    SyncSessionServer,
    Verdict,
)

RECIPIENT = "9vMJfxuKxXBoEa7rM12mYLMwTacLMLDJqHozw96WQL8i"
VOUCHER = '{"voucher": {"channelId": "c", "n": 1.0}, "signature": "s", "signer": "k"}'
RECEIPT = {
    "eventHash": "ab12",
    "channelId": "c",
    "position": 2,
    "sequence": 1,
    "amountPaid": "10000",
}
ACCEPTED = {"valid": True, "verdict": "accepted", "amountPaid": "10000", "receipt": RECEIPT}
REPLAYED = {
    "valid": False,
    "verdict": "replayed",
    "code": "amount_not_monotonic",
    "error": "amount_not_monotonic",
    "detail": "accepted before",
    "receipt": RECEIPT,
}
REFUSED = {
    "valid": False,
    "verdict": "rejected",
    "code": "underpaid",
    "error": "underpaid: expected 2, got 1",
    "detail": "adds less",
}
NOW = Patience(attempts=3, pause=0)


class Played:
    """Answers in turn, the last one for ever; an exception is raised. Keeps what was asked."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            return httpx.Response(answer.status_code, content=answer.content)
        return httpx.Response(200, json=answer)

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(request.content) for request in self.asked]

    @property
    def keys(self) -> list[str]:
        return [request.headers["idempotency-key"] for request in self.asked]


def problem(status: int, code: str) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "detail": "d"})


def server_of(played: Played, **settings: Any) -> SessionServer:
    settings = {"network": "devnet", "api_key": "sk_1", "patience": NOW, **settings}
    transport = httpx.MockTransport(played)
    return SessionServer(RECIPIENT, settings.pop("price", "10000"), transport=transport, **settings)


async def verdict_of(played: Played, voucher: Any = VOUCHER, **options: Any) -> Verdict:
    async with server_of(played) as server:
        return await server.verify_voucher(voucher, **options)


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
