"""Sessions of the buyer's client: grants, what ends them, and the owner's signature once."""

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from session_ledger.buyer import (
    AutoPay,
    FileStore,
    GrantClient,
    GrantRefused,
    Limits,
    OwnerSignatureRequired,
    PaidWithoutAnswer,
    PaymentRefused,
    SessionMissing,
    SessionTransport,
    SyncSessionTransport,
)
from session_ledger.grant import (
    PROBLEM_TYPE,
    Grant,
    GrantError,
    grant_id,
    grant_message,
    parse_grant,
    revocation_message,
    verify_signature,
)
from tests.buyer_shop import OWNER, PRICE, RECIPIENT, URL, Shop, autopay

LIMITS = Limits(
    allowed_recipients=(RECIPIENT,),
    max_payment_amount=PRICE,
    max_calls=3,
    max_total_amount=100 * PRICE,
    owner_may_sign=True,
)


@dataclass
class Ledger:
    """Keeps grants, and counts their calls as the real one does."""

    grants: dict[str, Grant] = field(default_factory=dict[str, Grant])
    calls: dict[str, int] = field(default_factory=dict[str, int])
    revoked: set[str] = field(default_factory=set[str])
    now: float = 1_800_000_000
    away: bool = False

    def client(self) -> GrantClient:
        return GrantClient("https://ledger.example", transport=httpx.MockTransport(self))

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.away:
            raise httpx.ConnectError("away")
        path, body = request.url.path, json.loads(request.content or b"{}")
        if path == "/v1/grants":
            grant = parse_grant(body["grant"])
            verify_signature(grant_message(grant), body["signature"], grant.owner)
            identity = grant_id(grant_message(grant))
            self.grants[identity] = grant
            return httpx.Response(201, json={"grantId": identity})
        identity = path.split("/")[3]
        if identity not in self.grants:
            problem = {"code": "grant_not_found", "detail": "unknown"}
            return httpx.Response(404, json=problem)
        if path.endswith("/revoke"):
            message = revocation_message(identity, body["at"])
            verify_signature(message, body["signature"], self.grants[identity].owner)
            self.revoked.add(identity)
        return httpx.Response(200, json={"grantId": identity})

    def judge(self, voucher: dict[str, Any], signer: str) -> dict[str, Any] | None:
        """What a voucher under a grant is refused for."""
        identity = voucher.get("grantId")
        if identity is None:
            assert signer == voucher["payer"] == OWNER.address
            return None
        grant = self.grants[identity]
        assert signer == grant.session_public_key
        used = self.calls.get(identity, 0)
        for refused, code in (
            (identity in self.revoked, "grant_revoked"),
            (self.now > grant.valid_until, "grant_expired"),
            (used >= grant.max_calls, "grant_max_calls_exceeded"),
        ):
            if refused:
                fallback = None if code == "grant_revoked" else "owner_signature"
                return {"code": code, "fallback": fallback, "limit": "3", "used": str(used)}
        self.calls[identity] = used + 1
        return None


class Rig:
    """A client with a session under a grant of three calls, a shop and a ledger."""

    def __init__(self, *, limits: Limits = LIMITS, **changes: Any) -> None:
        self.ledger = Ledger()
        self.shop = Shop(judge=self.ledger.judge)
        given: dict[str, Any] = {
            "session_key": None,
            "payer": None,
            "owner_signer": OWNER,
            "grants": self.ledger.client(),
            "clock": lambda: self.ledger.now,
        }
        self.payer: AutoPay = autopay(**{**given, **changes})
        self.http = httpx.Client(
            transport=SyncSessionTransport(self.payer, self.shop.transport()),
        )
        assert self.payer.session.state == "none"
        self.payer.create_session()
        assert self.payer.session.state == "created"
        self.grant = self.payer.register(limits, duration=3_600)
        assert self.payer.session.state == "active"

    def get(self, times: int = 1) -> list[int]:
        return [self.http.get(f"{URL}?{n}").status_code for n in range(times)]

    def grants_used(self) -> list[str | None]:
        return [each.get("grantId") for each in self.shop.accepted]


def test_a_registered_session_pays_under_its_grant() -> None:
    rig = Rig()
    assert rig.get(3) == [200] * 3
    assert rig.grants_used() == [rig.grant] * 3
    (voucher, *_) = rig.shop.accepted
    assert voucher["payer"] == OWNER.address
    assert voucher["signer"] == rig.payer.session.public_key != OWNER.address


def test_a_used_up_grant_is_renewed_by_the_owner_and_the_request_goes_on() -> None:
    rig = Rig()
    assert rig.get(5) == [200] * 5
    first, second = dict.fromkeys(rig.grants_used())
    assert (rig.ledger.calls[str(first)], rig.ledger.calls[str(second)]) == (3, 2)
    assert len(rig.ledger.grants) == 2
    assert rig.ledger.grants[str(second)].max_calls == 3
    assert rig.payer.session.state == "active"
    assert rig.shop.paid == rig.payer.total_spent == 5 * PRICE


def test_an_expiry_during_a_run_falls_back_once_and_continues() -> None:
    rig = Rig()
    assert rig.get(2) == [200] * 2
    rig.ledger.now += 3_601  # the ledger says so first: our own clock allows for skew
    assert rig.get(2) == [200] * 2
    rig.ledger.now += 7_200  # and now the client knows before it signs
    assert rig.payer.session.state == "expired"
    shown = len(rig.shop.shown)
    assert rig.get(2) == [200] * 2
    assert len(rig.shop.shown) == shown + 2
    assert len(rig.ledger.grants) == 3
    assert rig.shop.paid == 6 * PRICE


def test_the_owner_signs_the_one_voucher_when_it_is_to_be_so() -> None:
    rig = Rig(fallback="once")
    assert rig.get(5) == [200] * 5
    assert rig.grants_used() == [rig.grant] * 3 + [None] * 2
    assert rig.payer.session.state == "exhausted"
    assert len(rig.ledger.grants) == 1
    assert rig.shop.paid == 5 * PRICE


def test_a_grant_that_keeps_the_owner_out_has_no_fallback_to_single_vouchers() -> None:
    limits = Limits((RECIPIENT,), PRICE, 1, 100 * PRICE)
    rig = Rig(fallback="once", limits=limits)
    assert rig.get() == [200]
    with pytest.raises(PaymentRefused) as raised:
        rig.get()
    assert raised.value.code == "grant_max_calls_exceeded"
    assert rig.shop.paid == PRICE


def test_there_is_one_fallback_for_a_request_and_no_more() -> None:
    rig = Rig()
    rig.shop.judge = lambda *_: {"code": "grant_expired", "fallback": "owner_signature"}
    with pytest.raises(PaymentRefused) as raised:
        rig.get()
    assert raised.value.code == "grant_expired"
    assert len(rig.ledger.grants) == 2
    assert rig.shop.paid == 0


async def test_a_late_refusal_of_the_old_grant_does_not_end_the_renewed_one() -> None:
    rig, renewed = Rig(channels_per_seller=2), asyncio.Event()
    judged = rig.shop.transport()

    async def shop(request: httpx.Request) -> httpx.Response:
        envelope = json.loads(request.headers.get("x-mpp-voucher", "null"))
        if envelope is not None:
            if envelope["voucher"]["grantId"] != rig.grant:
                renewed.set()
            elif request.url.query == b"late":
                await renewed.wait()
        return judged.handle_request(request)

    rig.ledger.now += 3_601
    transport = SessionTransport(rig.payer, httpx.MockTransport(shop))
    async with httpx.AsyncClient(transport=transport) as client:
        answers = await asyncio.gather(client.get(f"{URL}?late"), client.get(f"{URL}?early"))
    assert [answer.status_code for answer in answers] == [200, 200]
    assert len(rig.ledger.grants) == 2
    assert rig.payer.session.state == "active"
    assert len(rig.shop.shown) == 4


def test_without_an_owner_the_client_says_whose_signature_is_wanted() -> None:
    rig = Rig()
    rig.payer.session.owner = None
    assert rig.get(3) == [200] * 3
    with pytest.raises(OwnerSignatureRequired) as raised:
        rig.get()
    assert raised.value.code == "grant_max_calls_exceeded"
    assert raised.value.requirement is not None
    shown = len(rig.shop.shown)
    with pytest.raises(OwnerSignatureRequired):
        rig.get()
    assert len(rig.shop.shown) == shown  # what is known to be used up is not signed again
    assert rig.payer.session.state == "exhausted"


def test_a_revoked_grant_pays_nothing_more_and_is_not_renewed() -> None:
    rig = Rig()
    assert rig.get() == [200]
    rig.ledger.revoked.add(rig.grant)
    for _ in range(2):
        with pytest.raises(PaymentRefused) as raised:
            rig.get()
        assert raised.value.code == "grant_revoked"
    assert rig.payer.session.state == "revoked"
    assert len(rig.ledger.grants) == 1
    assert len(rig.shop.shown) == 2


def test_the_owner_revokes_with_a_signature_of_its_own() -> None:
    rig = Rig()
    rig.payer.session.revoke()
    assert rig.ledger.revoked == {rig.grant}
    assert rig.payer.session.state == "revoked"


def test_a_session_survives_a_restart_with_its_key(tmp_path: Path) -> None:
    path = tmp_path / "purse.json"
    rig = Rig(store=FileStore(path))
    assert rig.get(2) == [200] * 2
    key = rig.payer.session.key
    rig.payer.close()
    again = autopay(
        store=FileStore(path),
        session_key=key,
        payer=None,
        grants=rig.ledger.client(),
        clock=lambda: rig.ledger.now,
    )
    assert (again.session.state, again.session.grant_id) == ("active", rig.grant)
    with again, httpx.Client(transport=SyncSessionTransport(again, rig.shop.transport())) as http:
        assert http.get(URL).status_code == 200
        with pytest.raises(OwnerSignatureRequired):
            http.get(URL)
    assert [each["sequence"] for each in rig.shop.accepted] == [1, 2, 3]


def test_a_grant_for_another_key_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "purse.json"
    rig = Rig(store=FileStore(path))
    rig.payer.close()
    with autopay(store=FileStore(path), payer=None) as other:
        assert (other.session.state, other.session.grant_id) == ("created", None)


def test_a_limit_that_is_none_is_refused_before_anybody_signs() -> None:
    rig = Rig()
    with pytest.raises(GrantError):
        rig.payer.register(Limits((), PRICE, 1, PRICE))
    with pytest.raises(GrantError):
        rig.payer.register(LIMITS, duration=31 * 24 * 3_600)
    assert len(rig.ledger.grants) == 1


def test_a_ledger_that_is_away_or_refuses_is_said_so() -> None:
    rig = Rig()
    with pytest.raises(GrantRefused) as refused:
        rig.ledger.client().show("unknown")
    assert (refused.value.code, refused.value.status) == ("grant_not_found", 404)
    rig.ledger.away = True
    with pytest.raises(GrantRefused) as away:
        rig.payer.register(LIMITS)
    assert away.value.code == "unavailable"
    assert rig.payer.session.grant_id == rig.grant


def test_registering_needs_an_owner_and_a_ledger() -> None:
    payer = autopay()
    with pytest.raises(SessionMissing):
        payer.register(LIMITS)


REFUSALS = [
    ("grant_payment_too_large", 402),
    ("grant_recipient_not_allowed", 403),
    ("grant_entrypoint_not_allowed", 403),
    ("grant_not_found", 404),
]


@dataclass
class Refusing:
    """A shop that answers the next vouchers with something of its own, as a stream."""

    shop: Shop
    status: int
    body: dict[str, Any]
    headers: dict[str, str]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        answer = self.shop(request)
        if "x-mpp-voucher" not in request.headers or not self.status:
            return answer
        stream = httpx.ByteStream(json.dumps(self.body).encode())
        return httpx.Response(self.status, headers=self.headers, stream=stream)


def refusal(code: str, status: int, **changes: Any) -> dict[str, Any]:
    body = {"type": "mpp-session", "title": "t", "status": status, "code": code}
    return {**body, "verdict": "rejected", "limit": "7", **changes}


async def asked(payer: AutoPay, shop: Refusing, kind: str) -> httpx.Response:
    transport = httpx.MockTransport(shop)
    if kind == "blocking":
        return httpx.Client(transport=SyncSessionTransport(payer, transport)).get(URL)
    return await httpx.AsyncClient(transport=SessionTransport(payer, transport)).get(URL)


@pytest.mark.parametrize("kind", ["awaited", "blocking"])
@pytest.mark.parametrize(("code", "status"), REFUSALS)
async def test_a_grants_refusal_is_one_whatever_its_status(
    kind: str, code: str, status: int
) -> None:
    rig = Rig()
    shop = Refusing(Shop(), status, refusal(code, status), {"content-type": PROBLEM_TYPE})
    with pytest.raises(PaymentRefused) as raised:
        await asked(rig.payer, shop, kind)
    assert (raised.value.code, raised.value.refusal.body["limit"]) == (code, "7")
    assert (rig.payer.pending, rig.payer.total_spent) == ([], 0)
    assert rig.payer.session.state == "active"


OWN_ANSWERS: dict[str, tuple[int, dict[str, Any], str]] = {
    "no problem": (403, refusal("grant_not_found", 403), "application/json"),
    "another code": (404, refusal("not_found", 404), PROBLEM_TYPE),
    "no code": (404, {**refusal("", 404), "code": 5}, PROBLEM_TYPE),
    "another status": (404, refusal("grant_not_found", 403), PROBLEM_TYPE),
    "no verdict": (404, refusal("grant_not_found", 404, verdict=None), PROBLEM_TYPE),
    "status 401": (401, refusal("grant_signature_invalid", 401), PROBLEM_TYPE),
    "status 410": (410, refusal("grant_not_found", 410), PROBLEM_TYPE),
}


@pytest.mark.parametrize("kind", ["awaited", "blocking"])
@pytest.mark.parametrize(("status", "body", "media_type"), OWN_ANSWERS.values(), ids=OWN_ANSWERS)
async def test_any_other_refusal_is_the_shops_own_answer(
    kind: str, status: int, body: dict[str, Any], media_type: str
) -> None:
    rig = Rig()
    shop = Refusing(Shop(), status, body, {"content-type": media_type})
    answer = await asked(rig.payer, shop, kind)
    assert (answer.status_code, answer.json()) == (status, body)
    assert [info.sequence for info in rig.payer.pending] == [1]  # nobody knows what became of it
    shop.status = 0
    with pytest.raises(PaidWithoutAnswer):
        await asked(rig.payer, shop, kind)
    assert (rig.payer.payment_count, len(shop.shop.accepted)) == (1, 1)


@pytest.mark.parametrize("kind", ["awaited", "blocking"])
async def test_an_answer_with_a_receipt_was_paid_for_whatever_it_says(kind: str) -> None:
    rig = Rig()
    headers = {"content-type": PROBLEM_TYPE, "x-mpp-receipt": "ab12"}
    shop = Refusing(Shop(), 404, refusal("grant_not_found", 404), headers)
    assert (await asked(rig.payer, shop, kind)).json()["code"] == "grant_not_found"
    assert (rig.payer.pending, rig.payer.total_spent) == ([], PRICE)
    assert rig.payer.last_payment is not None
    assert rig.payer.last_payment.receipt_id == "ab12"
