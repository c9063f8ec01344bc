"""kill -9 of a buyer's process between sending and answer: it pays once, whatever was lost."""

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import SigningKey

from session_ledger.buyer import (
    AutoPay,
    FileStore,
    KeySigner,
    PaidWithoutAnswer,
    sync_autopay_client,
)
from tests.buyer_rig import listening, paid_application, session_of
from tests.e2e.running import PRICE, Seller, Service, running, seed

PAGES = 60
KILLS = 12
SEED = 7
_PROGRAM = Path(__file__).with_name("paying_client.py")


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running() as started:
        yield started


class Gate:
    """An application around another: holds payments back before it, or their answers after it."""

    def __init__(self, app: Any, where: str) -> None:
        self._app, self._where = app, where
        self.reached, self.open = threading.Event(), threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        paying = any(name == b"x-mpp-voucher" for name, _ in scope.get("headers", ()))
        if paying and self._where == "before":
            self._hold()

        async def held(message: Any) -> None:
            if paying and self._where == "after" and message["type"] == "http.response.start":
                self._hold()
            await send(message)

        await self._app(scope, receive, held)

    def _hold(self) -> None:
        self.reached.set()
        self.open.wait(30)


class Purchase:
    """A seller's application, a session, and the process that pays with it."""

    def __init__(self, service: Service, directory: Path) -> None:
        self.service = service
        self.seller: Seller = service.seller()
        self.recipient = str(self.seller.facts["recipient"])
        self.served: list[str] = []
        self.app = paid_application(
            service.url, self.seller.token, self.recipient, PRICE, self.served
        )
        self.store = directory / "purse.json"
        owner = KeySigner(SigningKey(seed(self.seller.facts["name"] + " buyer")))
        payer = session_of(service.url, owner, self.recipient, PRICE, store=FileStore(self.store))
        assert payer.session.key is not None
        self.key = payer.session.key
        payer.close()

    def start(self, url: str, first: int, pages: int) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, str(_PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        plan = {
            "key": bytes(self.key).hex(),
            "price": PRICE,
            "maxTotal": 100 * PRICE,
            "recipient": self.recipient,
            "store": str(self.store),
            "url": url,
            "first": first,
            "pages": pages,
        }
        process.stdin.write(json.dumps(plan) + "\n")
        process.stdin.close()
        return process

    def again(self) -> AutoPay:
        return AutoPay(
            network="localnet",
            session_key=self.key,
            max_payment_amount=PRICE,
            max_total=100 * PRICE,
            allowed_recipients=[self.recipient],
            store=FileStore(self.store),
        )

    def vouchers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for channel in self.seller.get("/v1/sessions").json()["sessions"]:
            path = f"/v1/sessions/{channel['channelId']}/vouchers"
            found += self.seller.get(path, limit=100).json()["vouchers"]
        return found


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_buyer_killed_between_sending_and_answer_pays_once(
    service: Service, tmp_path: Path, where: str
) -> None:
    purchase = Purchase(service, tmp_path)
    gate = Gate(purchase.app, where)
    with listening(gate) as url:
        process = purchase.start(url, 0, 1)
        assert gate.reached.wait(30)
        process.kill()
        assert (process.wait(30), process.stdout and process.stdout.read()) == (-9, "")
        assert process.stdout is not None
        process.stdout.close()
        gate.open.set()
        with purchase.again() as payer, sync_autopay_client(payer, timeout=30) as client:
            assert [info.sequence for info in payer.pending] == [1]
            with pytest.raises(PaidWithoutAnswer):
                client.get(f"{url}/paid?0")
            assert (payer.payment_count, payer.total_spent, payer.pending) == (1, PRICE, [])
    (voucher,) = purchase.vouchers()
    assert voucher["amountPaid"] == str(PRICE)
    assert purchase.served == ["0"]


def test_a_buyer_killed_again_and_again_pays_each_page_once(
    service: Service, tmp_path: Path
) -> None:
    chance, purchase = random.Random(SEED), Purchase(service, tmp_path)
    done: list[int] = []
    with listening(purchase.app) as url:
        for number in range(KILLS + 1):
            process = purchase.start(url, len(done), PAGES)
            assert process.stdout is not None
            if number < KILLS:
                first = process.stdout.readline()  # it is at work now
                time.sleep(chance.uniform(0, 0.05))
                process.kill()
                lines = first + process.stdout.read()
                process.wait(30)
            else:
                lines = process.stdout.read()
                assert process.wait(60) == 0
            process.stdout.close()
            done += [int(line.split()[0]) for line in lines.splitlines()]
    assert done == list(range(PAGES))
    vouchers = purchase.vouchers()
    assert [voucher["amountPaid"] for voucher in vouchers] == [str(PRICE)] * PAGES
    assert sorted(map(int, purchase.served)) == list(range(PAGES))
    with purchase.again() as payer:
        assert (payer.payment_count, payer.total_spent) == (PAGES, PAGES * PRICE)
