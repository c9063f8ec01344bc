"""What the watcher does to running sessions, seen over HTTP and on the chain."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from running import PRICE, USDC, Buyer, Seller, Service, running, serving, settled, until

IDLE_SECONDS = 3
HEADROOM = USDC


@pytest.fixture(scope="module")
def watching() -> Iterator[Service]:
    """A service that looks often, and closes what its source hardly covers."""
    options = {"WATCH_SECONDS": "0.2", "AUTO_CLOSE_HEADROOM": str(HEADROOM)}
    with running("--workers", "2", **options) as started:
        yield started


@pytest.fixture
def payable(watching: Service) -> Seller:
    seller = watching.seller()
    watching.chain.receive(seller.wallet)
    return seller


def funding_becomes(seller: Seller, channel: str, wanted: str) -> None:
    until(lambda: seller.session(channel)["funding"] == wanted)


def test_a_revoked_delegation_refuses_vouchers_until_it_is_approved_again(
    watching: Service, payable: Seller
) -> None:
    buyer = watching.buyer()
    buyer.fund(25 * USDC)
    assert payable.verify(buyer.pay(payable, "c", PRICE, 1))["valid"]
    funding_becomes(payable, "c", "verified")
    buyer.revoke()
    funding_becomes(payable, "c", "revoked")
    refused = payable.verify(buyer.pay(payable, "c", 2 * PRICE, 2))
    assert (refused["valid"], refused["code"]) == (False, "funding_revoked")
    buyer.approve(25 * USDC)
    funding_becomes(payable, "c", "verified")
    assert payable.verify(buyer.pay(payable, "c", 2 * PRICE, 2))["valid"]
    events = [event["type"] for event in payable.events() if event["channelId"] == "c"]
    assert events.count("funding_observed") == 3


def test_a_source_that_is_emptied_pays_what_was_promised_before_it_is_empty(
    watching: Service, payable: Seller
) -> None:
    """The buyer spends elsewhere until less than the operator's headroom is left."""
    buyer, chain = watching.buyer(), watching.chain
    buyer.fund(25 * USDC)
    assert payable.verify(buyer.pay(payable, "c", 3 * PRICE, 1))["valid"]
    assert payable.open(buyer, "unused").status_code == 201
    funding_becomes(payable, "c", "verified")
    assert payable.session("c")["state"] == "open"
    left = HEADROOM + 3 * PRICE - 1
    chain.call("surfnet_setTokenAccount", buyer.address, str(chain.mint), {"amount": left})
    settlement = until(lambda: payable.session("c")["settlement"])
    assert settled(payable, settlement["settlementId"], "settled")["amount"] == str(3 * PRICE)
    assert chain.balance(payable.wallet) == 3 * PRICE
    assert payable.session("unused")["state"] == "open"
    closes = [e["payload"] for e in payable.events() if e["type"] == "close_requested"]
    assert [close["requestedBy"] for close in closes] == ["auto:headroom"]
    assert payable.verify(buyer.pay(payable, "c", 4 * PRICE, 2))["code"] == "session_closed"


def test_what_the_watcher_does_is_counted(watching: Service, payable: Seller) -> None:
    assert payable.open(watching.buyer(), "c").status_code == 201

    def counted() -> bool:
        lines = watching.http.get("/metrics").text.splitlines()
        [line] = [one for one in lines if one.startswith("session_ledger_sessions_watched_total")]
        return float(line.split()[1]) > 0

    until(counted)


def anew(seller: Seller, service: Service) -> Seller:
    """The same seller, served by the next life."""
    return Seller(service, seller.token, seller.facts, seller.wallet)


def paid_of(seller: Seller, channel: str) -> dict[str, Any]:
    settlement = until(lambda: seller.session(channel)["settlement"])
    return settled(seller, settlement["settlementId"], "settled")


@pytest.mark.timeout(240)
@pytest.mark.campaign
def test_an_idle_timeout_outlives_the_process_that_knew_of_it() -> None:
    """`serve` is killed while the session is active, and its time passes under nobody's eyes."""
    options = {"WATCH_SECONDS": "60", "AUTO_CLOSE_IDLE_SECONDS": str(IDLE_SECONDS)}
    with TemporaryDirectory(prefix="session-ledger-") as directory:
        with serving(Path(directory), **options) as service:
            seller, buyer = service.seller(), service.buyer()
            service.chain.receive(seller.wallet)
            buyer.fund()
            idle, busy = _opened(seller, buyer, "idle"), _opened(seller, buyer, "busy")
            funding_becomes(seller, idle, "verified")
            service.process.kill()
            service.process.wait()
        with serving(Path(directory), **options) as service:
            seller = anew(seller, service)
            paid = paid_of(seller, idle)
            assert (paid["amount"], len(paid["attempts"])) == (str(PRICE), 1)
            assert paid_of(seller, busy)["amount"] == str(PRICE)
            assert service.chain.balance(seller.wallet) == 2 * PRICE
            closes = [e["payload"] for e in seller.events() if e["type"] == "close_requested"]
            assert {close["requestedBy"] for close in closes} == {"auto:idle"}


def _opened(seller: Seller, buyer: Buyer, channel: str) -> str:
    assert seller.verify(buyer.pay(seller, channel, PRICE, 1))["valid"]
    return channel


@pytest.mark.campaign
def test_the_worker_command_watches_where_serve_does_not() -> None:
    watching = {"WATCH_SECONDS": "0.2", "AUTO_CLOSE_AMOUNT": str(PRICE)}
    with running(RUN_WORKER="false", **watching) as service:
        seller, buyer = service.seller(), service.buyer()
        service.chain.receive(seller.wallet)
        buyer.fund()
        _opened(seller, buyer, "c")
        keys = service.data_dir / "keys"
        environment = {
            "DATABASE_URL": service.facts["databaseUrl"],
            "SOLANA_RPC_URL": service.facts["rpcUrl"],
            "SETTLEMENT_AUTHORITY": f"file:{keys / 'settlement-authority.json'}",
            "FEE_PAYER": f"file:{keys / 'fee-payer.json'}",
        }
        assert "session_ledger_sessions_watched_total 0.0" in service.http.get("/metrics").text
        worker = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "worker"],
            stdout=subprocess.DEVNULL,
            env={**os.environ, **watching, **environment},
        )
        try:
            assert paid_of(seller, "c")["amount"] == str(PRICE)
        finally:
            worker.terminate()
            assert worker.wait(30) == 0
        assert "session_ledger_sessions_watched_total 0.0" in service.http.get("/metrics").text
