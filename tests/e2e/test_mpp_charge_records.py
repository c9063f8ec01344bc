"""What the ledger keeps of one-shot payments: for sellers, operators, statistics and a restart."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from mpp_charge_rig import Shop, refused, shop_fixture
from running import PRICE, Service, running, serving, until

__all__ = ["shop_fixture"]


def test_a_payment_is_a_settlement_in_the_sellers_eyes(service: Service) -> None:
    shop = Shop.of(service)
    assert shop.seller is not None
    found = shop.settle(shop.bought())
    shown = shop.seller.get(f"/v1/settlements/{found['paymentId']}").json()
    assert (shown["status"], shown["signature"]) == ("settled", found["signature"])
    assert (shown["channelId"], shown["amount"]) == (None, str(PRICE))
    assert shown["authority"] == shop.buyer.address
    events = [event for event in shop.seller.events() if event["stream"] == "payment"]
    types = [event["type"] for event in events]
    assert types[0] == "payment_submitted"
    assert types[-1] == "settlement_finalized"
    assert {event["channelId"] for event in events} == {None}
    assert events[0]["payload"]["paymentId"] == found["paymentId"]
    stranger = service.seller()
    assert stranger.get(f"/v1/settlements/{found['paymentId']}").status_code == 404
    assert [e for e in stranger.events() if e["stream"] == "payment"] == []


def test_operators_see_payments_among_the_settlements(service: Service) -> None:
    shop = Shop.of(service, registered=False)
    found = shop.settle(shop.bought())
    shown = command(service, "settlement", "show", found["paymentId"])
    assert found["signature"] in shown
    listed = command(service, "settlement", "list", "--status", "settled", "--limit", "500")
    assert found["paymentId"] in listed
    command(service, "replay", "--stream", f"payment/{found['paymentId']}")


def command(service: Service, *words: str) -> str:
    """What a command prints that succeeds beside the running service."""
    line = [sys.executable, "-m", "service.cli", *words, "--json", "--data-dir"]
    done = subprocess.run(
        [*line, str(service.data_dir)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_statistics_have_the_documented_shape(shop: Shop) -> None:
    def stats() -> dict[str, Any]:
        answer = shop.service.http.get("/mpp/stats")
        assert answer.status_code == 200
        return answer.json()

    before = stats()
    found = shop.settle(shop.bought())
    refused(shop.settle("AAAA"), "invalid_transaction_encoding")

    def counted() -> dict[str, Any] | None:
        now = stats()
        settled, refusals = now["settle"], before["settle"]["refused"]
        new = settled["success"] > before["settle"]["success"]
        return now if new and settled["refused"] > refusals else None

    after = until(counted)
    assert after is not None
    assert set(after["prepare"]) == {"total", "today"}
    assert after["prepare"]["total"] > before["prepare"]["total"]
    settled = after["settle"]
    assert settled["today"] <= settled["total"]
    assert settled["success"] + settled["fail"] <= settled["total"]
    rate = 100 * settled["success"] / (settled["success"] + settled["fail"])
    assert settled["successRate"] == f"{rate:.1f}%"
    newest = after["recentSettlements"][0]
    assert newest == {
        "signature": found["signature"],
        "recipient": shop.recipient,
        "amount": str(PRICE),
        "network": "localnet",
        "payer": shop.buyer.address,
        "at": after["lastSettlement"],
    }


@pytest.fixture(scope="module")
def strict_service() -> Iterator[Service]:
    with running(SETTLE_CAP_PER_SELLER_PER_DAY="1", MPP_UNREGISTERED_SELLERS="refuse") as started:
        yield started


def test_caps_and_unregistered_sellers_are_refused_where_that_is_configured(
    strict_service: Service,
) -> None:
    shop, stranger = Shop.of(strict_service), Shop.of(strict_service, registered=False)
    refused(stranger.settle(stranger.bought()), "seller_not_registered")
    first = shop.bought()
    assert shop.settle(first)["success"]
    refused(shop.settle(shop.bought()), "seller_settle_cap_exceeded")
    assert shop.settle(first)["success"]
    assert strict_service.chain.balance(shop.wallet) == PRICE


def ended(answer: dict[str, Any]) -> dict[str, Any] | None:
    return None if answer.get("errorCode") == "settlement_pending" else answer


@pytest.mark.timeout(300)
@pytest.mark.campaign
def test_a_killed_service_settles_what_it_had_taken_on(tmp_path: Path) -> None:
    """It dies with the chain while it waits for finality, and is started on what it left."""
    with serving(tmp_path) as service:
        shop = Shop.of(service)
        transaction = shop.bought()
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(shop.settle, transaction)
            until(lambda: b"payment_submitted" in service.log.read_bytes())
            service.process.kill()
            with pytest.raises(httpx.HTTPError):
                waiting.result()
    with serving(tmp_path) as again:
        shop.service = again
        found = until(lambda: ended(shop.settle(transaction)), seconds=90)
        assert found is not None
        if not found["success"]:
            refused(found, "blockhash_expired")
        paid = again.chain.balance(shop.wallet)
        assert paid == (PRICE if found["success"] else 0)
        assert shop.settle(transaction) == found
        assert again.chain.balance(shop.wallet) == paid
