"""No request to a buyers' route, however malformed, gives a 5xx, another form, or changes state."""

import base64
import json
from dataclasses import dataclass
from typing import Any, Final

import httpx
import pytest
from buyer_onboarding import CONFIRM, HEADER, ONBOARD, STATUS, Onboarding, fund, refused
from hostile import BODIES, PATHS, PROOFS, QUERIES, VALUES
from raw_http import exchange, request
from running import PRICE, USDC, Buyer, Seller, Service

OPEN, VOUCHER, CLOSE = (f"/mpp/session/{name}" for name in ("open", "voucher", "close"))
PREPARE, SETTLE, STATS = (f"/mpp/{name}" for name in ("prepare", "settle", "stats"))
POSTS: Final = (OPEN, VOUCHER, CLOSE, PREPARE, SETTLE, ONBOARD, CONFIRM)
GETS: Final = (STATUS, STATS)
PREPARES: Final = frozenset(
    (
        "1e999",
        "5,000 digits",
        "5,000 digits in a string",
        "lone surrogate",
        "lone surrogate as a name",
        "NUL inside",
        "unknown name",
        "wrong types",
        "very long name",
        "very many names",
        "brackets in strings",
    )
)
"""Objects of unknown members, which `/mpp/prepare` has no need to refuse."""


@dataclass
class Rig:
    """A buyer with an open session and one voucher, so that there is a state to change."""

    service: Service
    onboarding: Onboarding
    seller: Seller
    channel: str

    @property
    def buyer(self) -> Buyer:
        return self.onboarding.buyer

    def bodies(self) -> dict[str, dict[str, Any]]:
        """For each route a body that it would take."""
        wallet, paid = self.buyer.address, self.seller.facts["recipient"]
        return {
            OPEN: {
                "buyer_wallet": wallet, "buyer_swig_address": wallet, "seller_wallet": paid,
                "deposit_atomic": "1", "network": "localnet", "idle_timeout_seconds": 60,
                "metadata": {},
            },
            VOUCHER: {
                "channel_id": self.channel, "amount": str(2 * PRICE), "serverNonce": "n",
                "meter": "request", "units": "1",
            },
            CLOSE: {"channel_id": self.channel},
            PREPARE: {"network": "localnet"},
            SETTLE: {
                "transaction": "AA==", "recipient": paid, "amount": "1",
                "asset": self.service.facts["mint"], "network": "localnet",
            },
            ONBOARD: {
                "buyer_wallet": wallet, "spend_limit_atomic": "1", "ttl_seconds": 60,
                "recipients": [paid], "network": "localnet",
            },
            CONFIRM: {"buyer_wallet": wallet, "signed_transactions": ["AA=="]},
        }  # fmt: skip

    async def contents(self) -> list[tuple[Any, ...]]:
        """What the database holds of the buyer, and how many streams and proofs there are."""
        own = (f"wallet/{self.buyer.address}", f"funding/{self.buyer.source}")
        session = f"session/{self.seller.id}/{self.channel}"
        kept = await self.service.rows(
            "SELECT stream_id, position, hash FROM events WHERE stream_id = ANY($1) ORDER BY 1, 2",
            [*own, session],
        )
        counts = await self.service.rows(
            "SELECT kind, count(*) FROM streams GROUP BY kind UNION ALL "
            "SELECT 'claims', count(*) FROM claims UNION ALL "
            "SELECT 'keys', count(*) FROM session_keys WHERE stream_id = $1 UNION ALL "
            "SELECT 'payments', count(*) FROM payments ORDER BY 1",
            session,
        )
        assert len(kept) >= 6
        return [tuple(row) for row in (*kept, *counts)]


@pytest.fixture(scope="module")
def rig(service: Service) -> Rig:
    buyer, seller = service.buyer(), service.seller()
    fund(buyer)
    onboarding = Onboarding.of(service, buyer)
    onboarding.ready(spend_limit_atomic=str(5 * USDC))
    body = {
        "buyer_wallet": buyer.address,
        "seller_wallet": seller.facts["recipient"],
        "deposit_atomic": str(USDC),
    }
    channel = service.http.post(OPEN, json=body).json()["channel_id"]
    asked = {"channel_id": channel, "amount": str(PRICE), "serverNonce": "n"}
    assert service.http.post(VOUCHER, json=asked).json()["success"]
    return Rig(service, onboarding, seller, channel)


def refusal(answer: httpx.Response, path: str) -> dict[str, Any]:
    """The body of a refusal in the one form that the wire has."""
    expected = range(200, 201) if path == SETTLE else range(400, 500)
    assert answer.status_code in (*expected, 413), (path, answer.status_code, answer.text[:500])
    assert answer.headers["content-type"] == "application/json"
    body: dict[str, Any] = answer.json()
    assert body["success"] is body["ok"] is False, (path, body)
    for name in ("error", "detail"):
        assert isinstance(body[name], str), (path, body)
        assert body[name], (path, body)
    return body


@pytest.mark.parametrize("name", BODIES)
async def test_a_body_that_no_route_wants_is_refused_and_changes_nothing(
    rig: Rig, name: str
) -> None:
    before = await rig.contents()
    for path in POSTS:
        for content_type in ("application/json", "text/plain"):
            headers = {"content-type": content_type, HEADER: rig.onboarding.header}
            answer = rig.service.http.post(path, content=BODIES[name], headers=headers)
            if path == PREPARE and name in PREPARES:
                assert answer.json()["success"]
            else:
                refusal(answer, path)
    assert await rig.contents() == before


FIELDS: Final = [
    (path, field)
    for path, fields in {
        OPEN: "buyer_wallet buyer_swig_address seller_wallet deposit_atomic network "
        "idle_timeout_seconds metadata",
        VOUCHER: "channel_id amount serverNonce meter units",
        CLOSE: "channel_id",
        PREPARE: "network",
        SETTLE: "transaction recipient amount asset network",
        ONBOARD: "buyer_wallet spend_limit_atomic ttl_seconds recipients network",
        CONFIRM: "buyer_wallet signed_transactions",
    }.items()
    for field in fields.split()
]
LABELS: Final = ("serverNonce", "meter")
"""Members that may be any text."""


def taken(field: str, value: object) -> bool:
    """Whether the value is none that the route has to refuse."""
    if field in LABELS:
        return isinstance(value, str) and len(value) <= 64
    if field in ("idle_timeout_seconds", "ttl_seconds"):
        return value == 1 and value is not True
    return field == "units" and value == ""


@pytest.mark.parametrize(("path", "field"), FIELDS, ids=lambda part: part.rpartition("/")[2])
async def test_one_bad_member_is_enough_for_a_refusal(rig: Rig, path: str, field: str) -> None:
    before = await rig.contents()
    headers = {HEADER: rig.onboarding.header}
    for value in VALUES.values():
        if not taken(field, value):
            body = {**rig.bodies()[path], field: value}
            told = refusal(rig.service.http.post(path, json=body, headers=headers), path)
            if not (field == "channel_id" and told["error"] == "channel_not_found"):
                assert field in told["detail"] or told["error"] == "network_mismatch", told
    assert await rig.contents() == before


@pytest.mark.parametrize("path", POSTS)
async def test_a_name_given_twice_is_refused_although_each_alone_would_do(
    rig: Rig, path: str
) -> None:
    before = await rig.contents()
    members = json.dumps(rig.bodies()[path])[1:-1]
    answer = rig.service.http.post(
        path, content=f"{{{members}, {members}}}", headers={HEADER: rig.onboarding.header}
    )
    assert "repeats a name" in refusal(answer, path)["detail"]
    assert await rig.contents() == before


@pytest.mark.parametrize("name", PROOFS)
async def test_a_header_that_proves_nothing_opens_nothing(rig: Rig, name: str) -> None:
    before = await rig.contents()
    wallet = {"buyer_wallet": rig.buyer.address}
    for path in (ONBOARD, CONFIRM, STATUS):
        for value in PROOFS[name]:
            headers: Any = {HEADER: value}
            answer = (
                rig.service.http.get(path, params=wallet, headers=headers)
                if path == STATUS
                else rig.service.http.post(path, json=rig.bodies()[path], headers=headers)
            )
            refused(answer, 401, "sign_in_invalid" if value else "sign_in_required")
    assert await rig.contents() == before


async def test_an_altered_proof_and_a_second_one_open_nothing(rig: Rig) -> None:
    before = await rig.contents()
    good = rig.onboarding.header
    members = json.loads(base64.b64decode(good))
    wallet = {"buyer_wallet": rig.buyer.address}
    for name in members:
        for value in (None, 1, [], {}, "", "x", "\0", "\ud800", "9" * 2_000, members[name] + " "):
            altered = base64.b64encode(json.dumps({**members, name: value}).encode()).decode()
            answer = rig.service.http.get(STATUS, params=wallet, headers={HEADER: altered})
            refused(answer, 401, "sign_in_invalid")
        left = {other: members[other] for other in members if other != name}
        short = base64.b64encode(json.dumps(left).encode()).decode()
        answer = rig.service.http.get(STATUS, params=wallet, headers={HEADER: short})
        refused(answer, 401, "sign_in_invalid")
    for pair in ((good, "x"), ("x", good), ("x", "x")):
        lines = [(HEADER, value) for value in pair]
        answer = rig.service.http.get(STATUS, params=wallet, headers=lines)
        if pair[0] == good:
            assert answer.json()["status"] == "active"  # the first one counts
        else:
            refused(answer, 401, "sign_in_invalid")
    for value in ("x" * 60_000, "A" * 200_000):
        message = request("GET", STATUS, "k", b"", f"{HEADER}: {value}".encode())
        status = exchange(rig.service, message)
        assert status is None or 400 <= status < 500
    assert await rig.contents() == before


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query[:40])
async def test_a_query_of_garbage_is_refused_or_ignored(rig: Rig, query: str) -> None:
    before = await rig.contents()
    proof = f"{HEADER}: {rig.onboarding.header}".encode()
    garbage = query.partition("=")[2]
    for path in GETS:
        for text in (query, f"buyer_wallet={garbage}", f"wallet={garbage}&network={garbage}"):
            status = exchange(rig.service, request("GET", f"{path}?{text}", "k", b"", proof))
            assert status is not None
            assert status < 500, (path, text)
    for path in POSTS:
        message = request("POST", f"{path}?{query}", "k", b"[]", proof)
        status = exchange(rig.service, message)
        assert status is not None
        assert status < 500, path
    assert await rig.contents() == before


@pytest.mark.parametrize("part", PATHS, ids=lambda part: part[:30] or "empty")
async def test_a_path_of_garbage_finds_nothing(rig: Rig, part: str) -> None:
    before = await rig.contents()
    for prefix in ("/mpp", "/mpp/session", "/mpp/session/open", "/api/sessions", ONBOARD):
        for method in ("GET", "POST", "DELETE"):
            status = exchange(rig.service, request(method, f"{prefix}/{part}", "k", b""))
            assert status is not None
            assert 400 <= status < 500, (method, prefix, part)
    assert await rig.contents() == before


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_what_no_route_answers_is_refused_in_the_wires_form(service: Service, method: str) -> None:
    for path in ("/mpp", "/mpp/nothing", "/api/sessions", "/api/sessions/onboard/nothing"):
        refused(service.http.request(method, path), 404, "not_found")
    for path, own in ((OPEN, "POST"), (STATS, "GET"), (STATUS, "GET"), (CONFIRM, "POST")):
        if method != own:
            answer = service.http.request(method, path)
            refused(answer, 405, "method_not_allowed")
            assert answer.headers["allow"] == own
