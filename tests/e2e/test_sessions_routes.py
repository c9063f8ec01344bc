"""Session contexts, listings, histories and removal, over HTTP. Spec: "Session context"."""

import base64
import json
from datetime import datetime
from typing import Any

import pytest
from grant_rig import granted
from nacl.signing import VerifyKey
from running import CONTEXT, PRICE, USDC, Buyer, Seller, Service, fresh, path_of, problem_of, until

from session_ledger.encoding import base58_decode
from session_ledger.voucher import message_bytes


def test_a_registered_channel_keeps_its_terms(seller: Seller, buyer: Buyer) -> None:
    limits = {"maxIncrement": "30000", "maxCumulative": "60000", "maxVouchers": 3}
    terms = {"limits": limits, "validUntil": 4_102_444_800, "grantId": granted(buyer)}
    answer = seller.open(buyer, "c", deposit="50000", **terms)
    assert answer.status_code == 201
    opened = answer.json()
    assert set(opened) == CONTEXT
    assert opened == seller.session("c")
    assert (opened["deposit"], opened["remaining"]) == ("50000", "50000")
    assert (opened["sessionPubkey"], opened["grantId"]) == (buyer.signer, terms["grantId"])
    assert (opened["limits"], opened["validUntil"]) == (limits, "2100-01-01T00:00:00.000Z")
    assert (opened["voucherCount"], opened["lastSequence"], opened["position"]) == (0, None, 1)
    again = seller.open(buyer, "c", deposit="50000", **terms)
    assert (again.status_code, again.json()) == (201, opened)
    problem_of(seller.open(buyer, "c", deposit="50001", **terms), 409, "session_exists")
    assert seller.verify(buyer.pay(seller, "c", PRICE, 1))["session"]["remaining"] == "40000"


def test_a_channel_without_an_id_is_given_one(seller: Seller, buyer: Buyer) -> None:
    first, second = (seller.open(buyer, "", channelId=None).json() for _ in range(2))
    assert first["channelId"] != second["channelId"]
    assert seller.session(first["channelId"]) == first


def test_a_channel_that_its_voucher_registered_cannot_be_registered_again(
    seller: Seller, buyer: Buyer
) -> None:
    assert seller.verify(buyer.pay(seller, "c", PRICE, 1))["valid"]
    problem_of(seller.open(buyer, "c"), 409, "session_exists")


def test_the_deposit_and_the_limits_bound_what_is_accepted(seller: Seller, buyer: Buyer) -> None:
    limits = {"maxIncrement": "30000", "maxCumulative": "60000", "maxVouchers": 2}
    assert seller.open(buyer, "limits", limits=limits).status_code == 201
    for amount, error in (
        (30_001, "limit_exceeded: maxIncrement is 30000, got 30001"),
        (60_001, "limit_exceeded: maxIncrement is 30000, got 60001"),
    ):
        assert seller.verify(buyer.pay(seller, "limits", amount, 1))["error"] == error
    assert seller.verify(buyer.pay(seller, "limits", 30_000, 1))["valid"]
    assert seller.verify(buyer.pay(seller, "limits", 45_000, 2))["valid"]
    above = seller.verify(buyer.pay(seller, "limits", 60_001, 3))
    assert above["error"] == "limit_exceeded: maxCumulative is 60000, got 60001"
    third = seller.verify(buyer.pay(seller, "limits", 60_000, 3))
    assert third["error"] == "limit_exceeded: maxVouchers is 2, got 3"
    assert seller.open(buyer, "deposit", deposit="15000").status_code == 201
    over = seller.verify(buyer.pay(seller, "deposit", 15_001, 1))
    assert over["error"] == "deposit_exceeded: the deposit is 15000, got 15001"
    assert seller.verify(buyer.pay(seller, "deposit", 15_000, 1))["session"]["remaining"] == "0"


def test_the_sellers_limits_hold_for_channels_that_vouchers_register(
    service: Service, buyer: Buyer
) -> None:
    seller = service.seller(limits={"maxVouchers": 1})
    assert seller.verify(buyer.pay(seller, "c", PRICE, 1))["session"]["limits"]["maxVouchers"] == 1
    assert seller.verify(buyer.pay(seller, "c", 2 * PRICE, 2))["code"] == "limit_exceeded"


def test_a_registered_channel_takes_its_own_signer_payer_and_end_only(
    service: Service, seller: Seller, buyer: Buyer
) -> None:
    stranger = service.buyer()
    assert seller.open(buyer, "c").status_code == 201
    wrong_key = stranger.pay(seller, "c", PRICE, 1, payer=buyer.address)
    assert seller.verify(wrong_key)["error"] == "signer_changed_mid_session"
    wrong_payer = buyer.pay(seller, "c", PRICE, 1, payer=stranger.address)
    expected = f"payer_changed: expected {buyer.address}, got {stranger.address}"
    assert seller.verify(wrong_payer)["error"] == expected
    assert seller.open(buyer, "ended", validUntil=1).status_code == 201
    ended = seller.verify(buyer.pay(seller, "ended", PRICE, 1))
    assert ended["error"] == "voucher_expired: validUntil was 1"


def test_a_seller_may_refuse_channels_that_nobody_registered(
    service: Service, buyer: Buyer
) -> None:
    seller = service.seller(unknownChannels="refuse")
    refused = seller.verify(buyer.pay(seller, "c", PRICE, 1))
    assert (refused["verdict"], refused["code"]) == ("rejected", "session_not_found")
    problem_of(seller.get(path_of("c")), 404, "session_not_found")
    assert seller.open(buyer, "c").status_code == 201
    assert seller.verify(buyer.pay(seller, "c", PRICE, 1))["valid"]


@pytest.mark.parametrize(
    "channel",
    ["a/b", "a%2Fb", "é ü", "..", "?x=1#y", "\n\x85", "😀" * 128, "x" * 128, "%00", " "],
)
def test_a_channel_id_is_any_string_of_the_buyer(
    seller: Seller, buyer: Buyer, channel: str
) -> None:
    assert seller.open(buyer, channel).status_code == 201
    verdict = seller.verify(buyer.pay(seller, channel, PRICE, 1))
    assert verdict["receipt"]["channelId"] == channel
    assert seller.session(channel)["channelId"] == channel
    assert seller.verify(buyer.pay(seller, channel, PRICE, 2))["code"] == "amount_not_monotonic"
    until(lambda: seller.get(path_of(channel) + "/rejections").json()["counts"])
    assert len(seller.get(path_of(channel) + "/vouchers").json()["vouchers"]) == 1
    assert seller.delete(path_of(channel)).status_code == 204
    problem_of(seller.get(path_of(channel)), 404, "session_not_found")


def test_a_removed_session_stays_refused_and_its_history_readable(
    seller: Seller, buyer: Buyer
) -> None:
    signed = buyer.pay(seller, "c", PRICE, 1)
    assert seller.verify(signed)["valid"]
    for _ in range(2):
        assert seller.delete(path_of("c")).status_code == 204
    problem_of(seller.get(path_of("c")), 404, "session_not_found")
    assert seller.verify(signed)["code"] == "session_removed"
    assert seller.verify(buyer.pay(seller, "c", 2 * PRICE, 2))["code"] == "session_removed"
    problem_of(seller.close("c"), 404, "session_not_found")
    assert seller.session("c", at=2)["state"] == "open"
    assert seller.session("c", at=3)["state"] == "removed"
    assert len(seller.get(path_of("c") + "/vouchers").json()["vouchers"]) == 1
    assert seller.get("/v1/sessions").json()["sessions"] == []
    [removed] = seller.get("/v1/sessions", state="removed").json()["sessions"]
    assert (removed["channelId"], removed["state"]) == ("c", "removed")
    assert [event["type"] for event in seller.events()].count("session_removed") == 1


def test_removing_what_is_unknown_is_nothing(seller: Seller) -> None:
    assert seller.delete(path_of("nobody's")).status_code == 204
    assert [event["stream"] for event in seller.events()] == ["seller"] * 3


def test_the_context_is_given_as_it_was(seller: Seller, buyer: Buyer) -> None:
    receipts = [seller.verify(buyer.pay(seller, "c", n * PRICE, n))["receipt"] for n in range(1, 4)]
    rows = seller.get(path_of("c") + "/vouchers").json()["vouchers"]
    for number, (receipt, row) in enumerate(zip(receipts, rows, strict=True), 1):
        then = seller.session("c", at=receipt["position"])
        assert (then["voucherCount"], then["position"]) == (number, receipt["position"])
        assert seller.session("c", at=row["recordedAt"])["voucherCount"] >= number
    assert seller.session("c", at=10**9) == seller.session("c")
    opened = seller.session("c", at=1)
    assert (opened["voucherCount"], opened["cumulativeAmount"]) == (0, "0")
    moment = datetime.fromisoformat(rows[-1]["recordedAt"])
    shifted = moment.timestamp() + 1
    later = datetime.fromtimestamp(shifted, moment.tzinfo).isoformat()
    assert seller.session("c", at=later)["voucherCount"] == 3
    for before in ("0", "2001-01-01T00:00:00Z", "2001-01-01T00:00:00+02:00"):
        problem_of(seller.get(path_of("c"), at=before), 404, "session_not_found")


def test_sessions_are_listed_page_by_page_without_gap_or_repeat(
    service: Service, seller: Seller
) -> None:
    buyers = [service.buyer() for _ in range(3)]
    channels = [f"c{n}" for n in range(11)]
    for n, channel in enumerate(channels):
        assert seller.verify(buyers[n % 3].pay(seller, channel, PRICE, 1))["valid"]
    pages: list[list[str]] = []
    cursor: dict[str, str] = {}
    while True:
        page = seller.get("/v1/sessions", limit=3, **cursor).json()
        pages.append([session["channelId"] for session in page["sessions"]])
        if page["nextCursor"] is None:
            break
        cursor = {"cursor": page["nextCursor"]}
    assert [len(page) for page in pages] == [3, 3, 3, 2]
    listed = [channel for page in pages for channel in page]
    assert sorted(listed) == sorted(channels)
    assert [seller.session(c)["openedAt"] for c in listed] == sorted(
        seller.session(c)["openedAt"] for c in listed
    )
    own = seller.get("/v1/sessions", payer=buyers[0].address).json()["sessions"]
    assert [session["channelId"] for session in own] == ["c0", "c3", "c6", "c9"]
    assert seller.get("/v1/sessions", state="closing").json()["sessions"] == []
    assert len(seller.get("/v1/sessions", state="open").json()["sessions"]) == 11


def test_the_history_can_be_verified_with_the_public_key_alone(
    seller: Seller, buyer: Buyer
) -> None:
    raws: list[str] = []
    receipts: list[dict[str, Any]] = []
    for n in range(1, 8):
        signed = buyer.pay(seller, "c", n * PRICE, n, note=f"é {n}")
        raws.append(json.dumps(signed["voucher"], indent=n % 3, ensure_ascii=n % 2 == 0))
        head = json.dumps({name: signed[name] for name in ("signature", "signer", "signatureType")})
        body = f'{{"voucher": {raws[-1]}, {head[1:]}'
        receipts.append(seller.verify(body.encode())["receipt"])
    path, rows, cursor = path_of("c") + "/vouchers", list[dict[str, Any]](), 0
    while cursor is not None:
        page = seller.get(path, limit=3, cursor=cursor).json()
        rows += page["vouchers"]
        cursor = page["nextCursor"]
    assert [row["rawVoucher"] for row in rows] == raws
    total = 0
    for row, receipt in zip(rows, receipts, strict=True):
        voucher = json.loads(row["rawVoucher"])
        key = VerifyKey(base58_decode(row["signer"]))
        key.verify(message_bytes(voucher), base64.b64decode(row["signature"]))
        assert row["voucher"] == voucher
        total += int(row["amountPaid"])
        assert str(total) == voucher["cumulativeAmount"] == row["cumulativeAmount"]
        assert (row["position"], row["eventHash"]) == (receipt["position"], receipt["eventHash"])
        assert (row["time"], row["signatureType"]) == (receipt["acceptedAt"], "ed25519")
        assert row["sequence"] == voucher["sequence"]
    problem_of(seller.get(path_of("unknown") + "/vouchers"), 404, "session_not_found")


def test_refusals_are_counted_and_the_last_ones_readable(seller: Seller, buyer: Buyer) -> None:
    assert seller.verify(buyer.pay(seller, "c", PRICE, 1))["valid"]
    for n in range(25):
        seller.verify(buyer.pay(seller, "c", PRICE, 2 + n))
    seller.verify(buyer.pay(seller, "c", PRICE + 1, 99))
    seller.verify(buyer.pay(seller, "elsewhere", 1, 1))

    def written() -> dict[str, Any] | None:
        found = seller.get(path_of("c") + "/rejections").json()
        total = sum(row["count"] for row in found["counts"])
        newest = found["recent"][0]["code"] if found["recent"] else None
        return found if (total, newest) == (26, "underpaid") else None

    found = until(written)
    assert found is not None
    counts = {row["code"]: row["count"] for row in found["counts"]}
    assert counts == {"amount_not_monotonic": 25, "underpaid": 1}
    assert len(found["recent"]) == 20
    newest = found["recent"][0]
    assert newest["error"] == f"underpaid: expected {PRICE}, got 1"
    assert json.loads(newest["rawVoucher"])["sequence"] == 99
    [unknown] = until(lambda: seller.get("/v1/rejections").json()["counts"])
    assert (unknown["code"], unknown["count"]) == ("underpaid", 1)


def test_funding_says_what_the_chain_said(service: Service, seller: Seller) -> None:
    rich, poor, bare = (service.buyer() for _ in range(3))
    rich.fund(2 * USDC)
    poor.fund(2 * USDC, approved=USDC - 1)
    for buyer, funding in ((rich, "verified"), (poor, "insufficient"), (bare, "unverified")):
        opened = seller.open(buyer, fresh("c"), sourceTokenAccount=buyer.source).json()
        assert opened["funding"] == funding
        assert (opened["fundingSlot"] is None) == (funding == "unverified")
        assert opened["sourceTokenAccount"] == buyer.source
    someone_elses = seller.open(bare, fresh("c"), sourceTokenAccount=rich.source).json()
    assert someone_elses["funding"] == "insufficient"
